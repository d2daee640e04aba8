import pathlib

import pytest

from audit.spillway import Spillway
from audit.spool import Spool
from mesh.problems import Unavailable


def opened(folder: pathlib.Path) -> Spillway:
    return Spillway(Spool(folder / "one", max_bytes=100), Spool(folder / "two", max_bytes=200))


def drain(found: Spillway) -> list[bytes]:
    taken: list[bytes] = []
    while True:
        cursor, records = found.read(2)
        if not records:
            return taken
        taken += records
        found.ack(cursor, sequence=found.sequence + 1, previous=str(found.sequence))


def test_what_finds_no_room_spills_in_its_order(tmp_path: pathlib.Path) -> None:
    found = opened(tmp_path)
    sent = [bytes([number]) * 20 for number in range(8)]
    for record in sent[:6]:
        found.append([record])
    assert found.is_spilling
    # there is room in the first again, and nothing overtakes what spilled
    cursor, records = found.read(2)
    found.ack(cursor, sequence=1, previous="")
    found.append([sent[6]])
    found.close()
    again = opened(tmp_path)
    assert again.sequence == 1
    assert records + drain(again) == sent[:7]
    assert not again.is_spilling
    number = again.sequence
    again.append([sent[7]])
    assert again.waiting_bytes > 0
    assert drain(again) == [sent[7]]
    assert again.sequence == number + 1
    again.close()


def test_when_both_are_full_nothing_is_taken(tmp_path: pathlib.Path) -> None:
    found = opened(tmp_path)
    with pytest.raises(Unavailable):
        found.append([bytes(500)])
    assert drain(found) == []
    found.close()


def test_numbers_begin_anew_over_both(tmp_path: pathlib.Path) -> None:
    found = opened(tmp_path)
    for _ in range(6):
        found.append([bytes(20)])
    drain(found)
    found.begin_anew()
    assert (found.sequence, found.previous) == (0, "")
    found.close()


def test_what_is_broken_in_the_second_is_stepped_over(tmp_path: pathlib.Path) -> None:
    found = opened(tmp_path)
    for number in range(6):
        found.append([bytes([number]) * 20])
    (segment,) = (tmp_path / "two").glob("*.log")
    data = bytearray(segment.read_bytes())
    data[15] ^= 1
    segment.write_bytes(data)
    taken = []
    while True:
        try:
            cursor, records = found.read(1)
        except Exception:  # noqa: BLE001  the spool's own test knows which
            assert found.step_over() is not None
            continue
        if not records:
            break
        taken += records
        found.ack(cursor, sequence=found.sequence + 1, previous="")
    assert taken == [bytes([number]) * 20 for number in (0, 1, 2, 4, 5)]
    assert found.step_over() is None
    found.close()
