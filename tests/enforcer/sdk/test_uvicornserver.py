"""uvicorn behind mutual TLS, as strangers' clients see it."""

import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from enforcer.sdk import Limen, uvicornserver
from enforcer.sdk.runtime import SOCKET
from enforcer.sdk.uvicornserver import config
from mesh.problems import Invalid
from mesh.tls import client_context
from tests.enforcer.native.harness import (
    ALLOW_WEB,
    DB,
    OPS,
    WEB,
    Realm,
    identity_message,
    policies,
    read_response,
)
from tests.enforcer.sdk.conftest import PATIENCE_S, Teller, app, connect, eventually
from tests.ports import free_port

Make = Callable[..., tuple[Limen, Teller]]
ROOT = pathlib.Path(__file__).parents[3]
SERVES = """
from enforcer.sdk import connect
from enforcer.sdk.uvicornserver import serve
async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body"})
serve(app, connect(), log_level="error", lifespan="off")
"""
REQUEST = b"GET /orders HTTP/1.1\r\nHost: db.corp.test\r\n"


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_caller_is_known_through_a_rotation_and_denied_from_its_next_request_on(
    limens: Make, corp: Realm, serving: Any, loop: str
) -> None:
    limen, teller = limens(DB, policies(ALLOW_WEB))
    served = serving(limen, loop)
    with connect(served.port, corp.svid(WEB), corp.bundle) as sock:
        for trust in (2, 3):
            sock.sendall(REQUEST + b"X-Forwarded-For: 9.9.9.9\r\n\r\n")
            status, body = read_response(sock)
            assert (status, json.loads(body)) == (200, {"caller": WEB, "path": "/orders", "client": "127.0.0.1"})
            teller.identify(corp.svid(DB), corp.bundle, trust=trust)
        teller.policy(policies(), 2)
        sock.sendall(REQUEST + b"\r\n")
        status, body = read_response(sock)
        assert status == 403
        assert json.loads(body)["why"].startswith("limen audit show ")
        teller.policy(policies(ALLOW_WEB), 3)
        sock.sendall(REQUEST + b"\r\n")
        assert read_response(sock)[0] == 200


def test_two_callers_are_not_taken_for_each_other(limens: Make, corp: Realm, serving: Any) -> None:
    limen, _ = limens(DB, policies(ALLOW_WEB))
    served = serving(limen)
    with (
        connect(served.port, corp.svid(WEB), corp.bundle) as web,
        connect(served.port, corp.svid(OPS), corp.bundle) as ops,
    ):
        for _ in range(3):
            web.sendall(REQUEST + b"\r\n")
            ops.sendall(REQUEST + b"\r\n")
            assert (read_response(web)[0], read_response(ops)[0]) == (200, 403)


def test_a_peer_whose_bundle_was_removed_gets_no_answer(limens: Make, corp: Realm, evil: Realm, serving: Any) -> None:
    limen, teller = limens(DB, policies(ALLOW_WEB))
    teller.identify(corp.svid(DB), corp.bundle, evil.bundle, trust=2)
    served = serving(limen)
    with connect(served.port, evil.svid("spiffe://evil.test/x"), corp.bundle) as sock:
        sock.sendall(REQUEST + b"\r\n")
        assert read_response(sock)[0] == 403
        teller.identify(corp.svid(DB), corp.bundle, trust=3)
        with contextlib.suppress(OSError):
            sock.sendall(REQUEST + b"\r\n")
            assert read_response(sock)[0] == 0


def test_a_revoked_caller_loses_the_next_request_on_its_kept_connection_and_no_other_does(
    limens: Make, corp: Realm, serving: Any
) -> None:
    limen, teller = limens(DB, policies(ALLOW_WEB))
    served = serving(limen)
    stolen, renewed = corp.svid(WEB), corp.svid(WEB)
    with connect(served.port, stolen, corp.bundle) as thief, connect(served.port, renewed, corp.bundle) as web:
        for sock in (thief, web):
            sock.sendall(REQUEST + b"\r\n")
            assert read_response(sock)[0] == 200
        teller.identify(corp.svid(DB), corp.revoking(stolen), trust=2)
        with contextlib.suppress(OSError):
            thief.sendall(REQUEST + b"\r\n")
            assert read_response(thief)[0] == 0
        web.sendall(REQUEST + b"\r\n")
        assert read_response(web)[0] == 200
    with contextlib.suppress(OSError), connect(served.port, stolen, corp.bundle) as again:
        again.sendall(REQUEST + b"\r\n")
        assert read_response(again)[0] == 0


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_trailer_is_no_header_though_it_comes_with_its_head(
    limens: Make, corp: Realm, serving: Any, loop: str
) -> None:
    rule: dict[str, object] = {
        "id": "role",
        "effect": "allow",
        "from": [WEB],
        "when": {"headers": {"x-role": ["user"]}},
    }
    limen, _ = limens(DB, policies(rule))
    served = serving(limen, loop)
    head = REQUEST.replace(b"GET", b"POST") + b"Transfer-Encoding: chunked\r\nTrailer: x-role\r\n"
    with connect(served.port, corp.svid(WEB), corp.bundle) as sock:
        for trailer, status in ((b"x-role: user\r\n", 403), (b"", 403)):
            sock.sendall(head + b"\r\n0\r\n" + trailer + b"\r\n")
            assert read_response(sock)[0] == status
        # one that would be refused as a second header means nothing behind the body
        sock.sendall(head + b"x-role: user\r\n\r\n0\r\nx-role: admin\r\nHost: evil.test\r\n\r\n")
        assert read_response(sock)[0] == 200


def test_what_is_served_is_counted_for_prometheus(limens: Make, corp: Realm, serving: Any) -> None:
    limen, teller = limens(DB, policies(ALLOW_WEB))
    served = serving(limen)
    for who in (WEB, OPS):
        with connect(served.port, corp.svid(who), corp.bundle) as sock:
            sock.sendall(REQUEST + b"\r\n")
            read_response(sock)
    agent = teller.programs[0]
    agent.counted([8080, WEB, "allowed", "2xx", 1], [8080, OPS, "denied", "4xx", 1])
    told = [*agent._found("signals", lambda _: True)]
    assert sum(sum(found["durations"]) for found in told) == 2  # type: ignore[call-overload]  # counts
    shaken = [row for found in told for row in found["handshakes"]]  # type: ignore[attr-defined]  # rows
    assert sum(row[2] for row in shaken if row[:2] == ["inbound", ""]) == 2


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_server_that_ends_answers_what_is_under_way_to_it(
    limens: Make, corp: Realm, serving: Any, loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uvicornserver, "LAST_REQUEST_S", 3600)
    limen, _ = limens(DB, policies(ALLOW_WEB))
    served = serving(limen, loop, timeout_keep_alive=3600)
    svid = corp.svid(WEB)
    context = client_context(svid, {corp.trust_domain: corp.bundle})
    with (
        connect(served.port, svid, corp.bundle) as kept,
        connect(served.port, svid, corp.bundle) as fresh,
        socket.create_connection(("127.0.0.1", served.port), PATIENCE_S) as raw,
    ):
        kept.sendall(REQUEST + b"\r\n")
        assert read_response(kept)[0] == 200
        assert eventually(lambda: served.beginning() == 1)
        served.leave()
        # one in the middle of its handshake, one on which nothing was asked yet, one that was asked before
        with context.wrap_socket(raw) as late:
            for sock in (late, fresh, kept):
                sock.sendall(REQUEST + b"\r\n")
                assert read_response(sock)[0] == 200
                assert sock.recv(1) == b""
    assert eventually(served.is_over)


def test_a_server_that_ends_waits_for_nobody_who_asks_nothing(
    limens: Make, corp: Realm, serving: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uvicornserver, "LAST_REQUEST_S", 0.01)
    limen, _ = limens(DB, policies(ALLOW_WEB))
    served = serving(limen)
    with connect(served.port, corp.svid(WEB), corp.bundle) as sock:
        served.leave()
        assert sock.recv(1) == b""
    assert eventually(served.is_over)


@pytest.mark.system
@pytest.mark.slow
def test_a_program_that_sigterm_ends_has_told_what_it_decided(tellers: Callable[[], Teller], corp: Realm) -> None:
    teller, port = tellers(), free_port()
    serves = [{"address": "127.0.0.1", "port": port}]
    teller.say({"type": "listeners", "inbound": [], "outbound": [], "egress": [], "intercept": None, "serves": serves})
    active = {"hash": "sha256:1", "policies": policies(ALLOW_WEB, port=port)}
    teller.say({"type": "policy", "epoch": 1, "active": active, "candidate": None})
    teller.say(identity_message(corp.svid(DB), corp.bundle))
    process = subprocess.Popen([sys.executable, "-c", SERVES], env={**os.environ, SOCKET: str(teller.path)}, cwd=ROOT)
    try:
        assert eventually(lambda: is_open(port))
        with connect(port, corp.svid(WEB), corp.bundle) as sock:
            process.send_signal(signal.SIGTERM)
            sock.sendall(REQUEST + b"\r\n")
            assert read_response(sock)[0] == 200
    finally:
        process.terminate()
    assert process.wait(PATIENCE_S) == -signal.SIGTERM
    (agent,) = teller.programs
    assert eventually(lambda: agent.has_ended)
    assert agent.requests() == [[port, WEB, "allowed", "2xx", 1]]
    assert len(agent.records(kind="decision", caller=WEB)) == 1


def is_open(port: int) -> bool:
    """Whether anybody listens there."""
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", port), PATIENCE_S).close()
        return True
    return False


def test_the_port_is_the_one_that_was_asked_for(limens: Make) -> None:
    limen, _ = limens(DB, policies(ALLOW_WEB))
    made = config(app, limen)
    assert (made.host, made.port, made.proxy_headers) == ("127.0.0.1", 8080, False)
    for changed in ({"proxy_headers": True}, {"http": "h11"}, {"ssl_context_factory": None}):
        with pytest.raises(TypeError):
            config(app, limen, **changed)
    limen._known().serves = ()
    with pytest.raises(Invalid, match="LM5240"):
        config(app, limen)
