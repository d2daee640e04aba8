"""The outbound side: who may use a local port, and which servers are believed."""

from __future__ import annotations

import datetime as dt
import json
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mesh.clock import SystemClock
from mesh.tls import client_context
from mesh.x509svid import X509Svid
from tests.enforcer.native.harness import (
    DB,
    HOST,
    OPS,
    PATIENCE_S,
    REQUEST,
    WEB,
    App,
    Pair,
    Realm,
    connect,
    echo_answer,
    eventually,
    http_answer,
    identity_message,
    inbound_port,
    outbound_port,
    policies,
    read_all,
    read_response,
)

Make = Callable[..., Any]


@pytest.fixture(scope="module")
def http(sidecars: Make, corp: Realm) -> Iterator[tuple[Pair, App]]:
    app = App(http_answer)
    yield Pair(sidecars, corp, app, protocol="http"), app
    app.close()


@pytest.fixture(scope="module")
def tcp(sidecars: Make, corp: Realm) -> Iterator[tuple[Pair, App]]:
    app = App(echo_answer)
    yield Pair(sidecars, corp, app, protocol="tcp"), app
    app.close()


def test_a_request_passes_two_sidecars(http: tuple[Pair, App]) -> None:
    pair, app = http
    assert pair.ask() == (200, b"hello")
    assert b"URI=%b" % WEB.encode() in app.requests[-1]


def test_the_agent_is_asked_about_the_very_connection(http: tuple[Pair, App]) -> None:
    pair, _ = http
    with pair.connect() as sock:
        sock.sendall(REQUEST)
        read_response(sock)
        asked = pair.asked[-1]
        assert asked["source"] == list(sock.getsockname())
        assert asked["destination"] == ["127.0.0.1", pair.local]
        assert isinstance(asked["accepted_ns"], int)


def test_a_denial_of_the_far_sidecar_reaches_the_near_application(http: tuple[Pair, App]) -> None:
    pair, _ = http
    status, body = pair.ask(b"GET /admin HTTP/1.1\r\n" + HOST + b"\r\n")
    assert (status, json.loads(body)["code"]) == (403, "LM2302")


def test_another_process_is_refused_and_told_why(http: tuple[Pair, App]) -> None:
    pair, app = http
    before = app.connections
    pair.word = {"ok": False, "code": "LM3210", "facts": {"exe": "/usr/bin/curl"}}
    try:
        status, body = pair.ask()
    finally:
        pair.word = {"ok": True, "code": "", "facts": {}}
    found = json.loads(body)
    assert (status, found["code"]) == (403, "LM3210")
    row = pair.client.record(id=found["decision"])
    assert (row["direction"], row["decision"], row["caller"]) == ("outbound", "deny", WEB)
    assert row["facts"]["exe"] == "/usr/bin/curl"
    assert app.connections == before


def test_another_process_that_speaks_no_http_gets_a_closed_connection(tcp: tuple[Pair, App]) -> None:
    pair, app = tcp
    before = app.connections
    pair.word = {"ok": False, "code": "LM3210", "facts": {}}
    try:
        with pair.connect() as sock:
            sock.sendall(b"\x00\x01binary")
            assert read_all(sock) == b""
    finally:
        pair.word = {"ok": True, "code": "", "facts": {}}
    assert app.connections == before


def test_streams_keep_their_other_direction_when_one_ends(tcp: tuple[Pair, App]) -> None:
    pair, _ = tcp
    with pair.connect() as sock:
        sock.sendall(b"hello")
        assert sock.recv(5) == b"hello"
        sock.shutdown(socket.SHUT_WR)
        assert read_all(sock) == b"bye"


def test_much_data_arrives_whole_in_both_directions(tcp: tuple[Pair, App]) -> None:
    pair, _ = tcp
    block = bytes(range(256)) * 4096
    with pair.connect() as sock:
        got = b""
        for _ in range(4):
            sock.sendall(block)
            while len(got) < len(block):
                part = sock.recv(1 << 16)
                assert part
                got += part
            assert got == block
            got = b""


def test_a_server_that_is_not_the_called_service_is_not_believed(
    sidecars: Make, corp: Realm, http: tuple[Pair, App]
) -> None:
    pair, app = http
    wrong = sidecars(corp.svid(OPS), corp.bundle, inbound=({"address": "127.0.0.1", "port": 0, "app_port": app.port},))
    before = app.connections
    pair.register(DB, inbound_port(wrong))
    try:
        status, body = pair.ask()
    finally:
        pair.register(DB, pair.port)
    assert (status, json.loads(body)["code"]) == (503, "LM3222")
    assert app.connections == before


def test_another_endpoint_is_tried_before_a_byte_has_moved(sidecars: Make, corp: Realm, http: tuple[Pair, App]) -> None:
    pair, app = http
    with socket.create_server(("127.0.0.1", 0)) as silent:
        dead = silent.getsockname()[1]
    wrong = sidecars(corp.svid(OPS), corp.bundle, inbound=({"address": "127.0.0.1", "port": 0, "app_port": app.port},))
    pair.register(DB, dead, DB, inbound_port(wrong), DB, pair.port)
    try:
        assert [pair.ask()[0] for _ in range(4)] == [200] * 4
    finally:
        pair.register(DB, pair.port)


def test_a_service_without_endpoints_is_unavailable(http: tuple[Pair, App]) -> None:
    pair, _ = http
    pair.register(OPS, pair.port)
    try:
        status, body = pair.ask()
    finally:
        pair.register(DB, pair.port)
    assert (status, json.loads(body)["code"]) == (503, "LM3221")


def test_an_agent_that_does_not_answer_is_a_refusal(sidecars: Make, corp: Realm) -> None:
    agent = sidecars(
        corp.svid(WEB),
        corp.bundle,
        outbound=({"local_port": 0, "service": DB, "port": None},),
        attest=lambda _: {"ok": "yes", "code": "LM3211", "facts": {}},
    )
    with socket.create_connection(("127.0.0.1", outbound_port(agent)), PATIENCE_S) as sock:
        sock.sendall(REQUEST)
        assert read_response(sock)[0] == 403


def test_rotation_keeps_live_connections_and_new_ones_use_the_new_certificate(
    http: tuple[Pair, App], corp: Realm
) -> None:
    pair, _ = http
    with pair.connect() as sock:
        sock.sendall(REQUEST)
        assert read_response(sock)[0] == 200
        for agent, name in ((pair.server, DB), (pair.client, WEB)):
            agent.send(identity_message(corp.svid(name, ttl=dt.timedelta(hours=2)), corp.bundle))
        for _ in range(20):
            sock.sendall(REQUEST)
            assert read_response(sock)[0] == 200
        assert pair.ask()[0] == 200


def test_a_policy_that_denies_closes_live_streams(tcp: tuple[Pair, App]) -> None:
    pair, _ = tcp
    with pair.connect() as sock:
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"
        pair.server.policy(policies(protocol="tcp", port=pair.port), epoch=2)
        assert read_all(sock) == b""
    pair.server.policy(pair.rules, epoch=3)
    with pair.connect() as sock:
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"


def test_a_policy_holds_from_the_next_request_on_a_live_connection(http: tuple[Pair, App]) -> None:
    pair, _ = http
    with pair.connect() as sock:
        sock.sendall(REQUEST)
        assert read_response(sock)[0] == 200
        pair.server.policy(policies(port=pair.port), epoch=2)
        sock.sendall(REQUEST)
        # no rule reads requests any more, so the port is decided whole; this connection is still read
        status, body = read_response(sock)
        assert (status, json.loads(body)["code"]) == (403, "LM2302")
        pair.server.policy(pair.rules, epoch=3)
        sock.sendall(REQUEST)
        assert read_response(sock)[0] == 200


def test_a_new_bundle_closes_connections_that_it_does_not_vouch_for(
    tcp: tuple[Pair, App], corp: Realm, evil: Realm
) -> None:
    pair, _ = tcp
    with pair.connect() as sock:
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"
        pair.server.send(identity_message(corp.svid(DB), evil.bundle))
        assert read_all(sock) == b""
    pair.server.send(identity_message(corp.svid(DB), corp.bundle))

    def works() -> bool:
        with pair.connect() as sock:
            sock.sendall(b"x")
            return sock.recv(1) == b"x"

    assert eventually(works)


def is_closed(sock: socket.socket) -> bool:
    """Whether the other side ends or cuts the connection next; silence is neither."""
    sock.settimeout(PATIENCE_S)
    try:
        return sock.recv(1) == b""
    except ConnectionError:
        return True


def short(corp: Realm, who: str, seconds: int = 10) -> X509Svid:
    """An SVID that ends so soon that a test can wait for it, and not before a slow machine has shaken hands."""
    return corp.svid(who, ttl=SystemClock().now() + dt.timedelta(seconds=seconds) - corp.now)


@pytest.mark.slow
def test_a_connection_ends_with_the_svid_that_the_caller_proved_itself_with(tcp: tuple[Pair, App], corp: Realm) -> None:
    pair, _ = tcp
    svid = short(corp, WEB)
    with connect(pair.port, svid, corp.bundle) as sock:
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"
        assert is_closed(sock)
        late = (SystemClock().now() - svid.not_after).total_seconds()
    # a certificate ends with its second; when that is seen is the machine's to say
    assert late >= -1


@pytest.mark.slow
def test_a_connection_ends_with_the_svid_that_the_service_proved_itself_with(sidecars: Make, corp: Realm) -> None:
    app = App(echo_answer)
    pair = Pair(sidecars, corp, app, protocol="tcp")
    svid = short(corp, DB)
    pair.server.send(identity_message(svid, corp.bundle))
    pair.server.policy(pair.rules, epoch=2)  # it has its certificate by then
    with pair.connect() as sock:
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"
        # it has another one by now, and the connection is still the old one's
        pair.server.send(identity_message(corp.svid(DB), corp.bundle))
        assert is_closed(sock)
        late = (SystemClock().now() - svid.not_after).total_seconds()
    assert late >= -1
    app.close()


@pytest.mark.slow
def test_an_http_connection_that_only_waits_is_closed_before_that(http: tuple[Pair, App], corp: Realm) -> None:
    pair, _ = http
    context = client_context(short(corp, WEB), {corp.trust_domain: corp.bundle})
    raw = socket.create_connection(("127.0.0.1", pair.port), PATIENCE_S)
    with context.wrap_socket(raw, suppress_ragged_eofs=False) as sock:
        sock.sendall(REQUEST)
        assert read_response(sock)[0] == 200
        # it is told that this is the end; when the certificate ends it would be cut
        assert sock.recv(1) == b""
