import hashlib
import json
import pathlib
import subprocess
import sys
import tempfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit.spool import Cursor, Damage, Spool
from mesh.problems import Problem
from tests.audit.making import make
from tests.examples import examples

ROOT = pathlib.Path(__file__).resolve().parents[2]
HEAD = 12


def code_of(call: object) -> tuple[str, dict[str, object]]:
    assert callable(call)
    with pytest.raises(Problem) as caught:
        call()
    return caught.value.code, caught.value.facts


def everything(spool: Spool) -> list[bytes]:
    found: list[bytes] = []
    while True:
        cursor, records = spool.read()
        if not records:
            return found
        found += records
        spool.ack(cursor, sequence=spool.sequence + 1, previous="x")


def segments(directory: pathlib.Path) -> list[pathlib.Path]:
    return sorted(directory.glob("*.log"))


def test_what_was_appended_is_read_in_order_after_a_restart(tmp_path: pathlib.Path) -> None:
    spool = Spool(tmp_path, segment_bytes=100)
    sent = [b"x" * (number % 50) for number in range(200)]
    for start in range(0, 200, 7):
        spool.append(sent[start : start + 7])
    spool.close()
    again = Spool(tmp_path)
    assert everything(again) == sent
    assert len(segments(tmp_path)) == 1
    again.close()


def test_what_was_not_acknowledged_is_read_again(tmp_path: pathlib.Path) -> None:
    spool = Spool(tmp_path)
    spool.append([b"a", b"b", b"c"])
    cursor, first = spool.read(2)
    assert (first, spool.read(2)[1]) == ([b"a", b"b"], [b"a", b"b"])
    spool.ack(cursor, sequence=1, previous="d1")
    spool.close()
    again = Spool(tmp_path)
    assert (again.read()[1], again.sequence, again.previous) == ([b"c"], 1, "d1")
    again.close()


def test_a_batch_ends_at_its_bounds(tmp_path: pathlib.Path) -> None:
    spool = Spool(tmp_path, segment_bytes=300)
    spool.append([bytes(100)] * 5)
    spool.append([bytes(100)] * 5)
    assert len(spool.read(3)[1]) == 3
    assert len(spool.read(limit_bytes=250)[1]) == 2
    assert len(spool.read(limit_bytes=1)[1]) == 1
    assert len(spool.read(limit_bytes=112 * 7)[1]) == 7
    cursor, records = spool.read(limit_bytes=112 * 5)
    spool.ack(cursor, sequence=1, previous="")
    assert len(records) + len(spool.read()[1]) == 10
    spool.close()


def test_a_full_spool_takes_no_more_and_goes_on_when_there_is_room(tmp_path: pathlib.Path) -> None:
    spool = Spool(tmp_path, segment_bytes=50, max_bytes=200)
    for number in range(4):
        spool.append([bytes([number]) * 30])
    assert code_of(lambda: spool.append([bytes(30)]))[0] == "LM6011"
    cursor, _ = spool.read(2)
    spool.ack(cursor, sequence=1, previous="")
    spool.append([b"\x04" * 30])
    assert [record[0] for record in everything(spool)] == [2, 3, 4]
    assert spool.waiting_bytes == 0
    spool.close()


def test_acknowledged_segments_are_deleted(tmp_path: pathlib.Path) -> None:
    spool = Spool(tmp_path, segment_bytes=50)
    for _ in range(5):
        spool.append([bytes(30)])
    assert len(segments(tmp_path)) == 5
    everything(spool)
    assert len(segments(tmp_path)) == 1
    spool.close()


def test_a_cursor_moves_forwards(tmp_path: pathlib.Path) -> None:
    spool = Spool(tmp_path)
    spool.append([b"a"])
    cursor, _ = spool.read()
    spool.ack(cursor, sequence=1, previous="")
    with pytest.raises(ValueError, match="forwards"):
        spool.ack(Cursor(0, 0), sequence=2, previous="")
    spool.close()


def test_one_process_at_a_time(tmp_path: pathlib.Path) -> None:
    spool = Spool(tmp_path)
    assert code_of(lambda: Spool(tmp_path))[0] == "LM6013"
    spool.close()
    Spool(tmp_path).close()


RECORDS = [b"first record", b"", b"the third one, somewhat longer", bytes(40), b"last"]
STARTS = [sum(HEAD + len(record) for record in RECORDS[:place]) for place in range(len(RECORDS) + 1)]


def filled(directory: pathlib.Path) -> pathlib.Path:
    spool = Spool(directory)
    spool.append(RECORDS)
    spool.close()
    return segments(directory)[0]


def drained(spool: Spool) -> tuple[list[bytes], list[Damage]]:
    """Everything that a spool gives, and what was broken in between."""
    found: list[bytes] = []
    damages = list(spool.damages)
    while True:
        try:
            cursor, records = spool.read()
        except Problem as problem:
            assert problem.code == "LM6010"
            damage = spool.step_over()
            assert damage is not None
            damages.append(damage)
            continue
        if not records:
            return found, damages
        found += records
        spool.ack(cursor, sequence=spool.sequence + 1, previous="x")


@settings(max_examples=examples(40), deadline=None)
@given(st.integers(0, STARTS[-1] - 1), st.integers(1, 255))
def test_a_changed_byte_costs_one_record_and_is_said(place: int, change: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = filled(pathlib.Path(folder))
        data = bytearray(path.read_bytes())
        data[place] ^= change
        path.write_bytes(data)
        spool = Spool(pathlib.Path(folder))
        spool.append([b"after"])
        found, (damage,) = drained(spool)
        (broken,) = [number for number in range(len(RECORDS)) if STARTS[number] <= place < STARTS[number + 1]]
        assert found == [*RECORDS[:broken], *RECORDS[broken + 1 :], b"after"]
        assert (damage.segment, damage.offset) == (path.name, STARTS[broken])
        kept = pathlib.Path(folder) / "damaged" / f"{path.name}-{damage.offset}"
        assert kept.read_bytes() == bytes(data[STARTS[broken] : STARTS[broken + 1]])
        assert hashlib.sha256(kept.read_bytes()).hexdigest() == damage.sha256
        spool.append([b"more"])
        assert everything(spool) == [b"more"]
        spool.close()


@settings(max_examples=examples(60), deadline=None)
@given(st.integers(0, STARTS[-1]), st.sampled_from([b"", bytes(512), bytes(5000)]))
def test_a_torn_tail_is_cut_off_and_the_rest_kept(size: int, unwritten: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = filled(pathlib.Path(folder))
        path.write_bytes(path.read_bytes()[:size] + unwritten)
        spool = Spool(pathlib.Path(folder))
        whole = max(place for place, start in enumerate(STARTS) if start <= size)
        found = everything(spool)
        # zeros may complete a frame that ends in zeros
        assert found[:whole] == RECORDS[:whole]
        assert found == RECORDS[: len(found)]
        spool.append([b"after"])
        assert everything(spool) == [b"after"]
        spool.close()


@given(st.lists(st.binary(max_size=200), min_size=1, max_size=3), st.binary(max_size=60) | st.none())
def test_no_bytes_stop_a_spool(segments_: list[bytes], cursor: bytes | None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for number, data in enumerate(segments_):
            (pathlib.Path(folder) / f"{number:012d}.log").write_bytes(data)
        if cursor is not None:
            (pathlib.Path(folder) / "cursor").write_bytes(cursor)
        spool = Spool(pathlib.Path(folder))
        spool.append([b"after"])
        assert drained(spool)[0][-1] == b"after"
        spool.close()
        again = Spool(pathlib.Path(folder))
        assert drained(again) == ([], [])
        again.close()


def test_damage_in_an_earlier_segment_is_reported_when_it_is_read(tmp_path: pathlib.Path) -> None:
    spool = Spool(tmp_path, segment_bytes=50)
    for _ in range(3):
        spool.append([bytes(30)])
    path = segments(tmp_path)[1]
    path.write_bytes(path.read_bytes()[:-1])
    spool.close()
    again = Spool(tmp_path)
    cursor, records = again.read(1)
    assert records == [bytes(30)]
    again.ack(cursor, sequence=1, previous="")
    assert code_of(again.read) == ("LM6010", {"segment": path.name, "offset": 0})
    again.close()


def test_a_missing_segment_is_said_and_the_others_go_on(tmp_path: pathlib.Path) -> None:
    spool = Spool(tmp_path, segment_bytes=50)
    for number in range(3):
        spool.append([bytes([number]) * 30])
    spool.close()
    path = segments(tmp_path)[1]
    path.unlink()
    again = Spool(tmp_path)
    assert drained(again) == (
        [bytes(30), bytes([2]) * 30], [Damage(segment=path.name, offset=0, size=0, sha256="")],
    )  # fmt: skip
    again.close()


def test_without_its_first_segment_a_spool_goes_on_with_the_next(tmp_path: pathlib.Path) -> None:
    spool = Spool(tmp_path, segment_bytes=50)
    for number in range(2):
        spool.append([bytes([number]) * 30])
    spool.close()
    segments(tmp_path)[0].unlink()
    again = Spool(tmp_path)
    assert (drained(again)[0], len(again.damages)) == ([bytes([1]) * 30], 1)
    again.close()


def test_a_segment_that_goes_while_the_spool_is_open_is_stepped_over(tmp_path: pathlib.Path) -> None:
    spool = Spool(tmp_path)
    spool.append([b"gone"])
    segments(tmp_path)[0].unlink()
    assert drained(spool)[0] == []
    spool.append([b"after"])
    assert everything(spool) == [b"after"]
    spool.close()


@given(st.binary(max_size=60) | st.recursive(st.none() | st.integers(), st.lists).map(lambda x: json.dumps(x).encode()))
def test_a_broken_cursor_costs_nothing(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        spool = Spool(pathlib.Path(folder))
        spool.append([b"a", b"b"])
        cursor, _ = spool.read(1)
        spool.ack(cursor, sequence=1, previous="x")
        spool.close()
        (pathlib.Path(folder) / "cursor").write_bytes(data)
        again = Spool(pathlib.Path(folder))
        # what the server has is sent again, as a first batch
        assert (again.sequence, again.previous) == (0, "")
        found, (damage,) = drained(again)
        assert (found, damage.segment, damage.size) == ([b"a", b"b"], "cursor", len(data))
        again.close()


def test_a_changed_cursor_skips_nothing(tmp_path: pathlib.Path) -> None:
    spool = Spool(tmp_path)
    spool.append([bytes(30)] * 3)
    cursor, _ = spool.read(1)
    spool.ack(cursor, sequence=1, previous="")
    spool.close()
    text = (tmp_path / "cursor").read_text()
    (tmp_path / "cursor").write_text(text.replace('"offset": 42', '"offset": 84'))
    again = Spool(tmp_path)
    assert everything(again) == [bytes(30)] * 3
    again.close()


def test_batches_that_begin_anew_lose_nothing(tmp_path: pathlib.Path) -> None:
    spool = Spool(tmp_path)
    spool.append([b"a", b"b"])
    cursor, _ = spool.read(1)
    spool.ack(cursor, sequence=7, previous="x")
    spool.begin_anew()
    spool.close()
    again = Spool(tmp_path)
    assert (again.sequence, again.previous, everything(again)) == (0, "", [b"b"])
    assert again.step_over() is None
    again.close()


def test_a_disk_that_lost_what_the_server_has_skips_nothing_new(tmp_path: pathlib.Path) -> None:
    spool = Spool(tmp_path)
    spool.append([bytes(30)] * 3, durable=False)
    cursor, _ = spool.read()
    spool.ack(cursor, sequence=1, previous="")
    spool.close()
    for path in segments(tmp_path):
        path.write_bytes(b"")
    for turn in range(3):
        again = Spool(tmp_path)
        assert everything(again) == []
        again.append([b"%d" % turn])
        assert again.read()[1] == [b"%d" % turn]
        everything(again)
        again.close()


@pytest.mark.system
def test_a_kill_before_any_write_loses_no_acknowledged_record(tmp_path: pathlib.Path) -> None:
    said = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "audit" / "crashing.py"), "spool", str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    runs = [json.loads(line) for line in said.stdout.splitlines()]
    assert len(runs) > 20
    for run in runs:
        spool = Spool(tmp_path / str(run["point"]))
        taken = 5 * spool.sequence
        found = everything(spool)
        sent = [make(number) for pair in range(12) for number in (pair, 100 + pair)]
        assert found == sent[taken : taken + len(found)], run
        assert taken + len(found) >= 2 * run["acknowledged"], run
        spool.close()


FULL = """
import pathlib, resource, sys
from audit.spool import Spool
from mesh.problems import Unavailable

spool, taken = Spool(pathlib.Path(sys.argv[1])), 0
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, resource.RLIM_INFINITY))
try:
    while True:
        spool.append([b"%05d" % taken * 20])
        taken += 1
except Unavailable as problem:
    assert problem.code == "LM6011", problem
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
for _ in range(10):
    spool.append([b"%05d" % taken * 20])
    taken += 1
print(taken)
"""


@pytest.mark.system
def test_a_disk_that_is_full_takes_nothing_in_half_and_goes_on_when_there_is_room(tmp_path: pathlib.Path) -> None:
    said = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, check=True, cwd=ROOT
    )
    taken = int(said.stdout)
    assert taken > 20
    spool = Spool(tmp_path)
    assert everything(spool) == [b"%05d" % number * 20 for number in range(taken)]
    assert spool.damages == []
    spool.close()
