"""A sidecar that is to end: takes nothing new, ends kept-alive connections with an answer, lets streams go on."""

import signal
import socket
import subprocess
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.enforcer.native.harness import (
    ALLOW_WEB,
    ALLOW_WEB_TCP,
    DB,
    PATIENCE_S,
    REQUEST,
    WEB,
    Agent,
    App,
    Realm,
    connect,
    echo_answer,
    inbound_port,
    policies,
    read_all,
    read_response,
)

Make = Callable[..., Any]
LONG = {"type": "drain", "seconds": 600}


def place(sidecars: Make, app: App, corp: Realm, rule: dict[str, object], protocol: str) -> tuple[Agent, int]:
    agent = sidecars(corp.svid(DB), corp.bundle, inbound=({"address": "127.0.0.1", "port": 0, "app_port": app.port},))
    port = inbound_port(agent)
    agent.policy(policies(rule, port=port, protocol=protocol))
    return agent, port


def is_refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), PATIENCE_S).close()
    except ConnectionRefusedError:
        return True
    return False


def drain(agent: Agent, seconds: int = 600) -> None:
    """Tell it, and wait until it has heard that."""
    agent.send({"type": "drain", "seconds": seconds})
    agent.send({"type": "strange"})
    agent.wait("failed")


def test_a_kept_alive_connection_ends_with_its_next_answer_and_says_so(sidecars: Make, apps: Make, corp: Realm) -> None:
    agent, port = place(sidecars, apps(), corp, ALLOW_WEB, "http")
    with connect(port, corp.svid(WEB), corp.bundle) as sock:
        sock.sendall(REQUEST)
        assert read_response(sock) == (200, b"hello")
        drain(agent)
        assert is_refused(port)
        sock.sendall(REQUEST)
        answer = read_all(sock).lower()
    assert answer.startswith(b"http/1.1 200 ")
    assert b"\r\nconnection: close\r\n" in answer
    assert answer.endswith(b"hello")
    assert agent.process.wait(PATIENCE_S) == 0


def test_a_denied_request_is_the_last_one_too(sidecars: Make, apps: Make, corp: Realm) -> None:
    agent, port = place(sidecars, apps(), corp, ALLOW_WEB, "http")
    with connect(port, corp.svid(WEB), corp.bundle) as sock:
        sock.sendall(REQUEST.replace(b"GET", b"PUT"))
        assert read_response(sock)[0] == 403
        drain(agent)
        sock.sendall(REQUEST.replace(b"GET", b"PUT"))
        answer = read_all(sock).lower()
    assert answer.startswith(b"http/1.1 403 ")
    assert b"\r\nconnection: close\r\n" in answer
    assert agent.process.wait(PATIENCE_S) == 0


def test_what_was_asked_ahead_is_answered_before_the_connection_ends(sidecars: Make, apps: Make, corp: Realm) -> None:
    agent, port = place(sidecars, apps(), corp, ALLOW_WEB, "http")
    with connect(port, corp.svid(WEB), corp.bundle) as sock:
        drain(agent)
        sock.sendall(REQUEST * 3)
        answers = read_all(sock).lower()
    assert answers.count(b"http/1.1 200 ") == 3
    assert answers.count(b"connection: close") == 1
    assert agent.process.wait(PATIENCE_S) == 0


def test_a_stream_goes_on_and_the_sidecar_ends_with_it(sidecars: Make, apps: Make, corp: Realm) -> None:
    agent, port = place(sidecars, apps(echo_answer), corp, ALLOW_WEB_TCP, "tcp")
    with connect(port, corp.svid(WEB), corp.bundle) as sock:
        sock.sendall(b"before")
        assert sock.recv(9) == b"before"
        drain(agent)
        sock.sendall(b"after")
        assert sock.recv(9) == b"after"
        with pytest.raises(subprocess.TimeoutExpired):
            agent.process.wait(0)
    assert agent.process.wait(PATIENCE_S) == 0


def test_a_stream_goes_on_until_the_bound_and_no_longer(sidecars: Make, apps: Make, corp: Realm) -> None:
    agent, port = place(sidecars, apps(echo_answer), corp, ALLOW_WEB_TCP, "tcp")
    with connect(port, corp.svid(WEB), corp.bundle) as sock:
        sock.sendall(b"before")
        assert sock.recv(9) == b"before"
        drain(agent, 0)
        assert read_all(sock) == b""
    assert agent.process.wait(PATIENCE_S) == 0


def test_a_new_policy_reaches_a_stream_of_one_that_drains(sidecars: Make, apps: Make, corp: Realm) -> None:
    agent, port = place(sidecars, apps(echo_answer), corp, ALLOW_WEB_TCP, "tcp")
    with connect(port, corp.svid(WEB), corp.bundle) as sock:
        sock.sendall(b"before")
        assert sock.recv(9) == b"before"
        drain(agent)
        agent.policy(policies(port=port, protocol="tcp"), epoch=2)
        assert read_all(sock) == b""
    assert agent.process.wait(PATIENCE_S) == 0


def test_its_last_records_reach_the_agent(sidecars: Make, apps: Make, corp: Realm) -> None:
    agent, port = place(sidecars, apps(), corp, ALLOW_WEB, "http")
    with connect(port, corp.svid(WEB), corp.bundle) as sock:
        drain(agent)
        sock.sendall(REQUEST)
        assert read_all(sock)
    assert agent.process.wait(PATIENCE_S) == 0
    assert agent.record(direction="inbound")["decision"] == "allow"


def test_sigterm_asks_for_a_successor_and_changes_nothing_until_there_is_one(
    sidecars: Make, apps: Make, corp: Realm
) -> None:
    agent, port = place(sidecars, apps(), corp, ALLOW_WEB, "http")
    agent.process.send_signal(signal.SIGTERM)
    agent.wait("retire")
    with connect(port, corp.svid(WEB), corp.bundle) as sock:
        sock.sendall(REQUEST)
        assert read_response(sock) == (200, b"hello")
    agent.send(LONG)
    assert agent.process.wait(PATIENCE_S) == 0


def test_it_says_when_no_caller_waits_and_goes_on_for_its_program(sidecars: Make, apps: Make, corp: Realm) -> None:
    may_end = threading.Event()

    def half(sock: socket.socket, app: App) -> None:
        app.requests.append(sock.recv(65536))
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\na")
        # the other half comes when the test has seen that nobody said anything
        may_end.wait(60)
        sock.sendall(b"b")

    agent, port = place(sidecars, apps(half), corp, ALLOW_WEB, "http")
    with connect(port, corp.svid(WEB), corp.bundle) as sock:
        sock.sendall(REQUEST)
        data = b""
        while not data.endswith(b"\r\n\r\na"):
            data += sock.recv(65536)
        agent.send({"type": "quiet"})
        agent.send({"type": "strange"})
        agent.wait("failed")
        assert is_refused(port)
        assert not any(message["type"] == "quiet" for message in agent.heard)
        may_end.set()
        assert sock.recv(9) == b"b"
        agent.wait("quiet")
        with pytest.raises(subprocess.TimeoutExpired):
            agent.process.wait(0)
