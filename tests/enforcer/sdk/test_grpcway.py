"""The way to a service: whose it is, and where frames end."""

import asyncio
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enforcer.sdk import Limen
from enforcer.sdk.grpcway import GOAWAY, Frames, Way, _Answers
from tests.enforcer.native.harness import ALLOW_WEB, DB, OPS, WEB, Realm, TlsApp, echo_answer, policies
from tests.enforcer.sdk.conftest import Teller

Make = Callable[..., tuple[Limen, Teller]]


def frame(kind: int, flags: int, size: int) -> bytes:
    return size.to_bytes(3) + bytes([kind, flags]) + bytes(4) + b"\x01" * size


def test_the_word_is_a_frame_of_its_own() -> None:
    frames = Frames()
    frames.feed(GOAWAY)
    assert frames.is_between
    assert (GOAWAY[3], len(GOAWAY)) == (7, 17)


def test_before_the_first_frame_no_other_one_may_stand() -> None:
    assert not Frames().is_between


def test_a_head_in_parts_is_not_interrupted() -> None:
    frames = Frames()
    frames.feed(frame(1, 0, 5))
    assert not frames.is_between
    frames.feed(frame(9, 0, 0))
    assert not frames.is_between
    frames.feed(frame(9, 4, 3))
    assert frames.is_between


@given(st.lists(st.tuples(st.sampled_from([0, 3, 4, 6, 8]), st.integers(0, 300)), min_size=1), st.data())
def test_however_the_bytes_arrive_only_ends_of_frames_are_found(
    rows: list[tuple[int, int]], data: st.DataObject
) -> None:
    stream = b"".join(frame(kind, 0, size) for kind, size in rows)
    ends, at = set(), 0
    for _, size in rows:
        at += 9 + size
        ends.add(at)
    cuts = sorted({*data.draw(st.lists(st.integers(0, len(stream)))), len(stream)})
    frames, before = Frames(), 0
    for cut in cuts:
        frames.feed(stream[before:cut])
        before = cut
        assert frames.is_between is (cut in ends)


class Written:
    def __init__(self) -> None:
        self.data = b""

    def write(self, data: bytes) -> None:
        self.data += data


def test_the_word_is_said_once_and_between_frames() -> None:
    writer: Any = Written()
    stale: list[bool] = []
    answers = _Answers(writer, lambda: bool(stale))
    first = frame(0, 0, 9)
    answers.write(first[:12])
    stale.append(True)
    answers.look()
    assert writer.data == first[:12]
    answers.write(first[12:])
    answers.look()
    answers.write(first)
    assert writer.data == first + GOAWAY + first


@pytest.fixture
def apps(corp: Realm) -> Any:
    made: list[TlsApp] = []

    def make(spiffe_id: str) -> TlsApp:
        made.append(TlsApp(echo_answer, corp.svid(spiffe_id), corp.bundle, tickets=False))
        return made[-1]

    yield make
    for app in made:
        app.close()


def talk(limen: Limen, service: str, port: int | None = None) -> bytes:
    """What comes back for a word of this process."""

    async def main() -> bytes:
        async with asyncio.timeout(60), Way(limen, service, port) as address:
            reader, writer = await asyncio.open_unix_connection("\0" + address.removeprefix("unix-abstract:"))
            writer.write(b"word")
            try:
                return await reader.read(100)
            except ConnectionResetError:
                return b""
            finally:
                writer.transport.abort()

    return asyncio.run(main())


def test_it_leads_to_the_service_and_to_nobody_else(limens: Make, apps: Any) -> None:
    good, impostor = apps(DB), apps(OPS)
    web, _ = limens(WEB, policies(ALLOW_WEB), ((DB, 1), (DB, impostor.port), (DB, good.port)))
    assert talk(web, "db") == b"word"
    assert talk(web, "db", good.port) == b"word"
    assert talk(web, "db", impostor.port) == b""
    assert talk(web, "unheard-of") == b""
    assert impostor.requests == []


def test_another_process_is_hung_up_on(limens: Make, apps: Any) -> None:
    good = apps(DB)
    web, _ = limens(WEB, policies(ALLOW_WEB), ((DB, good.port),))
    asks = (
        "import socket, sys\ns = socket.socket(socket.AF_UNIX)\ns.connect('\\0' + sys.argv[1])\n"
        "try:\n    s.sendall(b'word')\n    print(s.recv(9))\nexcept OSError:\n    print(b'')\n"
    )

    async def main() -> bytes:
        async with asyncio.timeout(60), Way(web, "db", None) as address:
            command = [sys.executable, "-c", asks, address.removeprefix("unix-abstract:")]
            return await asyncio.to_thread(subprocess.check_output, command)

    assert asyncio.run(main()) == b"b''\n"
    assert good.requests == []


def test_nothing_is_left_behind(limens: Make, apps: Any) -> None:
    web, _ = limens(WEB, policies(ALLOW_WEB), ((DB, apps(DB).port),))

    async def main() -> str:
        async with Way(web, "db", None) as address:
            return address

    name = asyncio.run(main()).removeprefix("unix-abstract:")
    with socket.socket(socket.AF_UNIX) as sock, pytest.raises(ConnectionRefusedError):
        sock.connect(f"\0{name}")
    assert web._watchers == []


def test_a_program_that_ends_while_connections_are_open_says_nothing_of_errors(
    limens: Make, apps: Any, caplog: pytest.LogCaptureFixture
) -> None:
    web, _ = limens(WEB, policies(ALLOW_WEB), ((DB, apps(DB).port),))

    async def main() -> None:
        async with asyncio.timeout(60), Way(web, "db", None) as address:
            reader, writer = await asyncio.open_unix_connection("\0" + address.removeprefix("unix-abstract:"))
            writer.write(b"word")
            assert await reader.read(100) == b"word"
            others = asyncio.all_tasks() - {asyncio.current_task()}
            assert others
            for task in others:  # as asyncio.run does when a program is over
                task.cancel()
            await asyncio.wait(others)
            writer.transport.abort()

    asyncio.run(main())
    assert caplog.records == []
