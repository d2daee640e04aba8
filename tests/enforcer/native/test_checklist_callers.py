"""The bypass catalogue against a running sidecar, A28 to A49: callers, addresses, tiers, revocation, shadowing.

A01 to A27 are requests, and stand in `tests/bypasses.py`; `test_sidecar` sends every one of them.
"""

from __future__ import annotations

import itertools
import json
import socket
import ssl
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mesh.problems import Invalid
from mesh.tls import client_context
from policyengine.wire import read_policy_set
from tests.enforcer.native.harness import (
    DB,
    HOST,
    OPS,
    PATIENCE_S,
    WEB,
    Agent,
    App,
    Realm,
    banner_answer,
    connect,
    echo_answer,
    eventually,
    http_answer,
    inbound_port,
    policies,
    read_all,
    read_response,
)

pytestmark = pytest.mark.system
Make = Callable[..., Any]
Rule = dict[str, object]
REQUEST = b"GET /orders HTTP/1.1\r\n" + HOST + b"\r\n"


class Place:
    """A sidecar whose policies a test sets."""

    def __init__(self, agent: Agent, app: App, corp: Realm, protocol: str) -> None:
        self.agent, self.app, self.corp, self.protocol = agent, app, corp, protocol
        self.port = inbound_port(agent)
        self.epochs = itertools.count(1)

    def rules(self, *rules: Rule, candidate: object = None) -> None:
        told = policies(*rules, protocol=self.protocol, port=self.port)
        self.agent.policy(told, epoch=next(self.epochs), candidate=candidate)

    def open(self, who: str = WEB) -> ssl.SSLSocket:
        return connect(self.port, self.corp.svid(who), self.corp.bundle)

    def get(self, who: str = WEB, target: bytes = b"/orders", fields: bytes = b"") -> int:
        with self.open(who) as sock:
            sock.sendall(b"GET " + target + b" HTTP/1.1\r\n" + HOST + fields + b"\r\n")
            return read_response(sock)[0]


def _places(sidecars: Make, corp: Realm, protocol: str) -> Iterator[Place]:
    app = App({"http": http_answer, "tcp": echo_answer}[protocol])
    row = {"address": "127.0.0.1", "port": 0, "app_port": app.port}
    yield Place(sidecars(corp.svid(DB), corp.bundle, inbound=(row,)), app, corp, protocol)
    app.close()


@pytest.fixture(scope="module")
def http(sidecars: Make, corp: Realm) -> Iterator[Place]:
    yield from _places(sidecars, corp, "http")


@pytest.fixture(scope="module")
def tcp(sidecars: Make, corp: Realm) -> Iterator[Place]:
    yield from _places(sidecars, corp, "tcp")


def allow(*who: str, **more: object) -> Rule:
    return {"id": "allow", "effect": "allow", "from": list(who), "to": [{"paths": ["/**"]}], **more}


def deny(*who: str, **more: object) -> Rule:
    return {"id": "deny", "effect": "deny", "from": list(who), **more}


LOOPBACK, ONE = {"peer_ip": ["127.0.0.0/8"]}, {"peer_ip": ["127.0.0.1/32"]}


@pytest.mark.parametrize(
    ("rules", "status"),
    [
        pytest.param([allow(WEB, when=ONE), deny("any", when=LOOPBACK)], 403, id="A28-narrower-allow-under-a-deny"),
        pytest.param([allow(WEB, when=LOOPBACK), deny("any", when=ONE)], 403, id="A28-narrower-deny"),
        pytest.param([allow(WEB, when=LOOPBACK)], 200, id="A28-what-is-allowed"),
        pytest.param([allow(WEB, when={"peer_ip": ["10.0.0.0/8"]})], 403, id="A29-forwarded-address"),
    ],
)
def test_addresses_are_those_of_the_connection(http: Place, rules: list[Rule], status: int) -> None:
    http.rules(*rules)
    assert http.get(fields=b"X-Forwarded-For: 10.0.0.1\r\nForwarded: for=10.0.0.1\r\n") == status


@pytest.mark.parametrize(
    ("rule", "who", "status"),
    [
        pytest.param("spiffe://corp.test/ns/web/**", "spiffe://corp.test/ns/web/sa/x", 200, id="A34-inside"),
        pytest.param("spiffe://corp.test/ns/web/**", "spiffe://corp.test/ns/web-evil/sa/x", 403, id="A34-boundary"),
        pytest.param("spiffe://corp.test/ns/web/**", "spiffe://corp.test/foo/ns/web/x", 403, id="A34-path-injection"),
        pytest.param(
            "spiffe://corp.test/ns/cert-manager.io", "spiffe://corp.test/ns/cert-managerXio", 403, id="A35-dot"
        ),
        pytest.param("spiffe://corp.test/ns/a.b", "spiffe://corp.test/ns/a.b", 200, id="A35-the-name-itself"),
    ],
)
def test_identities_match_by_segments_and_letters(http: Place, rule: str, who: str, status: int) -> None:
    http.rules(allow(rule))
    assert http.get(who) == status


@pytest.mark.parametrize("domain", [pytest.param("evil.test", id="A34-federated-domain-with-the-same-path")])
def test_a_federated_caller_is_not_ours(http: Place, corp: Realm, evil: Realm, sidecars: Make, domain: str) -> None:
    app = App(http_answer)
    row = {"address": "127.0.0.1", "port": 0, "app_port": app.port}
    place = Place(sidecars(corp.svid(DB), corp.bundle, evil.bundle, inbound=(row,)), app, corp, "http")
    place.rules(allow("spiffe://corp.test/**"))
    svid = evil.svid(WEB.replace("corp.test", domain))
    with connect(place.port, svid, corp.bundle) as sock:
        sock.sendall(REQUEST)
        status, body = read_response(sock)
    assert (status, json.loads(body)["code"]) == (403, "LM2302")
    assert app.connections == 0
    app.close()


@pytest.mark.parametrize("protocol", [pytest.param("tcp", id="A36-request-fields-on-a-tcp-port")])
def test_a_rule_that_reads_requests_where_there_are_none_is_refused(tcp: Place, protocol: str) -> None:
    told = policies(allow(WEB, to=[{"ports": [tcp.port], "paths": ["/a"]}]), protocol=protocol, port=tcp.port)
    with pytest.raises(Invalid) as caught:
        read_policy_set(told)
    assert caught.value.code == "LM2001"
    tcp.agent.send({"type": "policy", "epoch": 999, "active": {"hash": "h", "policies": told}, "candidate": None})
    assert tcp.agent.wait("failed")["code"] == "LM2001"


@pytest.mark.parametrize(
    ("rules", "who", "passes"),
    [
        pytest.param([allow("any", to=None), deny("spiffe://corp.test/ns/bad/**")], "spiffe://corp.test/ns/bad/x", False, id="A37-subtree"),
        pytest.param([allow("any", to=None), deny("spiffe://corp.test/**")], WEB, False, id="A37-whole-domain"),
        pytest.param([allow("any", to=None), deny("spiffe://corp.test/ns/bad/**")], WEB, True, id="A37-others"),
    ],
)  # fmt: skip
def test_patterns_and_groups_decide_on_streams(tcp: Place, rules: list[Rule], who: str, passes: bool) -> None:
    tcp.rules(*({key: value for key, value in rule.items() if value is not None} for rule in rules))
    before = tcp.app.connections
    with tcp.open(who) as sock:
        try:
            sock.sendall(b"x")
            data = sock.recv(1)
        except OSError:
            data = b""
    assert data == (b"x" if passes else b"")
    assert tcp.app.connections == before + passes


@pytest.mark.parametrize("members", [pytest.param([], id="A38-group-of-nobody")])
def test_a_group_of_nobody_is_not_taken_and_the_last_good_stays(http: Place, members: list[str]) -> None:
    http.rules(allow(WEB))
    told = policies(allow("group:nobody"), port=http.port)
    told["groups"] = [{"name": "nobody", "owner": "", "members": members}]
    before = len(http.agent.heard)
    http.agent.send({"type": "policy", "epoch": 999, "active": {"hash": "h", "policies": told}, "candidate": None})
    assert eventually(lambda: any(message["type"] == "failed" for message in http.agent.heard[before:]))
    assert http.get() == 200


@pytest.mark.parametrize("who", [pytest.param(OPS, id="A39-banner")])
def test_a_server_that_speaks_first_is_not_even_called_for_who_is_denied(sidecars: Make, corp: Realm, who: str) -> None:
    app = App(banner_answer)
    row = {"address": "127.0.0.1", "port": 0, "app_port": app.port}
    place = Place(sidecars(corp.svid(DB), corp.bundle, inbound=(row,)), app, corp, "tcp")
    place.rules({"id": "web", "effect": "allow", "from": [WEB]})
    with place.open(who) as sock:
        assert read_all(sock) == b""
    assert app.connections == 0
    with place.open() as sock:
        assert sock.recv(100) == b"220 secret banner\r\n"
    app.close()


@pytest.mark.parametrize("protocol", ["http", "tcp"], ids=["A40-kept-alive", "A40-stream"])
def test_a_revoked_caller_loses_the_next_request_and_its_streams(http: Place, tcp: Place, protocol: str) -> None:
    place = http if protocol == "http" else tcp
    rule = allow(WEB) if protocol == "http" else {"id": "web", "effect": "allow", "from": [WEB]}
    place.rules(rule)
    with place.open() as sock:
        if protocol == "http":
            sock.sendall(REQUEST)
            assert read_response(sock)[0] == 200
            place.rules(rule, deny(WEB))
            sock.sendall(REQUEST)
            assert read_response(sock)[0] == 403
        else:
            sock.sendall(b"x")
            assert sock.recv(1) == b"x"
            sock.settimeout(5)  # no longer than this may a stream outlive its rule; silence is an error
            place.rules(rule, deny(WEB))
            assert read_all(sock) == b""
    assert eventually(lambda: bool(place.agent.records(caller=WEB, decision="deny")))


@pytest.mark.parametrize("who", [pytest.param(WEB, id="A40-no-session-outlives-a-revocation")])
def test_a_session_of_before_opens_nothing(http: Place, corp: Realm, who: str) -> None:
    http.rules(allow(who))
    context = client_context(corp.svid(who), {corp.trust_domain: corp.bundle})
    with socket.create_connection(("127.0.0.1", http.port), PATIENCE_S) as raw, context.wrap_socket(raw) as sock:
        sock.sendall(REQUEST)
        assert read_response(sock)[0] == 200
        session = sock.session
    assert session is not None
    assert session.has_ticket  # else nothing could be resumed, and nothing is shown
    http.rules(allow(OPS))
    with (
        socket.create_connection(("127.0.0.1", http.port), PATIENCE_S) as raw,
        context.wrap_socket(raw, session=session) as sock,
    ):
        assert not sock.session_reused
        sock.sendall(REQUEST)
        assert read_response(sock)[0] == 403


@pytest.mark.parametrize("count", [pytest.param(10_000, id="A48-ten-thousand-callers")])
def test_the_last_of_many_callers_is_found(http: Place, count: int) -> None:
    callers = [f"spiffe://corp.test/ns/many/sa/c{number}" for number in range(count)]
    http.rules(allow(*callers))
    assert http.get(callers[-1]) == 200
    assert http.get(callers[-1] + "0") == 403


@pytest.mark.parametrize("active", [True, False], ids=["A49-candidate-that-denies", "A49-candidate-that-allows"])
def test_a_candidate_changes_no_verdict_and_is_recorded_beside_it(http: Place, active: bool) -> None:
    yes, no = policies(allow(WEB), port=http.port), policies(port=http.port)
    target = b"/a49-%d" % active
    http.rules(*([allow(WEB)] if active else []), candidate={"hash": "c", "policies": no if active else yes})
    assert http.get(target=target) == (200 if active else 403)
    row = http.agent.record(path=target.decode())
    assert row["decision"] == ("allow" if active else "deny")
    assert row["candidate"]["decision"] == ("deny" if active else "allow")
    assert row["candidate"]["snapshot"] == "c"
