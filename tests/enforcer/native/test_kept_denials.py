"""A sidecar that answers who is denied only when its agent has the record: real processes, the test is the agent."""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.enforcer.native.harness import (
    ALLOW_WEB,
    DB,
    HOST,
    PATIENCE_S,
    WEB,
    Agent,
    App,
    Realm,
    connect,
    http_answer,
    inbound_port,
    outbound_port,
    policies,
    read_all,
    read_response,
)

Make = Callable[..., Any]
DENIED = b"GET /admin HTTP/1.1\r\n" + HOST + b"\r\n"


@pytest.fixture
def app() -> Iterator[App]:
    found = App(http_answer)
    yield found
    found.close()


def served(sidecars: Make, corp: Realm, app: App, **options: object) -> Agent:
    door = {"address": "127.0.0.1", "port": 0, "app_port": app.port}
    agent: Agent = sidecars(corp.svid(DB), corp.bundle, inbound=(door,), acknowledges=False, **options)
    return agent


def acknowledge(agent: Agent, **fields: object) -> dict[str, Any]:
    """Take the batch that holds a record over, as an agent does whose disk has it."""
    row = agent.record(**fields)
    holds = agent.wait("records", lambda found: row in found["records"])  # type: ignore[operator]  # a list of records
    agent.send({"type": "ack", "sequence": holds["sequence"]})
    return row


def is_silent(agent: Agent, sock: socket.socket, epoch: int, told: dict[str, object]) -> bool:
    """Whether nothing came, by when the sidecar has answered its agent again: it was asked after it had the request."""
    agent.policy(told, epoch=epoch)
    sock.settimeout(0)
    try:
        sock.recv(1)  # a byte, or an end
    except (ssl.SSLWantReadError, BlockingIOError):
        return True
    else:
        return False
    finally:
        sock.settimeout(PATIENCE_S)


def test_a_denied_request_is_answered_when_its_record_is_taken_over_and_not_before(
    sidecars: Make, corp: Realm, app: App
) -> None:
    agent = served(sidecars, corp, app, keeps_denials=True)
    told = policies(ALLOW_WEB, port=inbound_port(agent))
    agent.policy(told)
    web = corp.svid(WEB)
    with connect(inbound_port(agent), web, corp.bundle) as sock:
        sock.sendall(b"GET /orders HTTP/1.1\r\n" + HOST + b"\r\n")
        # who is allowed waits for no disk
        assert read_response(sock)[0] == 200
        for epoch in (2, 3):
            sock.sendall(DENIED)
            agent.record(code="LM2302")
            assert is_silent(agent, sock, epoch, told)
            row = acknowledge(agent, code="LM2302")
            status, body = read_response(sock)
            assert (status, json.loads(body)["decision"]) == (403, row["id"])
            agent.heard.clear()


def test_without_the_setting_a_denied_request_waits_for_nobody(sidecars: Make, corp: Realm, app: App) -> None:
    agent = served(sidecars, corp, app)
    agent.policy(policies(ALLOW_WEB, port=inbound_port(agent)))
    with connect(inbound_port(agent), corp.svid(WEB), corp.bundle) as sock:
        sock.sendall(DENIED)
        assert read_response(sock)[0] == 403


@pytest.mark.slow
def test_without_an_agent_a_denied_request_gets_no_answer_at_all(sidecars: Make, corp: Realm, app: App) -> None:
    agent = served(sidecars, corp, app, keeps_denials=True)
    agent.policy(policies(ALLOW_WEB, port=inbound_port(agent)))
    with connect(inbound_port(agent), corp.svid(WEB), corp.bundle) as sock:
        sock.sendall(DENIED)
        assert read_all(sock) == b""


def test_a_denied_connection_is_closed_when_its_record_is_taken_over_and_not_before(
    sidecars: Make, corp: Realm, app: App
) -> None:
    agent = served(sidecars, corp, app, keeps_denials=True)
    told = policies(port=inbound_port(agent), protocol="tcp")
    agent.policy(told)
    with connect(inbound_port(agent), corp.svid(WEB), corp.bundle) as sock:
        agent.record(decision="deny", caller=WEB)
        assert is_silent(agent, sock, 2, told)
        acknowledge(agent, decision="deny", caller=WEB)
        assert read_all(sock) == b""
    assert app.connections == 0


def test_another_process_is_refused_when_the_record_of_it_is_taken_over_and_not_before(
    sidecars: Make, corp: Realm
) -> None:
    agent: Agent = sidecars(
        corp.svid(WEB),
        corp.bundle,
        outbound=({"service": DB, "port": 8080, "local_port": 0},),
        attest=lambda _: {"ok": False, "code": "LM3210", "facts": {}},
        acknowledges=False,
        keeps_denials=True,
    )
    told = policies(port=8080)
    agent.policy(told)
    with socket.create_connection(("127.0.0.1", outbound_port(agent)), PATIENCE_S) as sock:
        sock.sendall(DENIED)
        agent.record(code="LM3210")
        assert is_silent(agent, sock, 2, told)
        row = acknowledge(agent, code="LM3210")
        status, body = read_response(sock)
        assert (status, json.loads(body)["decision"]) == (403, row["id"])


def test_a_request_that_cannot_be_carried_is_answered_when_that_is_taken_over(sidecars: Make, corp: Realm) -> None:
    agent: Agent = sidecars(
        corp.svid(WEB),
        corp.bundle,
        outbound=({"service": DB, "port": 8080, "local_port": 0},),
        acknowledges=False,
        keeps_denials=True,
    )
    told = policies(ALLOW_WEB, port=8080)
    agent.policy(told)
    with socket.create_connection(("127.0.0.1", outbound_port(agent)), PATIENCE_S) as sock:
        sock.sendall(DENIED)
        agent.record(direction="outbound", decision="deny")
        assert is_silent(agent, sock, 2, told)
        row = acknowledge(agent, direction="outbound", decision="deny")
        status, body = read_response(sock)
        assert (status, json.loads(body)["decision"]) == (503, row["id"])
