"""The inbound side at the tier of connections, and before there are rules."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from typing import Any

import pytest

from enforcer.native import serial
from mesh.x509svid import X509Svid
from tests.enforcer.native.harness import (
    ALLOW_WEB,
    ALLOW_WEB_TCP,
    DB,
    HOST,
    OPS,
    WEB,
    Agent,
    App,
    Realm,
    banner_answer,
    connect,
    eventually,
    http_answer,
    inbound_port,
    policies,
    read_all,
    read_response,
)

Make = Callable[..., Any]
REQUEST = b"GET /orders HTTP/1.1\r\n" + HOST + b"\r\n"


@pytest.fixture(scope="module")
def behind(sidecars: Make, corp: Realm) -> Any:
    """A sidecar before a server that speaks first."""
    app = App(banner_answer)
    agent = sidecars(corp.svid(DB), corp.bundle, inbound=({"address": "127.0.0.1", "port": 0, "app_port": app.port},))
    yield agent, app
    app.close()


@pytest.fixture(scope="module")
def web(corp: Realm) -> X509Svid:
    return corp.svid(WEB)


def test_nobody_is_let_in_before_there_is_a_policy(behind: tuple[Agent, App], corp: Realm, web: X509Svid) -> None:
    agent, app = behind
    with connect(inbound_port(agent), web, corp.bundle) as sock:
        assert read_all(sock) == b""
    assert agent.record(code="LM3200")["caller"] == WEB
    assert app.connections == 0


def test_a_server_that_speaks_first_speaks_to_nobody_who_is_denied(behind: tuple[Agent, App], corp: Realm) -> None:
    agent, app = behind
    agent.policy(policies(ALLOW_WEB_TCP, protocol="tcp", port=inbound_port(agent)), epoch=5)
    before = app.connections
    with connect(inbound_port(agent), corp.svid(OPS), corp.bundle) as sock:
        assert read_all(sock) == b""
    assert app.connections == before
    assert agent.record(caller=OPS)["code"] == "LM2302"


def test_a_server_that_speaks_first_reaches_who_is_allowed(
    behind: tuple[Agent, App], corp: Realm, web: X509Svid
) -> None:
    agent, _ = behind
    agent.policy(policies(ALLOW_WEB_TCP, protocol="tcp", port=inbound_port(agent)), epoch=6)
    with connect(inbound_port(agent), web, corp.bundle) as sock:
        assert sock.recv(100) == b"220 secret banner\r\n"


def test_an_older_epoch_changes_nothing(behind: tuple[Agent, App], corp: Realm, web: X509Svid) -> None:
    agent, _ = behind
    agent.policy(policies(ALLOW_WEB_TCP, protocol="tcp", port=inbound_port(agent)), epoch=7)
    agent.send({"type": "policy", "epoch": 6, "active": None, "candidate": None})
    assert agent.wait("failed", lambda found: found["code"] == "LM3015")
    with connect(inbound_port(agent), web, corp.bundle) as sock:
        assert sock.recv(100).startswith(b"220")


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ({"type": "policy", "epoch": 8, "active": {"hash": "h", "policies": {"services": []}}}, "LM2001"),
        ({"type": "policy", "epoch": 8, "active": {"hash": 1, "policies": {}}}, "LM3002"),
        ({"type": "policy", "epoch": -1, "active": None}, "LM3002"),
        ({"type": "listeners", "inbound": [], "outbound": []}, "LM3013"),
        ({"type": "identity", "spiffe_id": "no", "chain": [], "key": "", "bundles": {}}, "LM3002"),
        ({"type": "attested", "conn": "x"}, "LM3002"),
        ({"type": "unheard-of"}, "LM3002"),
    ],
)
def test_what_cannot_be_applied_leaves_the_last_good_state(
    behind: tuple[Agent, App], corp: Realm, web: X509Svid, message: dict[str, object], code: str
) -> None:
    agent, _ = behind
    agent.policy(policies(ALLOW_WEB_TCP, protocol="tcp", port=inbound_port(agent)), epoch=7)
    agent.send(message)
    assert agent.wait("failed", lambda found: found["code"] == code)
    with connect(inbound_port(agent), web, corp.bundle) as sock:
        assert sock.recv(100).startswith(b"220")


@pytest.fixture(scope="module")
def observed(sidecars: Make, corp: Realm) -> Any:
    app = App(http_answer)
    agent = sidecars(corp.svid(DB), corp.bundle, inbound=({"address": "127.0.0.1", "port": 0, "app_port": app.port},))
    yield agent, app
    app.close()


def test_observe_lets_through_and_says_what_it_would_deny(
    observed: tuple[Agent, App], corp: Realm, web: X509Svid
) -> None:
    agent, _ = observed
    agent.policy(policies(mode="observe", port=inbound_port(agent)))
    with connect(inbound_port(agent), web, corp.bundle) as sock:
        sock.sendall(REQUEST)
        assert read_response(sock)[0] == 200
    row = agent.record(path="/orders")
    assert (row["decision"], row["policy_decision"], row["mode"]) == ("allow", "deny", "observe")


def test_a_candidate_is_recorded_and_changes_nothing(observed: tuple[Agent, App], corp: Realm, web: X509Svid) -> None:
    agent, _ = observed
    port = inbound_port(agent)
    agent.policy(
        policies(ALLOW_WEB, port=port), epoch=2, candidate={"hash": "sha256:c", "policies": policies(port=port)}
    )
    with connect(port, web, corp.bundle) as sock:
        sock.sendall(b"GET /orders/candidate HTTP/1.1\r\n" + HOST + b"\r\n")
        assert read_response(sock)[0] == 200
    row = agent.record(path="/orders/candidate")
    assert row["decision"] == "allow"
    assert (row["candidate"]["decision"], row["candidate"]["snapshot"]) == ("deny", "sha256:c")


def test_a_workload_that_is_not_there_is_said_to_be_unreachable(sidecars: Make, corp: Realm, web: X509Svid) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    agent = sidecars(corp.svid(DB), corp.bundle, inbound=({"address": "127.0.0.1", "port": 0, "app_port": port},))
    agent.policy(policies(ALLOW_WEB, port=inbound_port(agent)))
    with connect(inbound_port(agent), web, corp.bundle) as sock:
        sock.sendall(REQUEST)
        status, body = read_response(sock)
    assert (status, json.loads(body)["code"]) == (503, "LM3300")


def test_a_port_that_needs_envoy_is_denied(sidecars: Make, corp: Realm, web: X509Svid) -> None:
    app = App(http_answer)
    agent = sidecars(corp.svid(DB), corp.bundle, inbound=({"address": "127.0.0.1", "port": 0, "app_port": app.port},))
    found = policies(ALLOW_WEB_TCP, port=inbound_port(agent))
    found["services"][0]["dataplane"] = "envoy"  # type: ignore[index]  # a table of services
    agent.policy(found)
    with connect(inbound_port(agent), web, corp.bundle) as sock:
        assert read_all(sock) == b""
    assert agent.record(code="LM3202")
    assert app.connections == 0
    app.close()


@pytest.fixture
def by_caller(sidecars: Make, corp: Realm, apps: Make) -> tuple[Agent, App]:
    """A sidecar whose port speaks HTTP, and whose rules look at the caller alone."""
    app: App = apps()
    agent = sidecars(corp.svid(DB), corp.bundle, inbound=({"address": "127.0.0.1", "port": 0, "app_port": app.port},))
    agent.policy(policies(ALLOW_WEB_TCP, port=inbound_port(agent)))
    return agent, app


def test_where_the_caller_alone_counts_many_programs_have_a_connection_each_to_the_workload(
    by_caller: tuple[Agent, App], corp: Realm, web: X509Svid
) -> None:
    agent, app = by_caller
    with connect(inbound_port(agent), web, corp.bundle) as sock:
        for request in (serial.marked(REQUEST), REQUEST, serial.marked(REQUEST)):
            sock.sendall(request)
            assert read_response(sock) == (200, b"hello")
    assert app.connections == 2
    assert not any(b"x-limen-begins" in request for request in app.requests)
    assert agent.record(path="/orders")["decision"] == "allow"


def test_where_the_caller_alone_counts_one_program_is_joined_with_the_workload_and_nobody_reads(
    by_caller: tuple[Agent, App], corp: Realm, web: X509Svid
) -> None:
    agent, app = by_caller
    odd = b"GET /orders HTTP/1.0\r\nX-Odd : 1\r\n\r\n"
    with connect(inbound_port(agent), web, corp.bundle) as sock:
        for request in (odd, serial.marked(REQUEST)):
            sock.sendall(request)
            assert read_response(sock) == (200, b"hello")
    assert app.connections == 1
    assert app.requests == [odd, serial.marked(REQUEST)]


def test_where_the_caller_alone_counts_a_silent_one_reaches_the_workload_too(
    by_caller: tuple[Agent, App], corp: Realm, web: X509Svid
) -> None:
    agent, app = by_caller
    with connect(inbound_port(agent), web, corp.bundle) as sock:
        assert eventually(lambda: app.connections == 1)
        sock.sendall(serial.marked(REQUEST))
        assert read_response(sock) == (200, b"hello")
    assert app.requests == [serial.marked(REQUEST)]


def test_where_the_caller_alone_counts_one_that_ends_at_once_is_let_go_and_a_denied_one_hears_nothing(
    by_caller: tuple[Agent, App], corp: Realm, web: X509Svid
) -> None:
    agent, app = by_caller
    with connect(inbound_port(agent), corp.svid(OPS), corp.bundle) as sock:
        sock.sendall(serial.marked(REQUEST))
        assert read_all(sock) == b""
    assert agent.record(caller=OPS)["code"] == "LM2302"
    assert app.connections == 0
    with connect(inbound_port(agent), web, corp.bundle) as sock:
        sock.unwrap()
    assert agent.record(caller=WEB)["decision"] == "allow"
    agent.policy(policies(port=inbound_port(agent)), epoch=2)
    with connect(inbound_port(agent), web, corp.bundle) as sock:
        assert read_all(sock) == b""
