"""Health checks through a real port to a real application, each in threads of their own."""

import asyncio
import json
import os
import socket
from collections.abc import Callable
from typing import Any

import pytest

from enforcer.health import Check
from enforcer.native.healthdoor import HealthDoor
from enforcer.native.records import Recorder
from enforcer.native.workload import Workload
from mesh.clock import SystemClock
from tests.enforcer.native.harness import App, http_answer, read_all

HERE = ("127.0.0.0/8",)
ASK = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
Make = Callable[..., App]


def saying(data: bytes) -> Callable[[socket.socket, App], None]:
    """An application that says these bytes to whoever asked."""

    def answer(sock: socket.socket, app: App) -> None:
        app.requests.append(sock.recv(65536))
        sock.sendall(data)

    return answer


class Asked:
    """What became of some checks: the answers, and the records."""

    def __init__(self) -> None:
        self.answers: list[bytes] = []
        self.records: list[dict[str, Any]] = []
        self.is_refused_after = False


def ask(app_port: int, *requests: bytes, networks: tuple[str, ...] = HERE) -> Asked:
    """Send each request over a connection of its own, then drain the door."""
    found = Asked()

    def once(port: int, data: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", port), 100) as sock:
            try:
                sock.sendall(data)
                if not data.endswith(b"\n"):
                    sock.shutdown(socket.SHUT_WR)
            except OSError:
                return b""
            return read_all(sock)

    async def main() -> None:
        recorder = Recorder("sidecar", os.urandom)
        async with asyncio.TaskGroup() as tasks:
            workload = Workload(SystemClock(), recorder, tasks)
            check = Check(address="127.0.0.1", port=0, app_port=app_port, path="/healthz", networks=networks)
            door = HealthDoor(workload, check)
            port = await door.listen()
            assert len(door.handles) == 1
            for data in requests:
                found.answers.append(await asyncio.to_thread(once, port, data))
            door.tick()
            door.drain()
            assert door.handles == []
            try:
                await asyncio.to_thread(once, port, ASK)
            except ConnectionRefusedError:
                found.is_refused_after = True
            while not door.is_idle:
                await asyncio.sleep(0)
        taken = recorder.take_records(SystemClock().now())
        found.records = [json.loads(text) for text in taken[1]] if taken else []

    asyncio.run(main())
    return found


@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
def test_the_path_is_answered_with_the_status_alone_and_asked_in_our_words(apps: Make, method: bytes) -> None:
    app = apps(saying(b"HTTP/1.1 200 OK\r\nset-cookie: secret\r\ncontent-length: 6\r\n\r\nsecret"))
    found = ask(app.port, method + b" /healthz HTTP/1.1\r\nHost: evil\r\nx-a: 1.2.3.4\r\ncookie: a=b\r\n\r\n")
    (answer,) = found.answers
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b"\r\nconnection: close\r\n\r\n")
    assert b"secret" not in answer
    (request,) = app.requests
    assert request == (
        b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nuser-agent: limen-health\r\nconnection: close\r\n\r\n"
    )
    (record,) = found.records
    assert (record["decision"], record["tier"], record["method"]) == ("allow", "health", method.decode())
    assert record["peer_ip"] == "127.0.0.1"
    assert found.is_refused_after


@pytest.mark.parametrize(
    ("said", "status"),
    [
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204),
        (b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n", 503),
        (b"HTTP/1.0 200 OK\r\n\r\nuntil the end", 200),
        (b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n", 500),
        (b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n", 502),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n", 502),
        (b"220 a mail server\r\n\r\n", 502),
        (b"HTTP/1.1 200 OK\r\n", 502),
        (b"x" * 70_000, 502),
    ],
)
def test_what_the_application_says_is_its_health(apps: Make, said: bytes, status: int) -> None:
    (answer,) = ask(apps(saying(said)).port, ASK).answers
    assert answer.startswith(b"HTTP/1.1 %d \r\n" % status)


def test_an_application_that_is_not_there_is_not_healthy() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    (answer,) = ask(port, ASK).answers
    assert answer.startswith(b"HTTP/1.1 503 \r\n")


@pytest.mark.parametrize(
    ("request_", "status", "code"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 403, "LM3234"),
        (b"GET /healthz/ HTTP/1.1\r\nHost: x\r\n\r\n", 403, "LM3234"),
        (b"GET /healthz?deep=1 HTTP/1.1\r\nHost: x\r\n\r\n", 403, "LM3234"),
        (b"GET //healthz HTTP/1.1\r\nHost: x\r\n\r\n", 403, "LM3234"),
        (b"GET /%68ealthz HTTP/1.1\r\nHost: x\r\n\r\n", 403, "LM3234"),
        (b"GET /x/../healthz HTTP/1.1\r\nHost: x\r\n\r\n", 403, "LM3234"),
        (b"POST /healthz HTTP/1.1\r\nHost: x\r\ncontent-length: 0\r\n\r\n", 403, "LM3234"),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\ncontent-length: 3\r\n\r\nabc\n", 403, "LM3234"),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 403, "LM3234"),
        (b"OPTIONS /healthz HTTP/1.1\r\nHost: x\r\n\r\n", 403, "LM3234"),
        (b"GET /healthz HTTP/1.0\r\n\r\n", 426, "LM3101"),
        (b"GET http://x/healthz HTTP/1.1\r\nHost: x\r\n\r\n", 400, None),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400, None),
        (b"GET /healthz HTTP/1.1\nHost: x\n\n", 400, None),
    ],
)
def test_anything_else_is_denied_recorded_and_never_reaches_the_application(
    apps: Make, request_: bytes, status: int, code: str | None
) -> None:
    app = apps(http_answer)
    found = ask(app.port, request_)
    (answer,) = found.answers
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    (record,) = found.records
    assert record["decision"] == "deny"
    assert code in {None, record["code"]}
    assert record["code"].encode() in answer
    assert record["id"].encode() in answer
    assert app.requests == []
    assert app.connections == 0


def test_a_connection_carries_one_check(apps: Make) -> None:
    app = apps(http_answer)
    (answer,) = ask(app.port, ASK + b"GET /admin HTTP/1.1\r\nHost: x\r\n\r\n").answers
    assert answer.count(b"HTTP/1.1") == 1
    assert len(app.requests) == 1


def test_who_asks_nothing_gets_nothing(apps: Make) -> None:
    app = apps(http_answer)
    found = ask(app.port, b"GET /healthz HTTP/1.1\r\nHost: x")
    assert (found.answers, found.records, app.connections) == ([b""], [], 0)


def test_other_networks_are_closed_without_an_answer_and_told_together(apps: Make) -> None:
    app = apps(http_answer)
    found = ask(app.port, ASK, ASK, networks=("10.0.0.0/8", "fd00::/8"))
    assert found.answers == [b"", b""]
    (record,) = found.records
    assert (record["code"], record["peer_ip"], record["facts"]) == ("LM3233", "127.0.0.1", {"connections": 2})
    assert app.connections == 0
