import asyncio
import pathlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from audit.checkpoint import Checkpoint, VerifierKey, cosigned_at, sign_checkpoint
from audit.reader import Reader
from audit.witness import MAX_BODY_BYTES, AddCheckpoint, request_for
from limen.witnessing import Door, Witness
from mesh.clock import ManualClock
from mesh.problems import Problem, Unavailable
from tests.audit.making import KEY, ORIGIN, START, make, open_log

VERIFIER = VerifierKey(name=ORIGIN, key=KEY.public_key())


@pytest.fixture
def readers(tmp_path: pathlib.Path) -> tuple[Reader, Reader]:
    log = open_log(tmp_path / "log")
    log.append([make(number) for number in range(5)])
    small = Reader(tmp_path / "log", str(VERIFIER))
    log.append([make(number) for number in range(5, 300)])
    large = Reader(tmp_path / "log", str(VERIFIER))
    log.close()
    return small, large


def opened(folder: pathlib.Path, name: str = "w.test") -> Witness:
    return Witness(folder, name, [VERIFIER], ManualClock(START))


@pytest.fixture
def witness(tmp_path: pathlib.Path) -> Iterator[Witness]:
    found = opened(tmp_path / "witness")
    yield found
    found.close()


def test_cosigns_what_follows_and_says_when(witness: Witness, readers: tuple[Reader, Reader]) -> None:
    for reader, old in zip(readers, (0, 5), strict=True):
        answer = witness.add_checkpoint(request_for(reader, old).to_bytes())
        assert answer.status == 200
        assert cosigned_at(reader.note + answer.body.encode(), witness.key) == int(START.timestamp())
    assert witness.held() == {ORIGIN: readers[1].checkpoint}


def test_remembers_after_a_restart_what_it_vouched_for(tmp_path: pathlib.Path, readers: tuple[Reader, Reader]) -> None:
    first = opened(tmp_path / "w")
    key = str(first.key)
    assert first.add_checkpoint(request_for(readers[1], 0).to_bytes()).status == 200
    first.close()
    again = opened(tmp_path / "w")
    assert str(again.key) == key
    back = again.add_checkpoint(request_for(readers[0], 0).to_bytes())
    assert (back.status, back.body) == (409, "300\n")
    other = sign_checkpoint(Checkpoint(origin=ORIGIN, size=300, root=bytes(32)), KEY)
    assert again.add_checkpoint(AddCheckpoint(old=300, proof=(), note=other).to_bytes()).status == 409
    longer = sign_checkpoint(Checkpoint(origin=ORIGIN, size=301, root=bytes(32)), KEY)
    assert again.add_checkpoint(AddCheckpoint(old=300, proof=(bytes(32),), note=longer).to_bytes()).status == 422
    again.close()


def test_cosigns_nothing_that_the_disk_does_not_have(
    witness: Witness, readers: tuple[Reader, Reader], tmp_path: pathlib.Path
) -> None:
    (tmp_path / "witness" / "logs").rmdir()
    (tmp_path / "witness" / "logs").write_text("in the way")
    with pytest.raises(Unavailable):
        witness.add_checkpoint(request_for(readers[0], 0).to_bytes())
    assert witness.held() == {}


def test_a_directory_has_one_process(witness: Witness, tmp_path: pathlib.Path) -> None:
    with pytest.raises(Problem) as caught:
        opened(tmp_path / "witness")
    assert caught.value.code == "LM6084"


@pytest.mark.parametrize(("name", "code"), [("other.test", "LM6085"), ("with space", "LM6030"), ("a+b", "LM6030")])
def test_a_directory_has_one_witness_of_one_name(tmp_path: pathlib.Path, name: str, code: str) -> None:
    opened(tmp_path / "w").close()
    with pytest.raises(Problem) as caught:
        opened(tmp_path / "w", name)
    assert caught.value.code == code


def ask(door: Door, method: str, path: str, *chunks: bytes) -> tuple[int, str, bytes]:
    sent: list[Any] = []
    parts = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    parts.append({"type": "http.request", "body": b""})

    async def receive() -> Any:
        return parts.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(door({"type": "http", "method": method, "path": path}, receive, send))
    return sent[0]["status"], dict(sent[0]["headers"])[b"content-type"].decode(), sent[1]["body"]


def test_the_door_answers_as_the_protocol_says(witness: Witness, readers: tuple[Reader, Reader]) -> None:
    body = request_for(readers[1], 0).to_bytes()
    with ThreadPoolExecutor(1) as worker:
        door = Door(witness, worker)
        status, _, line = ask(door, "POST", "/add-checkpoint", body[:10], body[10:])
        assert (status, line.startswith("— w.test ".encode())) == (200, True)
        assert ask(door, "POST", "/add-checkpoint", body) == (409, "text/x.tlog.size", b"300\n")
        assert ask(door, "GET", "/add-checkpoint")[0] == 405
        assert ask(door, "POST", "/checkpoint", body)[0] == 404
        assert ask(door, "POST", "/add-checkpoint", b"nonsense")[0] == 400
        assert ask(door, "POST", "/add-checkpoint", *[b"x" * MAX_BODY_BYTES] * 2)[0] == 413
