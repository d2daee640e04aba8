import json
import os
import pathlib
import random
import signal
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit.checkpoint import VerifierKey, read_checkpoint
from audit.log import Log
from audit.merkle import consistency_proof, leaf_hash, verify_consistency
from audit.reader import Reader
from audit.tiles import Read, TileReader, read_from
from audit.verify import verify_log
from mesh.problems import Problem
from tests.audit.losing import Disk
from tests.audit.making import KEY, ORIGIN, OTHER_KEY, id_of, make, make_log, open_log
from tests.examples import examples

ROOT = pathlib.Path(__file__).resolve().parents[2]


def code_of(call: object) -> str:
    assert callable(call)
    with pytest.raises(Problem) as caught:
        call()
    return caught.value.code


def contents(directory: pathlib.Path) -> list[bytes]:
    return [data for _, data in Reader(directory, (directory / "key.pub").read_text()).records()]


@settings(max_examples=examples(15), deadline=None)
@given(st.lists(st.integers(0, 400), max_size=6))
def test_any_batches_make_the_tree_of_their_records(sizes: list[int]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        directory = pathlib.Path(folder)
        key = make_log(directory, *sizes)
        found = verify_log(directory, key)
        assert (found.size, found.findings) == (sum(sizes), ())
        assert contents(directory) == [make(number) for number in range(sum(sizes))]
        again = open_log(directory)
        assert (again.size, again.root) == (found.size, found.root)
        again.close()


def test_every_checkpoint_continues_the_one_before(tmp_path: pathlib.Path) -> None:
    log = open_log(tmp_path)
    verifier = VerifierKey(name=ORIGIN, key=KEY.public_key())
    before = read_checkpoint((tmp_path / "checkpoint").read_bytes(), verifier)
    number = 0
    for size in (1, 2, 254, 300, 1):
        log.append([make(index) for index in range(number, number + size)])
        number += size
        reader = Reader(tmp_path, str(verifier))
        now = reader.checkpoint
        proof = consistency_proof(reader.tiles.subtree, before.size, now.size) if before.size else []
        assert verify_consistency(before.size, now.size, before.root, now.root, proof)
        before = now
    log.close()


def test_a_second_delivery_changes_nothing(tmp_path: pathlib.Path) -> None:
    log = open_log(tmp_path)
    assert log.append([make(1), make(1), make(2)]) == 2
    note = (tmp_path / "checkpoint").read_bytes()
    assert log.append([make(2), make(1)]) == 0
    assert (tmp_path / "checkpoint").read_bytes() == note
    log.close()
    again = open_log(tmp_path)
    assert again.append([make(1), make(3)]) == 1
    assert contents(tmp_path) == [make(1), make(2), make(3)]
    again.close()


def test_nobody_suppresses_a_record_by_using_its_id_first(tmp_path: pathlib.Path) -> None:
    log = open_log(tmp_path)
    log.append([make(1, decision="allow")])
    assert log.append([make(1, decision="deny")]) == 1
    log.close()
    key = (tmp_path / "key.pub").read_text()
    assert [data for _, data in Reader(tmp_path, key).find_all(id_of(1))] == contents(tmp_path)
    found = verify_log(tmp_path, key)
    assert (found.is_good, [item.code for item in found.findings]) == (True, ["LM6036"])


def test_an_id_inside_a_record_is_not_its_id(tmp_path: pathlib.Path) -> None:
    log = open_log(tmp_path)
    assert log.append([make(1, facts={"id": id_of(2)}), make(2)]) == 2
    log.close()
    again = open_log(tmp_path)
    assert again.append([make(2), make(1, facts={"id": id_of(2)})]) == 0
    again.close()


def test_a_batch_with_a_malformed_record_is_not_taken(tmp_path: pathlib.Path) -> None:
    log = open_log(tmp_path)
    assert code_of(lambda: log.append([make(1), b'{"id":"x"}'])) == "LM6002"
    assert log.size == 0
    assert log.append([make(1)]) == 1
    log.close()


def test_partial_tiles_go_when_the_full_one_is_there(tmp_path: pathlib.Path) -> None:
    make_log(tmp_path, 100, 100, 100)
    files = (path for path in (tmp_path / "tile").rglob("*") if path.is_file())
    assert sorted(path.relative_to(tmp_path).as_posix() for path in files) == [
        "tile/0/000", "tile/0/001.p/44", "tile/1/000.p/1", "tile/entries/000", "tile/entries/001.p/44",
    ]  # fmt: skip


def test_nobody_else_may_read_it(tmp_path: pathlib.Path) -> None:
    make_log(tmp_path / "audit", 300)
    assert (tmp_path / "audit").stat().st_mode & 0o777 == 0o700


def test_the_log_of_another_key_or_name_is_not_opened(tmp_path: pathlib.Path) -> None:
    make_log(tmp_path, 1)
    assert code_of(lambda: Log.open(tmp_path, key=OTHER_KEY, origin=ORIGIN)) == "LM6032"
    assert code_of(lambda: Log.open(tmp_path, key=KEY, origin="other.test/audit")) == "LM6032"
    open_log(tmp_path).close()


def test_a_log_whose_checkpoint_is_gone_does_not_begin_anew(tmp_path: pathlib.Path) -> None:
    make_log(tmp_path, 1)
    (tmp_path / "checkpoint").unlink()
    assert code_of(lambda: open_log(tmp_path)) == "LM6024"


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("tile/0/001.p/44", "LM6033"),
        ("tile/1/000.p/1", "LM6033"),
        ("tile/entries/000", "LM6034"),
        ("tile/0/000", "LM6034"),
    ],
)
def test_a_changed_log_is_not_continued(tmp_path: pathlib.Path, path: str, code: str) -> None:
    make_log(tmp_path, 300)
    data = bytearray((tmp_path / path).read_bytes())
    data[20] ^= 1
    (tmp_path / path).write_bytes(data)
    assert code_of(lambda: open_log(tmp_path)) == code


def reading(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files of logs that are read from now on."""
    found: list[str] = []

    def listen(directory: pathlib.Path) -> Read:
        read = read_from(directory)

        def listening(path: str) -> bytes | None:
            found.append(path)
            return read(path)

        return listening

    monkeypatch.setattr("audit.log.read_from", listen)
    return found


def test_a_start_reads_the_edge_and_the_newest_records_alone(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 80 * 256 + 7
    log = open_log(tmp_path)
    log.append([make(number) for number in range(size)])
    log.close()
    read = reading(monkeypatch)
    again = open_log(tmp_path)
    assert again.size == size
    assert len({path for path in read if path.startswith("tile/entries/")}) == 16
    assert len(read) < 60
    # and what was delivered long ago is known all the same
    assert again.append([make(3), make(256 * 40), make(size)]) == 1
    again.close()
    assert verify_log(tmp_path, (tmp_path / "key.pub").read_text()).findings == ()


def test_a_record_is_dropped_for_being_in_the_log_and_for_nothing_that_a_file_says(tmp_path: pathlib.Path) -> None:
    """Whoever can write to the disk, and knows a record before it comes, does not have it dropped."""
    make_log(tmp_path, 600)
    data = make(5000)
    leaf = leaf_hash(data)
    log = open_log(tmp_path)
    # the file says where the record stands, and the tile there says so too
    log._seen.add(leaf, data, 7)
    path = tmp_path / "tile" / "0" / "000"
    tile = bytearray(path.read_bytes())
    tile[7 * 32 : 8 * 32] = leaf
    path.write_bytes(tile)
    assert log.append([data]) == 1
    log.close()
    assert contents(tmp_path)[-1] == data


def test_without_the_file_that_says_so_records_are_known_by_reading_them(tmp_path: pathlib.Path) -> None:
    make_log(tmp_path, 600)
    (tmp_path / "seen.db").unlink()
    log = open_log(tmp_path)
    assert log.append([make(0), make(599), make(600)]) == 1
    log.close()


def test_a_broken_file_of_what_was_seen_heals(tmp_path: pathlib.Path) -> None:
    make_log(tmp_path, 600)
    log = open_log(tmp_path)
    path = tmp_path / "seen.db"
    data = path.read_bytes()
    path.write_bytes(data[:4096] + b"\xff" * (len(data) - 4096))
    batch = [make(1), make(700)]
    assert code_of(lambda: log.held(batch, [leaf_hash(item) for item in batch])) == "LM6023"
    assert log.held(batch, [leaf_hash(item) for item in batch]) == [0]
    assert log.append(batch) == 1
    log.close()
    assert verify_log(tmp_path, (tmp_path / "key.pub").read_text()).findings == ()


def test_the_log_that_is_opened_last_is_the_writer(tmp_path: pathlib.Path) -> None:
    first = open_log(tmp_path)
    second = open_log(tmp_path)
    assert code_of(lambda: first.append([make(1)])) == "LM6022"
    assert second.append([make(1)]) == 1
    second.close()


def test_a_second_process_is_refused(tmp_path: pathlib.Path) -> None:
    log = open_log(tmp_path)
    script = (
        f"import sys, pathlib; sys.path.insert(0, {str(ROOT)!r})\n"
        "from tests.audit.making import open_log\n"
        "from mesh.problems import Problem\n"
        "try: open_log(pathlib.Path(sys.argv[1]))\n"
        "except Problem as problem: print(problem.code)\n"
    )
    call = [sys.executable, "-c", script, str(tmp_path)]
    assert subprocess.run(call, capture_output=True, text=True, check=True).stdout == "LM6022\n"
    log.close()
    assert subprocess.run(call, capture_output=True, text=True, check=True).stdout == ""


def test_a_disk_that_refuses_loses_nothing_and_repeats_nothing(tmp_path: pathlib.Path) -> None:
    log = open_log(tmp_path)
    log.append([make(1)])
    # a file where a folder has to be: the tiles of the batch cannot all be written
    (tmp_path / "tile" / "entries" / "000.p").rename(tmp_path / "aside")
    (tmp_path / "tile" / "entries" / "000.p").write_bytes(b"")
    assert code_of(lambda: log.append([make(2), make(3)])) == "LM6023"
    (tmp_path / "tile" / "entries" / "000.p").unlink()
    (tmp_path / "aside").rename(tmp_path / "tile" / "entries" / "000.p")
    # those two were durable before the tiles were refused: they are in the log already
    assert log.append([make(2), make(3), make(4)]) == 1
    log.close()
    assert contents(tmp_path) == [make(1), make(2), make(3), make(4)]
    assert verify_log(tmp_path, (tmp_path / "key.pub").read_text()).is_good


def test_the_records_from_an_index_on(tmp_path: pathlib.Path) -> None:
    make_log(tmp_path, 300)
    log = open_log(tmp_path)
    assert [index for index, _ in log.records(298)] == [298, 299]
    assert list(log.records(300)) == []
    log.close()


@pytest.mark.system
@pytest.mark.slow
def test_a_kill_before_any_write_loses_no_acknowledged_record(tmp_path: pathlib.Path) -> None:
    said = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "audit" / "crashing.py"), "log", str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    runs = [json.loads(line) for line in said.stdout.splitlines()]
    assert len(runs) > 50
    total = 559
    for run in runs:
        directory = tmp_path / str(run["point"])
        seen = None
        if (directory / "checkpoint").exists():
            seen = Reader(directory, str(VerifierKey(name=ORIGIN, key=KEY.public_key()))).checkpoint
            assert seen.size >= run["acknowledged"]
        log = open_log(directory)
        assert log.size >= run["acknowledged"]
        # the sender sends again what nobody acknowledged to it
        log.append([make(number) for number in range(run["acknowledged"], total)])
        log.close()
        assert contents(directory) == [make(number) for number in range(total)], run
        found = Reader(directory, (directory / "key.pub").read_text())
        assert verify_log(directory, (directory / "key.pub").read_text()).is_good
        if seen is not None and seen.size:
            proof = consistency_proof(found.tiles.subtree, seen.size, total)
            assert verify_consistency(seen.size, total, seen.root, found.checkpoint.root, proof), run


@pytest.mark.system
def test_a_kill_at_a_moment_of_its_own_loses_no_acknowledged_record(tmp_path: pathlib.Path) -> None:
    script = (
        f"import sys, pathlib, itertools; sys.path.insert(0, {str(ROOT)!r})\n"
        "from tests.audit.making import make, open_log\n"
        "log = open_log(pathlib.Path(sys.argv[1]))\n"
        "for number in itertools.count(log.size):\n"
        "    log.append([make(number)])\n"
        "    print(number, flush=True)\n"
    )
    acknowledged = -1
    for turn in range(3):
        process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for _ in range(20 + turn):
            acknowledged = int(process.stdout.readline())
        os.kill(process.pid, signal.SIGKILL)
        rest = process.stdout.read().split("\n")[:-1]
        acknowledged = int(rest[-1]) if rest else acknowledged
        process.wait()
        process.stdout.close()
        found = contents(tmp_path)
        assert acknowledged + 1 <= len(found) <= acknowledged + 2
        assert found == [make(number) for number in range(len(found))]
        assert verify_log(tmp_path, (tmp_path / "key.pub").read_text()).is_good


def again_tiles(directory: pathlib.Path) -> TileReader:
    return Reader(directory, (directory / "key.pub").read_text()).tiles


@pytest.mark.parametrize("is_in_background", [False, True])
@pytest.mark.parametrize("seed", range(examples(8)))
def test_a_loss_of_power_loses_no_acknowledged_record(
    tmp_path: pathlib.Path, seed: int, *, is_in_background: bool
) -> None:
    chance = random.Random(seed)
    before, after = tmp_path / "before", tmp_path / "after"
    after.mkdir()
    with Disk(before) as disk:
        # turns of a few batches: some are settled by then, or half
        log = Log.open(before, key=KEY, origin=ORIGIN, room=30_000, is_in_background=is_in_background)
        number = 0
        for size in chance.choices([1, 1, 2, 40, 130], k=chance.randint(1, 14)):
            log.append([make(index) for index in range(number, number + size)])
            number += size
        verifier = VerifierKey(name=ORIGIN, key=KEY.public_key())
        seen = Reader(before, str(verifier)).checkpoint
        disk.lose_power(after, chance.randrange)
        log.close()
    again = open_log(after)
    assert (again.size, again.root) == (number, log.root)
    # no reader saw what is not in it
    proof = consistency_proof(again_tiles(after).subtree, seen.size, number) if seen.size else []
    assert verify_consistency(seen.size, number, seen.root, again.root, proof)
    # nothing that could not be settled is left, and the log goes on
    assert verify_log(after, str(verifier)).findings == ()
    assert again.append([make(0), make(number)]) == 1
    again.close()
    assert contents(after) == [make(index) for index in range(number + 1)]
    assert verify_log(after, str(verifier)).findings == ()


def test_in_the_background_readers_see_all_that_was_appended(tmp_path: pathlib.Path) -> None:
    log = Log.open(tmp_path, key=KEY, origin=ORIGIN, room=20_000, is_in_background=True)
    for number in range(300):
        log.append([make(number)])
        if number % 70 == 0:
            assert [index for index, _ in log.records(number)] == [number]
    log.close()
    assert contents(tmp_path) == [make(number) for number in range(300)]
    assert verify_log(tmp_path, (tmp_path / "key.pub").read_text()).findings == ()


def test_without_its_journal_a_log_that_was_closed_is_whole(tmp_path: pathlib.Path) -> None:
    log = open_log(tmp_path, room=4000)
    for number in range(40):
        log.append([make(number)])
    log.close()
    for path in tmp_path.glob("journal.*"):
        path.unlink()
    again = open_log(tmp_path)
    assert again.size == 40
    again.close()


def test_a_copy_whose_journal_is_older_than_its_checkpoint_is_whole(tmp_path: pathlib.Path) -> None:
    import shutil

    log = open_log(tmp_path / "a")
    log.append([make(0)])
    shutil.copytree(tmp_path / "a", tmp_path / "b", ignore=shutil.ignore_patterns("tile", "checkpoint"))
    log.append([make(1)])
    shutil.copytree(tmp_path / "a" / "tile", tmp_path / "b" / "tile")
    shutil.copy(tmp_path / "a" / "checkpoint", tmp_path / "b" / "checkpoint")
    log.close()
    again = open_log(tmp_path / "b")
    assert again.size == 2
    again.close()


def test_a_journal_of_another_history_is_not_followed(tmp_path: pathlib.Path) -> None:
    """Two logs of one key: neither's journal goes on with the other's tree."""
    import shutil

    for name, number in (("a", 1), ("b", 2)):
        log = open_log(tmp_path / name)
        log.append([make(number)])
        shutil.copytree(tmp_path / name, tmp_path / f"{name}-killed")
        log.close()
    for path in (tmp_path / "a-killed").glob("journal.*"):
        shutil.copy(path, tmp_path / "b-killed")
    # as far as the checkpoint that is there goes, the log is whole
    log = open_log(tmp_path / "b-killed")
    assert contents(tmp_path / "b-killed") == [make(2)]
    log.close()
    (tmp_path / "b" / "checkpoint").write_bytes((tmp_path / "a" / "checkpoint").read_bytes())
    assert code_of(lambda: open_log(tmp_path / "b")) == "LM6033"


def test_records_that_are_made_here_are_the_same_records(tmp_path: pathlib.Path) -> None:
    """What `append_made` writes is byte for byte what `append` takes."""
    log = open_log(tmp_path)
    records = [make(number) for number in range(300)]
    assert log.append_made([json.loads(data) for data in records[:200]]) == 200
    assert log.append(records) == 100
    assert contents(tmp_path) == records
    for wrong in ({"schema": 2}, {"id": "x"}, {"time": 1}, {"kind": None}):
        found = {**json.loads(records[0]), **wrong}
        assert code_of(lambda found=found: log.append_made([json.loads(make(999)), found])) == "LM6002"
    assert code_of(lambda: log.append_made([{**json.loads(make(999)), "more": float("nan")}])) == "LM6002"
    assert log.size == 300
    log.close()
