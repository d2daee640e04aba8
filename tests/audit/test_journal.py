import os
import pathlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit.journal import NAMES, ROOM, Journal
from tests.examples import examples

SECRET = b"s" * 32
NOTE = b"origin\n3\nAAAA\n\n\xe2\x80\x94 origin BBBB\n"


def opened(directory: pathlib.Path, secret: bytes = SECRET) -> Journal:
    return Journal(directory, secret)


def batches(directory: pathlib.Path) -> list[list[tuple[bytes, ...]]]:
    journal = opened(directory)
    found = [list(turn.batches) for turn in journal.read()]
    journal.close()
    return found


@settings(max_examples=examples(50), deadline=None)
@given(st.lists(st.lists(st.binary(max_size=300), min_size=1, max_size=5), max_size=6))
def test_what_was_added_is_read(found: list[list[bytes]]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        directory = pathlib.Path(folder)
        journal = opened(directory)
        journal.begin(NOTE, is_settled=True)
        for batch in found:
            journal.add(batch)
        journal.close()
        assert batches(directory) == [[tuple(batch) for batch in found]]


def test_a_new_journal_has_no_turn(tmp_path: pathlib.Path) -> None:
    assert batches(tmp_path) == []
    assert [(tmp_path / name).stat().st_size for name in NAMES] == [ROOM, ROOM]
    assert {(tmp_path / name).stat().st_mode & 0o777 for name in NAMES} == {0o600}


def test_a_write_within_the_room_changes_no_length(tmp_path: pathlib.Path) -> None:
    journal = opened(tmp_path)
    journal.begin(NOTE, is_settled=True)
    while not journal.is_full:
        journal.add([bytes(1000)])
    journal.close()
    assert [(tmp_path / name).stat().st_size for name in NAMES] == [ROOM, ROOM]


def test_the_last_two_turns_count_until_one_is_settled(tmp_path: pathlib.Path) -> None:
    journal = opened(tmp_path)
    for number in range(3):
        journal.begin(NOTE, is_settled=False)
        journal.add([b"%d" % number])
    assert [turn.number for turn in journal.read()] == [1, 2]
    assert batches(tmp_path) == [[(b"1",)], [(b"2",)]]
    journal.begin(NOTE, is_settled=True)
    assert batches(tmp_path) == [[]]
    journal.close()


def test_what_an_earlier_turn_left_is_no_batch_of_this_one(tmp_path: pathlib.Path) -> None:
    journal = opened(tmp_path)
    for _ in range(2):
        # twice in the same file, under the same checkpoint and with the same first batch
        journal.begin(NOTE, is_settled=False)
        journal.add([b"same"])
        journal.add([b"left over"])
        journal.begin(NOTE, is_settled=True)
    journal.begin(NOTE, is_settled=True)
    journal.add([b"same"])
    journal.close()
    assert batches(tmp_path) == [[(b"same",)]]


@pytest.mark.parametrize("cut", [1, 20, 50, 300])
def test_a_torn_batch_ends_the_turn_before_it(tmp_path: pathlib.Path, cut: int) -> None:
    journal = opened(tmp_path)
    journal.begin(NOTE, is_settled=True)
    journal.add([b"first"])
    begin = journal._end
    journal.add([b"x" * 400])
    end = journal._end
    journal.close()
    with (tmp_path / NAMES[0]).open("r+b") as file:
        file.seek(end - cut)
        torn = bytes(byte ^ 0xFF for byte in file.read(cut))  # a zero may be what stood there
        file.seek(end - cut)
        file.write(torn)
    assert end - cut > begin
    assert batches(tmp_path) == [[(b"first",)]]


def test_a_changed_bit_ends_the_turn_or_undoes_it(tmp_path: pathlib.Path) -> None:
    journal = opened(tmp_path)
    journal.begin(NOTE, is_settled=True)
    journal.add([b"one"])
    journal.add([b"two"])
    end = journal._end
    journal.close()
    whole = (tmp_path / NAMES[0]).read_bytes()
    for place in range(end):
        changed = bytearray(whole)
        changed[place] ^= 1
        (tmp_path / NAMES[0]).write_bytes(changed)
        assert batches(tmp_path) in ([], [[]], [[(b"one",)]]), place


def test_nobody_without_the_secret_puts_anything_in(tmp_path: pathlib.Path) -> None:
    forger = opened(tmp_path, b"other" * 8)
    forger.begin(NOTE, is_settled=True)
    forger.add([b"forged"])
    forger.close()
    assert batches(tmp_path) == []


def test_a_batch_larger_than_the_room_is_taken(tmp_path: pathlib.Path) -> None:
    journal = opened(tmp_path)
    journal.begin(NOTE, is_settled=True)
    journal.add([b"x" * 60_000] * 20)
    journal.close()
    assert batches(tmp_path) == [[(b"x" * 60_000,) * 20]]


def test_a_link_in_the_place_of_a_file_is_refused(tmp_path: pathlib.Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"")
    os.symlink(tmp_path / "elsewhere", tmp_path / NAMES[1])
    with pytest.raises(OSError, match="symbolic"):
        opened(tmp_path)
    assert (tmp_path / "elsewhere").read_bytes() == b""
