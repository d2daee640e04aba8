"""The checklist of a data plane against a running sidecar, S-1 to S-33: who may speak, and what a request may be.

Each id names the point it shows. `test_checklist_limits` has the others; what is about another data plane, or is shown
elsewhere, stands with its reason in docs/guides/dataplane.md.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import pathlib
import socket
import ssl
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from mesh.tls import client_context
from mesh.x509svid import X509Svid
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
    identity_message,
    inbound_port,
    outbound_port,
    policies,
    read_all,
    read_response,
)

pytestmark = pytest.mark.system
Make = Callable[..., Any]
uri = x509.UniformResourceIdentifier
REQUEST = b"GET /orders HTTP/1.1\r\n" + HOST + b"\r\n"
ROLE: dict[str, object] = {"id": "role", "effect": "allow", "from": [WEB]}
EVERYTHING: dict[str, object] = {"id": "everything", "effect": "allow", "from": [WEB]}


class Place:
    """A sidecar before an application, with a policy."""

    def __init__(self, agent: Agent, app: App, corp: Realm) -> None:
        self.agent, self.app, self.corp, self.web = agent, app, corp, corp.svid(WEB)
        self.port = inbound_port(agent)

    def open(self, svid: X509Svid | None = None) -> ssl.SSLSocket:
        return connect(self.port, svid or self.web, self.corp.bundle)

    def ask(self, raw: bytes) -> tuple[int, dict[str, Any]]:
        """Status and code of what comes back."""
        with self.open() as sock:
            sock.sendall(raw)
            status, body = read_response(sock)
        return status, json.loads(body) if body.startswith(b"{") else {}

    def get(self, target: bytes, *fields: bytes) -> tuple[int, dict[str, Any]]:
        lines = b"".join(field + b"\r\n" for field in fields)
        return self.ask(b"GET " + target + b" HTTP/1.1\r\n" + HOST + lines + b"\r\n")

    def from_stranger(self, svid: X509Svid) -> bytes:
        """What somebody gets who should get nothing."""
        data = b""
        try:
            with self.open(svid) as sock:
                sock.sendall(REQUEST)
                data = read_all(sock)
        except OSError:
            pass
        return data


@pytest.fixture(scope="module")
def app() -> Iterator[App]:
    found = App(http_answer)
    yield found
    found.close()


@pytest.fixture(scope="module")
def make_place(sidecars: Make, corp: Realm, app: App) -> Callable[..., Place]:
    def make(*rules: dict[str, object]) -> Place:
        row = {"address": "127.0.0.1", "port": 0, "app_port": app.port}
        agent = sidecars(corp.svid(DB), corp.bundle, inbound=(row,))
        agent.policy(policies(*rules, port=inbound_port(agent)))
        return Place(agent, app, corp)

    return make


@pytest.fixture(scope="module")
def place(make_place: Callable[..., Place]) -> Place:
    return make_place(ALLOW_WEB, {**ROLE, "to": [{"paths": ["/role"]}], "when": {"headers": {"x-role": ["user"]}}})


@pytest.fixture(scope="module")
def guarded(make_place: Callable[..., Place], corp: Realm) -> Place:
    """Everything is allowed to web but `/admin` and below, and what needs another role."""
    found = make_place(EVERYTHING)
    port = found.port
    rules: list[dict[str, object]] = [
        {**EVERYTHING, "to": [{"ports": [port], "paths": ["/**"]}]},
        {"id": "admin", "effect": "deny", "from": ["any"], "to": [{"ports": [port], "paths": ["/admin", "/admin/**"]}]},
        {"id": "role", "effect": "deny", "from": ["any"], "to": [{"ports": [port], "paths": ["/role"]}],
         "when": {"headers": {"x-role": ["admin"]}}},
    ]  # fmt: skip
    found.agent.policy(policies(*rules, port=port), epoch=2)
    return found


# -- transport and identity


@pytest.mark.parametrize(
    "kind", [pytest.param("none", id="S-1-no-client-certificate"), pytest.param("1.2", id="S-2-tls-1.2")]
)
def test_other_tls_is_refused(place: Place, kind: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if kind == "1.2":
        context = client_context(place.web, {place.corp.trust_domain: place.corp.bundle})
        context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    before = len(place.app.requests)
    with (
        pytest.raises(ssl.SSLError) as caught,
        socket.create_connection(("127.0.0.1", place.port), PATIENCE_S) as raw,
        context.wrap_socket(raw) as sock,
    ):
        sock.sendall(REQUEST)
        sock.recv(1)
    assert {"none": "CERTIFICATE_REQUIRED", "1.2": "PROTOCOL_VERSION"}[kind] in str(caught.value.reason)
    assert len(place.app.requests) == before


def _strangers(corp: Realm, evil: Realm) -> dict[str, X509Svid]:
    other_than_client = (ExtendedKeyUsageOID.SERVER_AUTH,)
    return {
        "another-authority": evil.forged(uri(WEB)),
        "expired": corp.svid(WEB, ttl=-dt.timedelta(minutes=1)),
        "not-yet-valid": corp.forged(uri(WEB), begins_in=dt.timedelta(hours=12)),
        "dns-name-alone": corp.forged(x509.DNSName("web.corp.test")),
        "dns-name-like-an-id": corp.forged(x509.DNSName(WEB)),
        "common-name-alone": corp.forged(common_name=WEB),
        "another-domain": evil.svid("spiffe://evil.test/ns/shop/sa/web"),
        "domain-as-prefix": corp.forged(uri("spiffe://corp.test.evil/ns/shop/sa/web")),
        "upper-case-scheme": corp.forged(uri(WEB.replace("spiffe", "SPIFFE"))),
        "upper-case-domain": corp.forged(uri(WEB.replace("corp", "CORP"))),
        "port": corp.forged(uri(WEB.replace("corp.test", "corp.test:80"))),
        "trailing-dot": corp.forged(uri(WEB + ".")),
        "trailing-slash": corp.forged(uri(WEB + "/")),
        "query": corp.forged(uri(WEB + "?a=b")),
        "two-uris": corp.svid(WEB, uri(OPS)),
        "authority": corp.svid(WEB, ca=True),
        "signs-certificates": corp.forged(uri(WEB), signs=True),
        "server-alone": corp.forged(uri(WEB), purposes=other_than_client),
    }


@pytest.mark.parametrize(
    ("who", "code"),
    [
        pytest.param("another-authority", "LM3020", id="S-3-other-authority"),
        pytest.param("expired", "LM3020", id="S-4-expired"),
        pytest.param("not-yet-valid", "LM3020", id="S-4-not-yet-valid"),
        pytest.param("dns-name-alone", "LM1011", id="S-5-dns-name-alone"),
        pytest.param("dns-name-like-an-id", "LM1011", id="S-5-A30-dns-name-like-an-id"),
        pytest.param("common-name-alone", "LM1011", id="S-5-A30-common-name-alone"),
        pytest.param("another-domain", "LM3020", id="S-6-foreign-trust-domain"),
        pytest.param("domain-as-prefix", "LM1018", id="S-6-domain-as-prefix"),
        pytest.param("upper-case-scheme", "LM1012", id="S-6-A33-upper-case-scheme"),
        pytest.param("upper-case-domain", "LM1012", id="S-6-A33-upper-case-domain"),
        pytest.param("port", "LM1012", id="S-6-A33-port"),
        pytest.param("trailing-slash", "LM1012", id="S-7-trailing-slash"),
        pytest.param("query", "LM1012", id="S-7-query"),
        pytest.param("two-uris", "LM1011", id="S-8-A31-two-uris"),
        pytest.param("authority", "LM3020", id="S-9-authority"),
        pytest.param("signs-certificates", "LM1014", id="S-9-signs-certificates"),
        pytest.param("server-alone", "LM3020", id="S-10-not-for-clients"),
    ],
)
def test_a_stranger_gets_no_byte_and_is_recorded(place: Place, corp: Realm, evil: Realm, who: str, code: str) -> None:
    before, known = len(place.app.requests), len(place.agent.records(caller=None, code=code))
    assert place.from_stranger(_strangers(corp, evil)[who]) == b""
    assert eventually(lambda: len(place.agent.records(caller=None, code=code)) > known)
    assert len(place.app.requests) == before


@pytest.mark.parametrize("end", [pytest.param(".", id="S-7-trailing-dot")])
def test_another_spelling_of_an_id_is_another_caller(place: Place, corp: Realm, end: str) -> None:
    with place.open(corp.forged(uri(WEB + end))) as sock:
        sock.sendall(REQUEST)
        status, body = read_response(sock)
    assert (status, json.loads(body)["code"]) == (403, "LM2302")


@pytest.mark.parametrize("purposes", [pytest.param((), id="S-10-no-purposes-are-all-of-them")])
def test_a_certificate_without_purposes_is_taken_as_the_specification_has_it(
    place: Place, corp: Realm, purposes: tuple[x509.ObjectIdentifier, ...]
) -> None:
    with place.open(corp.forged(uri(WEB), purposes=purposes)) as sock:
        sock.sendall(REQUEST)
        assert read_response(sock)[0] == 200


@pytest.mark.parametrize("who", [pytest.param(OPS, id="S-11-another-services-svid")])
def test_a_server_that_is_not_the_called_service_gets_no_byte(sidecars: Make, corp: Realm, app: App, who: str) -> None:
    row = {"address": "127.0.0.1", "port": 0, "app_port": app.port}
    impostor: Agent = sidecars(corp.svid(who), corp.bundle, inbound=(row,))
    impostor.policy(policies(EVERYTHING, port=inbound_port(impostor)))
    client: Agent = sidecars(corp.svid(WEB), corp.bundle, outbound=({"local_port": 0, "service": "db", "port": None},))
    client.policy(policies(ALLOW_WEB, port=inbound_port(impostor)))
    endpoint = {"spiffe_id": DB, "address": "127.0.0.1", "port": inbound_port(impostor)}
    client.send({"type": "endpoints", "endpoints": [endpoint]})
    before = len(app.requests)

    def answer() -> tuple[int, bytes]:
        with socket.create_connection(("127.0.0.1", outbound_port(client)), PATIENCE_S) as sock:
            sock.sendall(REQUEST)
            return read_response(sock)

    status, body = answer()
    assert (status, json.loads(body)["code"]) == (503, "LM3222")
    assert len(app.requests) == before


@pytest.mark.parametrize("bundles", [pytest.param(True, id="S-12-empty-bundle"), pytest.param(False, id="S-12-none")])
def test_without_an_authority_nobody_is_let_in(sidecars: Make, corp: Realm, app: App, bundles: bool) -> None:
    row = {"address": "127.0.0.1", "port": 0, "app_port": app.port}
    empty = type(corp.bundle)(trust_domain=corp.trust_domain, x509_authorities=())
    agent: Agent = sidecars(corp.svid(DB), *((empty,) if bundles else ()), inbound=(row,))
    assert agent.wait("failed")["code"] == "LM3010"
    agent.policy(policies(EVERYTHING, port=inbound_port(agent)))
    before = len(app.requests)
    assert Place(agent, app, corp).from_stranger(corp.svid(WEB)) == b""
    assert len(app.requests) == before


@pytest.mark.parametrize("count", [pytest.param(3, id="S-13-rotation")])
def test_a_rotation_keeps_live_connections_and_new_ones_see_the_new_certificate(
    make_place: Callable[..., Place], corp: Realm, count: int
) -> None:
    place = make_place(ALLOW_WEB)
    with place.open() as live:
        seen = {live.getpeercert(binary_form=True)}
        for number in range(count):
            svid = corp.svid(DB)
            place.agent.send({**identity_message(svid, corp.bundle), "trust": number + 2})
            place.agent.wait("trusts", lambda found, trust=number + 2: found["trust"] == trust)  # type: ignore[misc]
            live.sendall(REQUEST)
            assert read_response(live)[0] == 200
            with place.open() as fresh:
                assert fresh.getpeercert(binary_form=True) == svid.chain_der[0]
                seen.add(fresh.getpeercert(binary_form=True))
    assert len(seen) == count + 1


@pytest.mark.parametrize(
    "resumes", [pytest.param(False, id="S-14-live-and-new"), pytest.param(True, id="S-14-resumed")]
)
def test_a_bundle_without_the_callers_authority_ends_what_there_was_and_what_would_come(
    make_place: Callable[..., Place], corp: Realm, evil: Realm, resumes: bool
) -> None:
    place = make_place(ALLOW_WEB)
    context = client_context(place.web, {corp.trust_domain: corp.bundle})

    def get(session: ssl.SSLSession | None) -> tuple[bytes, ssl.SSLSession | None]:
        raw = socket.create_connection(("127.0.0.1", place.port), PATIENCE_S)
        with context.wrap_socket(raw, session=session) as sock:
            sock.sendall(REQUEST)
            data = sock.recv(65536)
            assert sock.session_reused is (session is not None)
            return data, sock.session

    assert get(None)[0].startswith(b"HTTP/1.1 200 ")
    data, session = get(get(None)[1])  # what is resumed here works until the bundle changes
    assert data.startswith(b"HTTP/1.1 200 ")
    with place.open() as live:
        live.sendall(REQUEST)
        assert read_response(live)[0] == 200
        place.agent.send({**identity_message(corp.svid(DB), evil.bundle), "trust": 2})
        assert read_all(live) == b""
    raw = socket.create_connection(("127.0.0.1", place.port), PATIENCE_S)
    data = b""
    with contextlib.suppress(OSError), context.wrap_socket(raw, session=session if resumes else None) as sock:
        sock.sendall(REQUEST)
        data = read_all(sock)
    assert data == b""


@pytest.mark.parametrize(
    ("begun", "how"),
    [
        pytest.param(False, "bundle", id="S-14-connected-before-the-authority-went"),
        pytest.param(True, "bundle", id="S-14-handshake-begun-before-the-authority-went"),
        pytest.param(False, "revoked", id="S-14-connected-before-it-was-revoked"),
        pytest.param(True, "revoked", id="S-14-handshake-begun-before-it-was-revoked"),
    ],
)
def test_a_handshake_that_was_held_open_over_a_revocation_opens_nothing(
    make_place: Callable[..., Place], corp: Realm, evil: Realm, begun: bool, how: str
) -> None:
    place = make_place(ALLOW_WEB)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = client_context(place.web, {corp.trust_domain: corp.bundle}).wrap_bio(incoming, outgoing)
    before = len(place.app.requests)
    with socket.create_connection(("127.0.0.1", place.port), PATIENCE_S) as raw:
        with contextlib.suppress(ssl.SSLWantReadError):
            tls.do_handshake()
        hello = outgoing.read()
        if begun:
            raw.sendall(hello)
            incoming.write(raw.recv(65536))
        else:
            with place.open() as other:  # whoever connects later is served: the first one has been accepted
                other.sendall(REQUEST)
                assert read_response(other)[0] == 200
            before += 1
        bundle = corp.revoking(place.web) if how == "revoked" else evil.bundle
        place.agent.send({**identity_message(corp.svid(DB), bundle), "trust": 2})
        place.agent.wait("trusts", lambda found: found["trust"] == 2)
        with contextlib.suppress(OSError):
            if not begun:
                raw.sendall(hello)
                incoming.write(raw.recv(65536))
            tls.do_handshake()
            tls.write(REQUEST)
            raw.sendall(outgoing.read())
        incoming.write(read_all(raw))
    assert place.agent.record(caller=None, decision="deny")["code"] == {"bundle": "LM1018", "revoked": "LM1034"}[how]
    assert len(place.app.requests) == before


@pytest.mark.parametrize("words", [pytest.param((b"PRIVATE KEY", b"PRIVATE"), id="S-15-key-in-memory-alone")])
def test_the_private_key_is_in_no_file_and_no_environment(place: Place, words: tuple[bytes, ...]) -> None:
    svid = place.corp.svid(DB)
    place.agent.send({**identity_message(svid, place.corp.bundle), "trust": 15})
    place.agent.wait("trusts", lambda found: found["trust"] == 15)  # it is in use, no longer on its way to OpenSSL
    process = pathlib.Path("/proc") / str(place.agent.process.pid)
    if os.access(process / "environ", os.R_OK):
        environment = (process / "environ").read_bytes() + (process / "cmdline").read_bytes()
        assert not any(word in environment for word in words)
        assert svid.key_pkcs8_der not in environment
        for link in (process / "fd").iterdir():
            target = os.readlink(link) if int(link.name) > 2 else ""  # the first three are the test's
            assert "memfd:svid" not in target
            assert not target.startswith(("/tmp", "/var", "/run", "/home", "/root"))
    assert (process / "status").read_text().count("NoNewPrivs:\t1") == 1


# -- what a request may be

SPELLINGS = [
    b"/admin", b"/admin;x=1", b"/admin;/", b"/;x/admin", b"/admin/", b"//admin", b"/./admin", b"/x/../admin",
    b"/x/..;/admin", b"/%61dmin", b"/admin%2f", b"/x%2f..%2fadmin", b"/admin%00", b"/%2e%2e/admin", b"/admin%3bx",
    b"/admin?x", b"/admin/x", b"/\\admin", b"/admin%20",
]  # fmt: skip


@pytest.mark.parametrize("target", [pytest.param(item, id=f"S-16-{item.decode()}") for item in SPELLINGS])
def test_no_spelling_of_a_denied_path_passes(guarded: Place, target: bytes) -> None:
    before = len(guarded.app.requests)
    status, found = guarded.get(target)
    assert status == 403
    assert guarded.agent.record(id=found["decision"])["decision"] == "deny"
    assert len(guarded.app.requests) == before


@pytest.mark.parametrize("target", [pytest.param(b"/ADMIN", id="S-16-case-matters-unless-the-service-says-otherwise")])
def test_what_is_another_path_to_the_service_is_one_to_its_policies(guarded: Place, target: bytes) -> None:
    assert guarded.get(target)[0] == 200
    assert guarded.app.requests[-1].startswith(b"GET " + target + b" ")


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        pytest.param((b"x-role: user",), 200, id="S-17-one-value"),
        pytest.param((b"x-role: user", b"x-role: admin"), 403, id="S-17-twice"),
        pytest.param((b"x-role: admin", b"X-ROLE: user"), 403, id="S-17-twice-the-other-way"),
        pytest.param((b"x-role: user,admin",), 403, id="S-17-comma"),
        pytest.param((b"x_role: admin",), 400, id="S-18-underscore"),
    ],
)
def test_a_header_that_policies_read_has_one_meaning(guarded: Place, fields: tuple[bytes, ...], status: int) -> None:
    before = len(guarded.app.requests)
    assert guarded.get(b"/role", *fields)[0] == status
    assert len(guarded.app.requests) == before + (status == 200)


@pytest.mark.parametrize(
    ("value", "status"),
    [
        pytest.param(b"user", 200, id="S-19-plain"),
        pytest.param(b"user\xff", 403, id="S-19-obs-text-behind"),
        pytest.param(b"\xffuser", 403, id="S-19-obs-text-before"),
        pytest.param(b"\xc3\x28", 403, id="S-19-no-utf-8"),
    ],
)
def test_bytes_beyond_ascii_match_no_value_of_an_allow(place: Place, value: bytes, status: int) -> None:
    assert place.get(b"/role", b"x-role: " + value)[0] == status


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        pytest.param(b"POST /orders HTTP/1.1\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n", 400, id="S-20-length-and-chunks"),
        pytest.param(b"POST /orders HTTP/1.1\r\nContent-Length: 4\r\nContent-Length: 4\r\n", 400, id="S-20-two-lengths"),
        pytest.param(b"POST /orders HTTP/1.1\r\nContent-Length: 4, 4\r\n", 400, id="S-20-list-of-lengths"),
        pytest.param(b"POST /orders HTTP/1.1\r\nContent-Length: +4\r\n", 400, id="S-20-signed-length"),
        pytest.param(b"POST /orders HTTP/1.1\r\nTransfer-Encoding: xchunked\r\n", 400, id="S-20-unknown-coding"),
        pytest.param(b"POST /orders HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n", 400, id="S-20-two-codings"),
        pytest.param(b"POST /orders HTTP/1.1\r\nTransfer-Encoding : chunked\r\n", 400, id="S-20-space-before-colon"),
        pytest.param(b"GET /orders HTTP/1.1\r\nx: a\0b\r\n", 400, id="S-20-nul"),
        pytest.param(b"GET /orders HTTP/1.1\r\nHost: evil.test\r\n", 400, id="S-21-two-hosts"),
        pytest.param(b"GET /orders HTTP/1.1\nx: y\r\n", 400, id="S-22-bare-lf"),
        pytest.param(b"GET /orders HTTP/1.1\r\nx: a\r\n b\r\n", 400, id="S-22-folded"),
        pytest.param(b"TRACE /orders HTTP/1.1\r\n", 400, id="S-22-trace"),
        pytest.param(b"GET http://evil.test/orders HTTP/1.1\r\n", 400, id="S-22-absolute"),
        pytest.param(b"GET /orders HTTP/1.0\r\n", 426, id="S-24-http-1.0"),
        pytest.param(b"GET /orders\r\n", 426, id="S-24-http-0.9"),
        pytest.param(b"GET /orders HTTP/2.0\r\n", 426, id="S-24-http-2.0-in-the-line"),
        pytest.param(b"CONNECT db.corp.test:443 HTTP/1.1\r\n", 400, id="S-25-connect"),
        pytest.param(b"GET /orders HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n", 403, id="S-25-undeclared-upgrade"),
        pytest.param(b"GET /orders HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n", 403, id="S-25-h2c"),
        pytest.param(b"GET /orders HTTP/1.1\r\nx: " + b"a" * 33_000 + b"\r\n", 431, id="S-26-33-kilobytes"),
        pytest.param(b"GET /orders HTTP/1.1\r\n" + b"x: y\r\n" * 150, 431, id="S-26-150-fields"),
        pytest.param(b"FROB /orders HTTP/1.1\r\n", 400, id="S-27-unknown-method"),
        pytest.param(b"get /orders HTTP/1.1\r\n", 400, id="S-27-A19-lower-case-method"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n", 426, id="S-32-http-2-preface"),
    ],
)  # fmt: skip
def test_what_breaks_a_rule_is_answered_recorded_and_ends_the_connection(place: Place, raw: bytes, status: int) -> None:
    before = len(place.app.requests)
    with place.open() as sock:
        sock.sendall(raw + HOST + b"\r\n" + REQUEST)
        data = read_all(sock)
    assert data.startswith(b"HTTP/1.1 %d " % status)
    assert data.count(b"HTTP/1.1 ") == 1
    found = json.loads(data[data.index(b"\r\n\r\n") :])
    assert place.agent.record(id=found["decision"])["code"] == found["code"]
    assert len(place.app.requests) == before


@pytest.mark.parametrize(
    ("host", "forwarded"),
    [
        pytest.param(b"db.corp.test.", b"db.corp.test", id="S-23-trailing-dot"),
        pytest.param(b"db.corp.test:8443", b"db.corp.test:8443", id="S-23-port"),
        pytest.param(b"DB.Corp.Test", b"db.corp.test", id="S-23-case"),
    ],
)
def test_a_host_is_decided_and_sent_on_in_its_canonical_form(place: Place, host: bytes, forwarded: bytes) -> None:
    assert place.ask(b"GET /orders HTTP/1.1\r\nHost: " + host + b"\r\n\r\n")[0] == 200
    assert b"\r\nhost: " + forwarded + b"\r\n" in place.app.requests[-1]


@pytest.mark.parametrize(
    ("field", "forwarded"),
    [
        pytest.param(b"X-Forwarded-Client-Cert: By=x;URI=" + OPS.encode(), False, id="S-28-client-cert"),
        pytest.param(
            b"X-Forwarded-Client-Cert: forged\r\nConnection: x-forwarded-client-cert, close",
            False,
            id="S-28-hop-by-hop",
        ),
        pytest.param(b"X-Envoy-Decorator-Operation: forged", False, id="S-29-decorator"),
        pytest.param(b"X-Envoy-Upstream-Rq-Timeout-Ms: 98765", False, id="S-29-timeout"),
        pytest.param(b"X-Envoy-Original-Path: /admin", False, id="S-29-A18-original-path"),
        pytest.param(b"X-Request-Id: 7f", True, id="S-30-request-id-is-the-callers"),
        pytest.param(b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", True, id="S-30-trace"),
        pytest.param(b"X-Limen-Source: " + OPS.encode(), False, id="S-31-our-own"),
        pytest.param(b"X-Limen-Anything: forged", False, id="S-31-our-prefix"),
    ],
)
def test_only_the_sidecar_says_who_calls(place: Place, field: bytes, forwarded: bool) -> None:
    assert place.get(b"/orders", field)[0] == 200
    got = place.app.requests[-1]
    name, _, value = field.partition(b"\r\n")[0].partition(b": ")
    assert (value in got) is forwarded
    assert got.lower().count(name.lower() + b": ") == (1 if forwarded or b"Cert" in name or b"Source" in name else 0)
    assert b"x-limen-source: %b\r\n" % WEB.encode() in got
    assert b"x-forwarded-client-cert: By=%b;URI=%b\r\n" % (DB.encode(), WEB.encode()) in got


@pytest.mark.parametrize("count", [pytest.param(60, id="S-33-little-in-little-kept")])
def test_memory_stays_bounded_whatever_a_caller_sends_and_does_not_read(place: Place, count: int) -> None:
    def resident() -> int:
        with open(f"/proc/{place.agent.process.pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * 4096

    no = b"GET /no HTTP/1.1\r\n" + HOST + b"\r\n"
    heads = [
        b"GET /orders HTTP/1.1\r\n" + HOST + b"x: " + b"a" * 30_000,
        b"GET /orders HTTP/1.1\r\n" + HOST + b"c: a\r\n" * 90,
        b"POST /orders HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * 5000,
        no * 1000,  # thirty kilobytes of requests, six hundred of denials that nobody reads
    ]
    assert place.get(b"/orders")[0] == 200
    before = resident()
    with contextlib.ExitStack() as stack:
        for number in range(count):
            sock = stack.enter_context(place.open())
            sock.settimeout(0.2)
            with contextlib.suppress(TimeoutError):  # it is held, as it should be
                sock.sendall(heads[number % len(heads)])
        assert place.get(b"/orders")[0] == 200
        assert resident() - before < 64 * 1024 * 1024


@pytest.mark.parametrize("count", [pytest.param(20_000, id="S-33-a-flood-of-denials-leaves-others-served")])
def test_a_caller_that_floods_leaves_others_served(place: Place, count: int) -> None:
    with place.open() as flood, place.open() as other:
        flood.setblocking(False)
        with contextlib.suppress(ssl.SSLWantWriteError):
            flood.send(b"GET /no HTTP/1.1\r\n" + HOST + b"\r\n" + (b"GET /no HTTP/1.1\r\n" + HOST + b"\r\n") * count)
        for _ in range(5):
            other.sendall(REQUEST)
            assert read_response(other)[0] == 200
