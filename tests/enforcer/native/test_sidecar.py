"""Whole sidecars as processes, the test being their agent: what passes, what is refused, what is told."""

from __future__ import annotations

import datetime as dt
import json
import socket
import ssl
from collections.abc import Callable
from typing import Any

import jwt
import pytest
from cryptography import x509

from enforcer.native.tokens import thumbprint
from mesh.clock import SystemClock, format_time
from mesh.x509svid import X509Svid
from policyengine.issuer import Issuer
from policyengine.issuerreading import issuer_to_json
from tests import bypasses
from tests.ca.attestation.issuers import EC_KEY, RSA_KEY, jwk, key_set
from tests.enforcer.native.harness import (
    ALLOW_WEB,
    DB,
    HOST,
    OPS,
    PATIENCE_S,
    WEB,
    Agent,
    App,
    Realm,
    connect,
    eventually,
    http_answer,
    inbound_port,
    policies,
    read_all,
    read_response,
)

Make = Callable[..., Any]


class Served:
    """A database service behind a sidecar, with a rule for web."""

    def __init__(self, agent: Agent, app: App, corp: Realm, web: X509Svid) -> None:
        self.agent, self.app, self._corp, self._web = agent, app, corp, web
        self.port = inbound_port(agent)

    def connect(self) -> ssl.SSLSocket:
        return connect(self.port, self._web, self._corp.bundle)

    def ask(self, raw: bytes) -> bytes:
        """Everything that comes back for some bytes on a connection of web's."""
        with self.connect() as sock:
            sock.sendall(raw)
            status, body = read_response(sock)
            return b"%d " % status + body


@pytest.fixture(scope="module")
def served(sidecars: Make, corp: Realm) -> Any:
    app = App(http_answer)
    agent = sidecars(corp.svid(DB), corp.bundle, inbound=({"address": "127.0.0.1", "port": 0, "app_port": app.port},))
    agent.policy(policies(ALLOW_WEB, port=inbound_port(agent)))
    yield Served(agent, app, corp, corp.svid(WEB))
    app.close()


def test_an_allowed_request_reaches_the_application_with_the_callers_identity(served: Served) -> None:
    assert served.ask(b"GET /orders/7?a=1 HTTP/1.1\r\n" + HOST + b"\r\n") == b"200 hello"
    got = served.app.requests[-1]
    assert got.startswith(b"GET /orders/7?a=1 HTTP/1.1\r\nhost: db.corp.test\r\n")
    assert b"x-forwarded-client-cert: By=%b;URI=%b\r\n" % (DB.encode(), WEB.encode()) in got
    row = served.agent.record(path="/orders/7", decision="allow")
    assert (row["caller"], row["rule"], row["method"], row["direction"]) == (WEB, "orders", "GET", "inbound")
    assert "a=1" not in json.dumps(row)


def test_a_denied_request_names_the_code_and_the_record(served: Served) -> None:
    before = len(served.app.requests)
    status, _, body = served.ask(b"GET /admin HTTP/1.1\r\n" + HOST + b"\r\n").partition(b" ")
    found = json.loads(body)
    assert (status, found["code"]) == (b"403", "LM2302")
    assert found["message"]
    assert found["help"]
    assert served.agent.record(id=found["decision"])["decision"] == "deny"
    assert len(served.app.requests) == before


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        pytest.param(b"GET /orders/../admin HTTP/1.1\r\n", b"403", id="A01-dot-segments"),
        pytest.param(b"GET /orders/%2e%2e/admin HTTP/1.1\r\n", b"403", id="A01-encoded-dots"),
        pytest.param(b"GET //admin HTTP/1.1\r\n", b"403", id="A02-slashes"),
        pytest.param(b"GET /%61dmin HTTP/1.1\r\n", b"403", id="A03-encoded"),
        pytest.param(b"GET /orders%2f..%2fadmin HTTP/1.1\r\n", b"403", id="A05-encoded-slash"),
        pytest.param(b"GET /orders/%252e%252e/admin HTTP/1.1\r\n", b"403", id="A06-twice-encoded"),
        pytest.param(b"GET /orders/..;/admin HTTP/1.1\r\n", b"403", id="A08-matrix"),
        pytest.param(b"GET /orders/\\..\\admin HTTP/1.1\r\n", b"403", id="A05-backslash"),
        pytest.param(b"GET /orders/a%00 HTTP/1.1\r\n", b"403", id="A14-nul"),
        pytest.param(b"GET /orders/%c0%af HTTP/1.1\r\n", b"403", id="A14-overlong"),
        pytest.param(b"GET /orders/x%20 HTTP/1.1\r\n", b"403", id="A14-space"),
        pytest.param(b"DELETE /orders HTTP/1.1\r\n", b"403", id="A19-method"),
        pytest.param(b"POST /orders HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n", b"400", id="A23"),
        pytest.param(b"GET /orders HTTP/1.0\r\n", b"426", id="A24-http-1.0"),
        pytest.param(b"GET /orders HTTP/1.1\r\nUpgrade: websocket\r\n", b"403", id="A24-upgrade"),
        pytest.param(b"GET http://db.corp.test/orders HTTP/1.1\r\n", b"400", id="A12-absolute"),
        pytest.param(b"GET /orders HTTP/1.1\r\nHost: evil\r\n", b"400", id="A12-two-hosts"),
        pytest.param(b"GET /orders HTTP/1.1\r\nx-a: b\r\n c\r\n", b"400", id="A17-fold"),
        pytest.param(b"GET /orders#x HTTP/1.1\r\n", b"400", id="A07-fragment"),
        pytest.param(b"GET /orders HTTP/1.1\r\nx: " + b"a" * 40000 + b"\r\n", b"431", id="S26-large-head"),
    ],
)
def test_an_attack_on_the_request_never_reaches_the_application(served: Served, raw: bytes, status: bytes) -> None:
    before = len(served.app.requests)
    answer = served.ask(raw + HOST + b"\r\n")
    assert answer[:3] == status
    found = json.loads(answer[4:])
    assert found["code"].startswith("LM")
    assert served.agent.record(id=found["decision"])["code"] == found["code"]
    assert len(served.app.requests) == before


@pytest.mark.parametrize(
    ("target", "forwarded"),
    [
        pytest.param(b"/orders/./a//b", b"/orders/a/b", id="dots-and-slashes"),
        pytest.param(b"/orders/%7eme", b"/orders/~me", id="encoded-unreserved"),
        pytest.param(b"/orders/%c3%a9?q=%2e%2e/", b"/orders/%C3%A9?q=%2e%2e/", id="A04-query-verbatim"),
        pytest.param(b"/api/../orders", b"/orders", id="into-what-is-allowed"),
    ],
)
def test_the_application_gets_the_target_that_was_decided(served: Served, target: bytes, forwarded: bytes) -> None:
    assert served.ask(b"GET " + target + b" HTTP/1.1\r\n" + HOST + b"\r\n")[:3] == b"200"
    assert served.app.requests[-1].split(b" ")[1] == forwarded


def test_a_caller_cannot_say_who_it_is(served: Served) -> None:
    forged = (
        b"X-Forwarded-Client-Cert: By=x;URI=spiffe://corp.test/ns/ops/sa/admin\r\nX-Limen-Source: me\r\n"
        b"Connection: x-forwarded-client-cert, x-limen-source\r\nX-Envoy-Original-Path: /admin\r\n"
    )
    assert served.ask(b"GET /orders HTTP/1.1\r\n" + HOST + forged + b"\r\n")[:3] == b"200"
    got = served.app.requests[-1]
    assert got.lower().count(b"x-forwarded-client-cert") == 1
    assert got.lower().count(b"x-limen-source") == 1
    assert b"admin" not in got
    assert b"x-limen-source: %b\r\n" % WEB.encode() in got


def test_pipelined_requests_are_decided_one_by_one(served: Served) -> None:
    before = len(served.app.requests)
    one = b"GET /orders HTTP/1.1\r\n" + HOST + b"\r\n"
    other = b"GET /admin HTTP/1.1\r\n" + HOST + b"\r\n"
    with served.connect() as sock:
        sock.sendall(one + other + one.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        data = read_all(sock)
    statuses = [int(part[:3]) for part in data.split(b"HTTP/1.1 ")[1:]]
    assert statuses == [200, 403, 200]
    assert len(served.app.requests) - before == 2


def test_bodies_stream_in_both_framings(served: Served) -> None:
    big = b"x" * 3_000_000
    with served.connect() as sock:
        sock.sendall(b"POST /orders HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % len(big) + big)
        assert read_response(sock) == (200, b"hello")
        sock.sendall(b"POST /orders HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n")
        sock.sendall(b"3\r\nabc\r\n")
        sock.sendall(b"0\r\nX-Role: admin\r\n\r\n")
        assert read_response(sock) == (200, b"hello")
    assert served.app.requests[-2].endswith(big)
    assert served.app.requests[-1].endswith(b"\r\n\r\n3\r\nabc\r\n0\r\n\r\n")


def test_a_bad_chunk_ends_the_request_at_both_sides(served: Served) -> None:
    before = len(served.app.requests)
    with served.connect() as sock:
        sock.sendall(
            b"POST /orders HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\n\r\n"
        )
        status, body = read_response(sock)
    assert (status, json.loads(body)["code"]) == (400, "LM3109")
    assert len(served.app.requests) == before


def test_a_denied_request_with_a_body_ends_the_connection(served: Served) -> None:
    with served.connect() as sock:
        sock.sendall(b"POST /admin HTTP/1.1\r\n" + HOST + b"Content-Length: 60\r\n\r\nGET /orders HTTP/1.1\r\n")
        data = read_all(sock)
    assert data.count(b"HTTP/1.1 ") == 1
    assert b"connection: close" in data


@pytest.fixture
def strangers(corp: Realm, evil: Realm) -> dict[str, X509Svid]:
    other = x509.UniformResourceIdentifier(OPS)
    return {
        "another-domain": evil.svid("spiffe://evil.test/ns/shop/sa/web"),
        "another-domains-authority": evil.svid(WEB),
        "two-uris": corp.svid(WEB, other),
        "expired": corp.svid(WEB, ttl=-dt.timedelta(minutes=1)),
        "an-authority": corp.svid(WEB, ca=True),
    }


@pytest.mark.parametrize(
    "who",
    [
        pytest.param("another-domain", id="S6-A33-other-trust-domain"),
        pytest.param("another-domains-authority", id="S3-other-authority"),
        pytest.param("two-uris", id="S8-A31-two-uris"),
        pytest.param("expired", id="S4-expired"),
        pytest.param("an-authority", id="S9-leaf-is-an-authority"),
    ],
)
def test_a_stranger_moves_no_byte(served: Served, corp: Realm, strangers: dict[str, X509Svid], who: str) -> None:
    before = len(served.app.requests)
    known = len(served.agent.records(caller=None))
    data = b""
    try:
        with connect(served.port, strangers[who], corp.bundle) as sock:
            sock.sendall(b"GET /orders HTTP/1.1\r\n" + HOST + b"\r\n")
            data = read_all(sock)
    except OSError:
        pass
    assert data == b""
    assert len(served.app.requests) == before
    assert eventually(lambda: len(served.agent.records(caller=None)) > known)
    row = served.agent.records(caller=None)[-1]
    assert row["decision"] == "deny"
    assert row["code"].startswith(("LM1", "LM3020"))


def test_plaintext_to_the_mtls_port_gets_nothing(served: Served) -> None:
    with socket.create_connection(("127.0.0.1", served.port), PATIENCE_S) as sock:
        sock.sendall(b"GET /orders HTTP/1.1\r\n" + HOST + b"\r\n")
        assert b"HTTP" not in read_all(sock)
    assert served.agent.record(code="LM3020")["caller"] is None


@pytest.mark.parametrize(
    "version", [pytest.param("none", id="S1-no-certificate"), pytest.param("1.2", id="S2-tls-1.2")]
)
def test_other_tls_than_ours_gets_nothing(served: Served, version: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if version == "1.2":
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    data = b""
    try:
        with socket.create_connection(("127.0.0.1", served.port), PATIENCE_S) as raw, context.wrap_socket(raw) as sock:
            sock.sendall(b"GET /orders HTTP/1.1\r\n" + HOST + b"\r\n")
            data = read_all(sock)
    except OSError:
        pass
    assert data == b""


def test_flows_are_folded_and_told(served: Served) -> None:
    with served.connect() as sock:
        for _ in range(3):
            sock.sendall(b"GET /orders/flow HTTP/1.1\r\n" + HOST + b"\r\n")
            read_response(sock)

    def total() -> int:
        return sum(
            row["connections"]
            for message in served.agent.heard
            if message["type"] == "flows"
            for row in message["flows"]  # type: ignore[attr-defined]
            if row.get("path") == "/orders/flow"
            and (row["source"], row["destination"], row["status"], row["verdict"]) == (WEB, DB, 200, "allowed")
        )

    assert eventually(lambda: total() == 3)


def test_a_custom_rule_is_evaluated_and_one_that_may_not_run_is_unknown(served: Served) -> None:
    rule = {"id": "custom", "effect": "allow", "from": [WEB], "when": {"rego": "data.shop.extra"}}
    plain = policies(rule, port=inbound_port(served.agent))
    request = b"GET /note HTTP/1.1\r\nx-note: yes\r\n" + HOST + b"\r\n"
    source = 'package shop\n\nextra if input.headers["x-note"].value == "yes"\n'
    served.agent.policy({**plain, "rego": [{"path": "a.rego", "source": source}]}, epoch=2)
    # an answer has a tenth of a second: on a machine that is busy one may come too late
    assert eventually(lambda: served.ask(request)[:3] == b"200")
    assert served.ask(request.replace(b"yes", b"no"))[:3] == b"403"
    served.agent.policy(
        {**plain, "rego": [{"path": "a.rego", "source": "package shop\n\nextra if opa.runtime()\n"}]}, epoch=3
    )
    assert served.agent.wait("failed")["code"] == "LM2602"
    assert served.ask(request)[:3] == b"403"


@pytest.fixture(scope="module")
def attacked(sidecars: Make, corp: Realm) -> Any:
    """For each of the services of the catalogue a sidecar of its own."""
    app = App(http_answer)
    found: dict[str, Served] = {}
    for service in ("closed", "open", "caseless"):
        agent = sidecars(
            corp.svid(DB), corp.bundle, inbound=({"address": "127.0.0.1", "port": 0, "app_port": app.port},)
        )
        agent.policy(bypasses.policies(service, inbound_port(agent)))  # type: ignore[arg-type]  # the three there are
        found[service] = Served(agent, app, corp, corp.svid(WEB))
    yield found
    app.close()


@pytest.mark.parametrize("case", bypasses.cases(), ids=bypasses.case_id)
def test_bypass_never_reaches_the_application(
    attacked: dict[str, Served], case: tuple[bypasses.Bypass, bypasses.Service]
) -> None:
    bypass, service = case
    served = attacked[service]
    before = len(served.app.requests)
    answer = served.ask(bypass.raw)
    if bypass.verdict == "allow":
        assert answer == b"200 hello"
        assert len(served.app.requests) == before + 1
        return
    assert answer[:3] in {b"400", b"403", b"426"}
    assert len(served.app.requests) == before
    found = json.loads(answer[4:])
    assert served.agent.record(id=found["decision"])["code"] == found["code"]


def test_a_token_is_verified_by_keys_that_the_agent_told(sidecars: Make, corp: Realm) -> None:
    now = int(SystemClock().now().timestamp())

    def token(key: Any, kid: str, **claims: object) -> bytes:
        said = {"iss": "https://idp.test", "aud": "shop", "exp": now + 300, "roles": ["admin"], **claims}
        algorithm = "RS256" if key is RSA_KEY else "ES256"
        return b"authorization: Bearer " + jwt.encode(said, key, algorithm=algorithm, headers={"kid": kid}).encode()

    def told(*keys: dict[str, object]) -> dict[str, object]:
        until = format_time(SystemClock().now() + dt.timedelta(hours=1))
        return {"type": "keys", "sets": [{"source": issuer.source, "jwks": key_set(*keys).decode(), "until": until}]}

    issuer = Issuer(
        name="idp", owner="", issuer="https://idp.test", audiences=("shop",), jwks_uri="https://idp.test/keys",
        bind=("certificate",),
    )  # fmt: skip
    rule = {
        "id": "admin", "effect": "allow", "from": [WEB],
        "when": {"claims": {"issuer": "https://idp.test", "roles": ["admin"]}},
    }  # fmt: skip
    app, web = App(http_answer), corp.svid(WEB)
    agent = sidecars(corp.svid(DB), corp.bundle, inbound=({"address": "127.0.0.1", "port": 0, "app_port": app.port},))
    found = policies(rule, port=inbound_port(agent))
    agent.send(told(jwk(RSA_KEY, "r1")))
    agent.policy({**found, "issuers": [{"name": "idp", "owner": "", **issuer_to_json(issuer)}]})
    served = Served(agent, app, corp, web)
    own = {"cnf": {"x5t#S256": thumbprint(web.chain_der[0])}}

    def get(*fields: bytes) -> bytes:
        return served.ask(b"\r\n".join([b"GET /a HTTP/1.1", *fields, HOST, b""]))[:3]

    assert get(token(RSA_KEY, "r1", **own)) == b"200"
    assert get(token(RSA_KEY, "r1")) == b"403"
    assert get(token(RSA_KEY, "r1", cnf={"x5t#S256": thumbprint(b"another")})) == b"403"
    assert get(token(RSA_KEY, "r1", **own, aud="other")) == b"403"
    assert get() == b"403"
    assert served.agent.record(code="LM2302", decision="deny")
    # a key that is not there is asked for, and used when it is
    assert get(token(EC_KEY, "e1", **own)) == b"403"
    assert agent.wait("keys_missed")["sources"] == [issuer.source]
    agent.send(told(jwk(EC_KEY, "e1")))
    assert eventually(lambda: get(token(EC_KEY, "e1", **own)) == b"200")
    assert get(token(RSA_KEY, "r1", **own)) == b"403"
    # what is no key set changes nothing
    agent.send({"type": "keys", "sets": [{"source": issuer.source, "jwks": "x", "until": "2100-01-01T00:00:00Z"}]})
    assert agent.wait("failed")["code"] == "LM1257"
    assert get(token(EC_KEY, "e1", **own)) == b"200"
    app.close()
