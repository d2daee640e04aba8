"""A sidecar whose agent is gone: it goes on, comes back to the next agent, and ends when there is no reason left."""

from __future__ import annotations

import asyncio
import os
import pathlib
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from enforcer.native.comeback import Comeback
from tests.enforcer.native.harness import (
    ALLOW_WEB,
    DB,
    HOST,
    PATIENCE_S,
    WEB,
    Agent,
    Realm,
    connect,
    identity_message,
    inbound_port,
    outbound_port,
    policies,
    read_response,
)

Make = Callable[..., Any]


@pytest.fixture
def back() -> Iterator[tuple[pathlib.Path, socket.socket]]:
    """Where sidecars come back."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="limen-b-"))
    folder.chmod(0o755)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(folder / "s"))
        (folder / "s").chmod(0o666)
        sock.listen(4)
        sock.settimeout(PATIENCE_S)
        yield folder / "s", sock
    shutil.rmtree(folder)


@pytest.fixture
def program() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "1000"]) as process:
        yield process
        process.kill()


def succeed(agent: Agent, sock: socket.socket) -> Agent:
    """The next agent, when the sidecar came back to it."""
    connection, _ = sock.accept()
    connection.settimeout(None)
    agent.sock.close()
    found = Agent(agent.process, connection, agent.attest)
    threading.Thread(target=found.listen, daemon=True).start()
    found.wait("ready")
    return found


def inbound(app: Any) -> tuple[dict[str, object], ...]:
    return ({"address": "127.0.0.1", "port": 0, "app_port": app.port},)


def call(sock: Any) -> tuple[int, bytes]:
    sock.sendall(b"GET /orders HTTP/1.1\r\n" + HOST + b"\r\n")
    return read_response(sock)


def test_it_serves_old_and_new_connections_without_an_agent_and_tells_the_next_one_everything(
    sidecars: Make, apps: Make, corp: Realm, back: Any, program: subprocess.Popen[bytes]
) -> None:
    path, listener = back
    first = sidecars(
        corp.svid(DB), corp.bundle, inbound=inbound(apps()), back=str(path), program=program.pid, acknowledges=False
    )
    port = inbound_port(first)
    first.policy(policies(ALLOW_WEB, port=port))
    with connect(port, corp.svid(WEB), corp.bundle) as sock:
        assert call(sock)[0] == 200
        sent = first.record(direction="inbound")
        first.sock.shutdown(socket.SHUT_RDWR)
        assert call(sock)[0] == 200
        with connect(port, corp.svid(WEB), corp.bundle) as another:
            assert call(another)[0] == 200
        second = succeed(first, listener)
        assert call(sock)[0] == 200
        assert second.wait("ready") == first.wait("ready")
        assert second.wait("applied") == first.wait("applied")
        assert second.wait("trusts") == first.wait("trusts")
        # what nobody acknowledged, and what happened meanwhile
        assert second.record(id=sent["id"]) == sent
        with second.changed:
            assert second.changed.wait_for(lambda: len(second.records(direction="inbound")) == 4, PATIENCE_S)
    second.stop()


def test_an_outbound_connection_waits_for_the_next_agent(
    sidecars: Make, apps: Make, corp: Realm, back: Any, program: subprocess.Popen[bytes]
) -> None:
    path, listener = back
    server = sidecars(corp.svid(DB), corp.bundle, inbound=inbound(apps()))
    port = inbound_port(server)
    rules = policies(ALLOW_WEB, port=port)
    server.policy(rules)
    first = sidecars(
        corp.svid(WEB),
        corp.bundle,
        outbound=({"local_port": 0, "service": "db", "port": None},),
        back=str(path),
        program=program.pid,
    )
    first.policy(rules)
    first.send({"type": "endpoints", "endpoints": [{"spiffe_id": DB, "address": "127.0.0.1", "port": port}]})
    first.sock.shutdown(socket.SHUT_RDWR)
    with socket.create_connection(("127.0.0.1", outbound_port(first)), PATIENCE_S) as sock:
        sock.sendall(b"GET /orders HTTP/1.1\r\n" + HOST + b"\r\n")
        second = succeed(first, listener)
        second.wait("attest")
        assert read_response(sock)[0] == 200
    second.stop()


def test_without_a_program_it_ends_with_its_agent(sidecars: Make, corp: Realm, back: Any) -> None:
    agent = sidecars(corp.svid(DB), corp.bundle, back=str(back[0]))
    agent.sock.shutdown(socket.SHUT_RDWR)
    assert agent.process.wait(PATIENCE_S) == 0


def test_without_an_agent_it_ends_with_its_program(
    sidecars: Make, corp: Realm, tmp_path: pathlib.Path, program: subprocess.Popen[bytes]
) -> None:
    agent = sidecars(corp.svid(DB), corp.bundle, back=str(tmp_path / "nobody"), program=program.pid)
    agent.sock.shutdown(socket.SHUT_RDWR)
    with pytest.raises(subprocess.TimeoutExpired):
        agent.process.wait(0)
    program.kill()
    assert agent.process.wait(PATIENCE_S) == 0


def test_an_agent_that_does_not_know_it_stops_it(
    sidecars: Make, corp: Realm, back: Any, program: subprocess.Popen[bytes]
) -> None:
    agent = sidecars(corp.svid(DB), corp.bundle, back=str(back[0]), program=program.pid)
    agent.sock.shutdown(socket.SHUT_RDWR)
    succeed(agent, back[1]).stop()
    assert agent.process.returncode == 0


def test_its_identity_holds_until_it_ends_and_no_longer(
    sidecars: Make, corp: Realm, back: Any, program: subprocess.Popen[bytes]
) -> None:
    agent = sidecars(corp.svid(DB), corp.bundle, back=str(back[0]) + "x", program=program.pid)
    ended = {**identity_message(corp.svid(DB), corp.bundle), "not_after": "2020-01-01T00:00:00Z"}
    agent.send(ended)
    agent.sock.shutdown(socket.SHUT_RDWR)
    assert agent.process.wait(PATIENCE_S) == 0


def test_a_program_that_ended_before_it_was_named_is_none() -> None:
    child = subprocess.Popen(["true"])
    child.wait()
    found = Comeback("/nonexistent/s")
    found.watch(child.pid)
    assert (found.has_program, found.is_running()) == (False, False)
    found.watch(os.getpid())
    found.watch(os.getpid())
    assert (found.has_program, found.is_running()) == (True, True)
    # of no use any more
    assert not asyncio.run(found.find_agent(asyncio.Protocol(), lambda: False, list))
    os.close(found._program)
