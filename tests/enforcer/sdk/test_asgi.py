"""The middleware: what reaches the application is what was decided, and nothing else does."""

import asyncio
import base64
import json
from collections.abc import Callable
from typing import Any

import pytest

from enforcer.sdk import Limen
from enforcer.sdk.asgi import Middleware
from mesh.problems import Invalid
from mesh.x509svid import X509Svid
from tests.enforcer.native.harness import ALLOW_WEB, DB, OPS, WEB, Realm, policies
from tests.enforcer.sdk.conftest import Teller

Make = Callable[..., tuple[Limen, Teller]]
HOST = (b"host", b"db.corp.test")


def pem(der: bytes) -> str:
    return f"-----BEGIN CERTIFICATE-----\n{base64.encodebytes(der).decode()}-----END CERTIFICATE-----\n"


class Asked:
    """One application behind the middleware, and what became of requests."""

    def __init__(self, limen: Limen, svid: X509Svid | None, kind: str = "http") -> None:
        self.scopes: list[Any] = []
        self._middleware = Middleware(self._app, limen)
        self._svid, self._kind = svid, kind

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        self.scopes.append(scope)
        if scope["type"] == "lifespan":
            return
        headers = [(b"x-limen-code", b"LM0000"), (b"x-own", b"1")]
        await send({"type": "http.response.start", "status": 201, "headers": headers})
        await send({"type": "http.response.body", "body": b"hello"})

    def scope(self, target: bytes = b"/orders", headers: Any = (HOST,), **more: Any) -> dict[str, Any]:
        path, _, query = target.partition(b"?")
        chain = [] if self._svid is None else [pem(der) for der in self._svid.chain_der]
        return {
            "type": self._kind, "http_version": "1.1", "method": "GET", "scheme": "https",
            "path": path.decode("latin-1"), "raw_path": path, "query_string": query, "root_path": "",
            "headers": list(headers), "client": ("10.1.2.3", 5), "server": ("127.0.0.1", 8080),
            "extensions": {"tls": {"client_cert_chain": chain}}, **more,
        }  # fmt: skip

    def ask(self, *arguments: Any, **more: Any) -> tuple[int, dict[bytes, bytes], bytes]:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        async def receive() -> Any:
            return {"type": "http.request", "body": b"", "more_body": False}

        asyncio.run(self._middleware(self.scope(*arguments, **more), receive, send))
        body = b"".join(message.get("body", b"") for message in sent[1:])
        return sent[0]["status"], dict(sent[0]["headers"]), body


@pytest.fixture
def asked(limens: Make, corp: Realm) -> Asked:
    limen, _ = limens(DB, policies(ALLOW_WEB))
    return Asked(limen, corp.svid(WEB))


def test_an_allowed_request_reaches_the_application_with_its_caller(asked: Asked) -> None:
    status, headers, body = asked.ask(b"/orders/7?a=b")
    assert (status, body) == (201, b"hello")
    # what only an enforcer may set is not the application's to say
    assert headers == {b"x-own": b"1"}
    scope = asked.scopes[0]
    assert scope["limen"]["caller"] == WEB
    assert dict(scope["headers"])[b"x-limen-source"] == WEB.encode()
    assert dict(scope["headers"])[b"x-forwarded-client-cert"] == f"By={DB};URI={WEB}".encode()
    assert (scope["path"], scope["query_string"]) == ("/orders/7", b"a=b")


def test_the_application_gets_the_spelling_that_was_decided(asked: Asked) -> None:
    assert asked.ask(b"/x/..//orders/%7e%41?q=%2f", method="POST")[0] == 201
    scope = asked.scopes[0]
    assert (scope["path"], scope["raw_path"], scope["query_string"]) == ("/orders/~A", b"/orders/~A", b"q=%2f")


def test_identity_that_a_caller_claims_is_taken_away(asked: Asked) -> None:
    claims = [
        (b"x-limen-source", OPS.encode()), (b"X-Forwarded-Client-Cert", b"URI=" + OPS.encode()),
        (b"x-envoy-internal", b"1"), (b"connection", b"x-secret"), (b"x-secret", b"1"), (b"x-kept", b"1"),
        (b"content-length", b"0"),
    ]  # fmt: skip
    assert asked.ask(b"/orders", [HOST, *claims])[0] == 201
    headers = asked.scopes[0]["headers"]
    assert [value for name, value in headers if name == b"x-limen-source"] == [WEB.encode()]
    assert [value for name, value in headers if name == b"x-forwarded-client-cert"] == [f"By={DB};URI={WEB}".encode()]
    assert {name for name, _ in headers} == {
        b"host", b"x-kept", b"content-length", b"x-limen-source", b"x-forwarded-client-cert",
    }  # fmt: skip


def test_a_denial_names_code_record_and_how_to_ask_why(limens: Make, corp: Realm) -> None:
    limen, teller = limens(DB, policies(ALLOW_WEB))
    asked = Asked(limen, corp.svid(OPS))
    status, headers, body = asked.ask()
    said = json.loads(body)
    assert (status, headers[b"content-type"], asked.scopes) == (403, b"application/json", [])
    assert headers[b"x-limen-code"].decode() == said["code"]
    assert said["why"] == f"limen audit show {said['decision']}"
    found = teller.programs[0].record(id=said["decision"])
    assert (found["caller"], found["decision"], found["peer_ip"], found["host"]) == (
        OPS,
        "deny",
        "10.1.2.3",
        "db.corp.test",
    )


BROKEN: dict[str, tuple[Any, str]] = {
    "no host": ({"headers": ()}, "LM3106"),
    "two hosts": ({"headers": (HOST, (b"host", b"evil"))}, "LM3106"),
    "an underscore": ({"headers": (HOST, (b"x_limen_source", b"1"))}, "LM3114"),
    "two lengths": ({"headers": (HOST, (b"content-length", b"1"), (b"content-length", b"2"))}, "LM3104"),
    "length and chunks": ({"headers": (HOST, (b"content-length", b"1"), (b"transfer-encoding", b"chunked"))}, "LM3104"),
    "another upgrade": ({"headers": (HOST, (b"connection", b"upgrade"), (b"upgrade", b"h2c"))}, "LM3108"),
    "HTTP/1.0": ({"http_version": "1.0"}, "LM3101"),
    "CONNECT": ({"method": "CONNECT"}, "LM3107"),
    "no raw path": ({"raw_path": None}, "LM3107"),
    "a path of another root": ({"root_path": "/api"}, "LM3107"),
    "no slash": ({"target": b"orders"}, "LM3107"),
}


@pytest.mark.parametrize(("change", "code"), BROKEN.values(), ids=BROKEN.keys())
def test_what_has_no_one_meaning_is_refused(asked: Asked, change: dict[str, Any], code: str) -> None:
    status, headers, body = asked.ask(**change)
    assert (status >= 400, headers[b"x-limen-code"].decode(), asked.scopes) == (True, code, [])
    assert json.loads(body)["code"] == code


@pytest.mark.parametrize(
    "target", [b"/orders;x", b"/orders%2f7", b"/orders/%00", b"/orders/%c0%af", b"/../x", b"/orders/ "]
)
def test_an_ambiguous_path_is_denied(asked: Asked, target: bytes) -> None:
    assert asked.ask(target)[0] in {400, 403}
    assert asked.scopes == []


def test_who_shows_no_certificate_is_nobody(limens: Make, corp: Realm, evil: Realm) -> None:
    limen, teller = limens(DB, policies(ALLOW_WEB))
    assert Asked(limen, None).ask()[1][b"x-limen-code"] == b"LM3466"
    good = Asked(limen, corp.svid(WEB))
    assert good.ask(extensions={})[1][b"x-limen-code"] == b"LM3466"
    assert good.ask(extensions={"tls": {"client_cert_chain": ["x"]}})[1][b"x-limen-code"] == b"LM3466"
    chain = [pem(der) for der in corp.svid(WEB).chain_der]
    failed = {"tls": {"client_cert_chain": chain, "client_cert_error": "expired"}}
    assert good.ask(extensions=failed)[1][b"x-limen-code"] == b"LM3466"
    assert good.scopes == []
    assert teller.programs[0].record(code="LM3466")["caller"] is None
    assert Asked(limen, evil.svid(WEB)).ask()[0] == 403


def test_policies_and_bundles_take_effect_on_the_next_request(limens: Make, corp: Realm, evil: Realm) -> None:
    limen, teller = limens(DB, policies(ALLOW_WEB))
    asked = Asked(limen, corp.svid(WEB))
    assert asked.ask()[0] == 201
    teller.policy(policies(), 2)
    assert asked.ask()[0] == 403
    teller.policy(policies(ALLOW_WEB), 3)
    assert asked.ask()[0] == 201
    teller.identify(corp.svid(DB), evil.bundle, trust=2)
    assert asked.ask()[0] == 403


def test_the_root_path_of_a_mount_is_the_servers(asked: Asked) -> None:
    assert asked.ask(b"/api/orders//7", root_path="/api")[0] == 201
    assert (asked.scopes[0]["path"], asked.scopes[0]["raw_path"]) == ("/api/orders/7", b"/api/orders/7")


def test_a_port_of_policies_may_be_another_than_the_one_that_listens(limens: Make, corp: Realm) -> None:
    limen, _ = limens(DB, policies(ALLOW_WEB))
    asked = Asked(limen, corp.svid(WEB))
    assert asked.ask(server=("127.0.0.1", 9))[0] == 403
    assert asked.ask(server=None)[0] == 403
    asked._middleware = Middleware(asked._app, limen, port=8080)
    assert asked.ask(server=("127.0.0.1", 9))[0] == 201


def test_exchanges_are_counted_with_what_they_were_answered(limens: Make, corp: Realm) -> None:
    limen, teller = limens(DB, policies(ALLOW_WEB))
    Asked(limen, corp.svid(WEB)).ask()
    row = teller.programs[0].wait("flows")["flows"][0]  # type: ignore[index]
    assert (row["source"], row["destination"], row["status"], row["method"]) == (WEB, DB, 201, "GET")


def test_what_is_refused_before_a_decision_is_counted_as_refused(limens: Make, corp: Realm) -> None:
    limen, teller = limens(DB, policies(ALLOW_WEB))
    status, _, _ = Asked(limen, corp.svid(WEB)).ask(headers=(HOST, HOST))
    teller.programs[0].counted([8080, WEB, "refused", f"{status // 100}xx", 1])


def test_start_and_end_of_the_server_pass_and_what_nobody_decides_does_not(asked: Asked) -> None:
    async def nothing(*_: Any) -> Any:
        return {}

    asyncio.run(asked._middleware({"type": "lifespan"}, nothing, nothing))
    assert asked.scopes == [{"type": "lifespan"}]
    with pytest.raises(NotImplementedError):
        asyncio.run(asked._middleware({"type": "webtransport"}, nothing, nothing))


# -- WebSockets

UPGRADE = (
    HOST, (b"connection", b"upgrade"), (b"upgrade", b"websocket"), (b"sec-websocket-version", b"13"),
    (b"sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZQ=="),
)  # fmt: skip


def with_websocket() -> dict[str, Any]:
    found: Any = policies(ALLOW_WEB)
    found["services"][0]["ports"][0]["websocket"] = True
    return dict(found)


def converse(limen: Limen, svid: X509Svid, between: Callable[[], None], **more: Any) -> list[Any]:
    """Accept, echo one message, let something happen, echo another one; everything that was sent."""
    sent: list[Any] = []
    asked = Asked(limen, svid, "websocket")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        for _ in range(2):
            message = await receive()
            await send({"type": "websocket.send", "text": message["text"]})

    async def receive() -> Any:
        if any(message["type"] == "websocket.send" for message in sent):
            await asyncio.to_thread(between)
        return {"type": "websocket.receive", "text": "x"}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(Middleware(app, limen)(asked.scope(b"/orders", UPGRADE, **more), receive, send))
    return sent


def test_a_websocket_is_decided_while_it_lasts(limens: Make, corp: Realm) -> None:
    limen, teller = limens(DB, with_websocket())
    kinds = [message["type"] for message in converse(limen, corp.svid(WEB), lambda: None)]
    assert kinds == ["websocket.accept", "websocket.send", "websocket.send"]
    with pytest.raises(Invalid, match="LM3465"):
        converse(limen, corp.svid(WEB), lambda: teller.policy(policies(), 2))
    assert teller.programs[0].record(decision="deny", snapshot="sha256:2")["caller"] == WEB


def test_a_websocket_is_counted_once_when_it_is_opened(limens: Make, corp: Realm) -> None:
    limen, teller = limens(DB, with_websocket())
    converse(limen, corp.svid(WEB), lambda: None)
    teller.programs[0].counted([8080, WEB, "allowed", "1xx", 1])
    assert teller.programs[0].flow(1)["status"] == 101


def test_a_websocket_that_is_not_declared_or_not_allowed_is_refused(limens: Make, corp: Realm) -> None:
    plain, _ = limens(DB, policies(ALLOW_WEB))
    declared, _ = limens(DB, with_websocket())
    assert [found["type"] for found in converse(plain, corp.svid(WEB), lambda: None)] == ["websocket.close"]
    sent = converse(declared, corp.svid(OPS), lambda: None, extensions={
        "tls": {"client_cert_chain": [pem(der) for der in corp.svid(OPS).chain_der]}, "websocket.http.response": {},
    })  # fmt: skip
    assert [found["type"] for found in sent] == ["websocket.http.response.start", "websocket.http.response.body"]
    assert sent[0]["status"] == 403
