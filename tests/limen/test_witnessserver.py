"""A witness as a process of its own, killed in the middle; and against transparency-dev's witness and client."""

import base64
import contextlib
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator

import pytest

from audit.checkpoint import VerifierKey, cosigned_at
from audit.reader import Reader
from audit.verify import verify_log
from audit.witness import Entry, request_for
from limen.cosigning import Cosigning, _post
from tests.audit.making import KEY, ORIGIN, make, open_log

VERIFIER = VerifierKey(name=ORIGIN, key=KEY.public_key())
pytestmark = pytest.mark.slow


@contextlib.contextmanager
def running(folder: pathlib.Path) -> Iterator[tuple[Entry, subprocess.Popen[str]]]:
    """`limen audit witness` until the block ends."""
    command = [sys.executable, "-m", "limen", "audit", "witness", "--dir", str(folder), "--name", "w.test"]
    with subprocess.Popen([*command, "--log", str(VERIFIER)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "ready witness\n"
            said = json.loads((folder / "run" / "witness.json").read_text())["addresses"]
            yield Entry(name="w", key=VerifierKey.parse(said["key"]), url=said["url"]), process
        finally:
            process.terminate()


def grow(folder: pathlib.Path, first: int, last: int) -> Reader:
    log = open_log(folder)
    log.append([make(number) for number in range(first, last)])
    log.close()
    return Reader(folder, str(VERIFIER))


def test_a_killed_witness_remembers_what_it_cosigned(tmp_path: pathlib.Path) -> None:
    with running(tmp_path / "w") as (entry, process):
        assert _post(entry, request_for(grow(tmp_path / "log", 0, 300), 0).to_bytes())[0] == 200
        process.kill()
    with running(tmp_path / "w") as (again, _):
        assert again.key == entry.key
        # a step back is refused, and the size that is remembered is the one that was cosigned
        back = _post(again, request_for(grow(tmp_path / "old", 0, 5), 0).to_bytes())
        assert back == (409, "text/x.tlog.size", b"300\n")
        # so is a fork: the same size and more, of other records
        fork = grow(tmp_path / "fork", 1, 400)
        assert _post(again, request_for(fork, 300).to_bytes())[0] == 422
        more = grow(tmp_path / "log", 300, 310)
        status, _, line = _post(again, request_for(more, 300).to_bytes())
        assert status == 200
        assert cosigned_at(more.note + line, again.key) is not None


def peer() -> str:
    found = os.environ.get("LIMEN_TLOG_PEER")
    if found is None:
        pytest.skip("transparency-dev's witness is not built: LIMEN_TLOG_PEER")
    return found


@pytest.mark.peer
def test_our_log_is_cosigned_by_their_witness(tmp_path: pathlib.Path) -> None:
    tool = peer()
    secret, key = subprocess.run(
        [tool, "key", "their.test/w"], capture_output=True, text=True, check=True
    ).stdout.split()
    grow(tmp_path / "log", 0, 10)
    with subprocess.Popen([tool, "witness", str(VERIFIER), secret], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            url = process.stdout.readline().strip()
            (tmp_path / "policy").write_text(f"witness theirs {key} {url}\n")
            cosigning = Cosigning(tmp_path / "log", tmp_path / "policy")
            assert cosigning.step() == 1
            grow(tmp_path / "log", 10, 700)
            assert cosigning.step() == 1
            # one that knows nothing of before is told, and another history is refused
            grow(tmp_path / "log", 700, 701)
            assert Cosigning(tmp_path / "log", tmp_path / "policy").step() == 1
            grow(tmp_path / "fork", 1, 900)
            assert Cosigning(tmp_path / "fork", tmp_path / "policy").step() == 0
        finally:
            process.terminate()
    witness = VerifierKey.parse(key)
    found = verify_log(tmp_path / "log", str(VERIFIER), [witness])
    assert (found.is_good, [item.size for item in found.witnessed]) == (True, [701])
    note = (tmp_path / "log" / "witness" / witness.hash.hex()).read_bytes()
    assert opened(tool, note, str(VERIFIER), key)


@pytest.mark.peer
def test_their_client_gets_our_cosignature_and_their_reader_verifies_it(tmp_path: pathlib.Path) -> None:
    tool = peer()
    with running(tmp_path / "w") as (entry, _):
        small = grow(tmp_path / "log", 0, 10)
        asked = [tool, "ask", entry.url]
        first = subprocess.run([*asked, "0"], input=small.note, capture_output=True, check=True).stdout
        large = grow(tmp_path / "log", 10, 700)
        proof = [base64.b64encode(item).decode() for item in request_for(large, 10).proof]
        second = subprocess.run([*asked, "10", *proof], input=large.note, capture_output=True, check=True).stdout
        stale = subprocess.run([*asked, "10", *proof], input=large.note, capture_output=True, check=False)
        assert (stale.returncode, stale.stdout.startswith(b"refused 700:")) == (1, True)
    for reader, line in ((small, first), (large, second)):
        assert opened(tool, reader.note + line, str(VERIFIER), str(entry.key))
    assert not opened(tool, small.note + second, str(VERIFIER), str(entry.key))


def opened(tool: str, note: bytes, *keys: str) -> bool:
    """Whether their reader of signed notes finds a good signature of every key."""
    return subprocess.run([tool, "open", *keys], input=note, capture_output=True, check=False).returncode == 0
