"""ASGI middleware that decides every request as a sidecar would, and tells the application who calls.

The peer is what the transport says, by the TLS extension of ASGI or by the server's own connection
(`enforcer.sdk.uvicornserver`); its chain is verified again for every request, so that a bundle that was removed or an
SVID that ended takes effect on a kept-alive connection. The application gets the request that was decided: canonical
path, one Host, no field that only an enforcer may set but ours. What is not understood is refused.
"""

from __future__ import annotations

import ssl
import time
import urllib.parse
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from enforcer.native import answer, serial
from enforcer.native.http1 import RequestHead, read_request
from enforcer.native.judge import Judgement
from enforcer.native.records import Contact
from enforcer.native.sidecar import RECHECK_SECONDS
from enforcer.sdk.context import Chain
from enforcer.sdk.runtime import Limen, outcome_of
from mesh.problems import Invalid

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
_Told = tuple[Contact, Judgement, float]
"""What is told of a request: who asked, what was decided, and when it came, in monotonic seconds."""

# how a body ends is between the server and the application
_FRAMING = (b"content-length", b"transfer-encoding")
_POLICY_VIOLATION = 1008  # RFC 6455 §7.4.1


def chain_of_extension(scope: Scope) -> Chain:
    """The peer's certificates by the TLS extension of ASGI, leaf first; empty when it does not tell any."""
    tls = (scope.get("extensions") or {}).get("tls") or {}
    if tls.get("client_cert_error"):
        return ()
    return tuple(ssl.PEM_cert_to_DER_cert(text) for text in tls.get("client_cert_chain") or ())


class Middleware:
    """Stands before an application; ``port`` is the one that policies name, where it is not the one that listens."""

    def __init__(
        self,
        app: App,
        limen: Limen,
        *,
        port: int | None = None,
        chain_of: Callable[[Scope], Chain] = chain_of_extension,
    ) -> None:
        self._app, self._limen, self._port, self._chain_of = app, limen, port, chain_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Take what the server says.

        1. Who calls is known by a chain that verifies now, or nobody calls.
        2. The head has one meaning, or is refused.
        3. The policies decide; the denial says by what, and how to ask why.
        """
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] not in {"http", "websocket"}:
            raise NotImplementedError(f"nothing decides what is {scope['type']}")
        contact = self._contact(scope, None, ())
        begin = time.monotonic()
        try:
            # (1)
            chain = self._chain(scope)
            contact = self._contact(scope, str(self._limen.verify(chain).spiffe_id), chain)
            # (2)
            head = _head(scope)
            if head.websocket_key and (scope["type"] == "http" or not self._takes_websocket(contact)):
                raise Invalid("LM3108")
        except Invalid as problem:
            name = self._limen.refuse(contact, problem, "http")
            facts: dict[str, object] = {key: str(value)[:256] for key, value in problem.facts.items()}
            refusal = answer.problem_refusal(problem.code, facts, record=name)
            await _answer(scope, send, refusal)
            self._limen.count(contact, "refused", refusal.status[0])
            return
        # (3)
        judgement, name = self._limen.judge_request(contact, head)
        if not judgement.decision.is_allowed:
            await _answer(scope, send, answer.denial_refusal(judgement.decision, record=name, close=False))
            self._exchanged(contact, judgement, head.method, 403, begin)
            return
        decided = self._decided(scope, contact, head, judgement)
        if scope["type"] == "http":
            await self._serve(decided, receive, send, (contact, judgement, begin))
        else:
            await self._open(decided, receive, send, (contact, judgement, begin), head)

    def _chain(self, scope: Scope) -> Chain:
        try:
            chain = self._chain_of(scope)
        except ValueError as err:
            raise Invalid("LM3466") from err
        if not chain:
            raise Invalid("LM3466")
        return chain

    def _contact(self, scope: Scope, caller: str | None, chain: Chain) -> Contact:
        server, client = scope.get("server"), scope.get("client")
        port = self._port if self._port is not None else (server[1] if server else None)
        return self._limen.contact(caller, port or 0, client[0] if client else "", chain)

    def _takes_websocket(self, contact: Contact) -> bool:
        return self._limen.workload.judge.takes_websocket(contact.port)

    def _decided(self, scope: Scope, contact: Contact, head: RequestHead, judgement: Judgement) -> Scope:
        """The request as it was decided, and who calls."""
        headers = [(b"host", serial.forwarded_host(head).encode("latin-1"))]
        headers += [(name.lower(), value) for name, value in head.fields]
        headers += [(name, value) for name, value in scope["headers"] if name in _FRAMING]
        caller = contact.caller or ""
        headers += [
            (b"x-forwarded-client-cert", f"By={self._limen.spiffe_id};URI={caller}".encode("ascii")),
            (b"x-limen-source", caller.encode("ascii")),
        ]
        decided = {**scope, "headers": headers, "limen": {"caller": caller, "snapshot": judgement.decision.snapshot}}
        if judgement.target:
            path, _, query = judgement.target.partition("?")
            root = str(scope.get("root_path") or "")
            decided["path"] = root + urllib.parse.unquote(path)
            decided["raw_path"] = root.encode("ascii") + path.encode("latin-1")
            decided["query_string"] = query.encode("latin-1")
        return decided

    def _exchanged(
        self, contact: Contact, judgement: Judgement, method: str, status: int | None, begin: float | None
    ) -> None:
        """Tell of a request that is over; ``begin`` is in monotonic seconds, None for what has no duration."""
        self._limen.exchanged(contact, judgement, method=method, status=status)
        seconds = None if begin is None else time.monotonic() - begin
        self._limen.count(contact, outcome_of(judgement), status, seconds)

    async def _serve(self, scope: Scope, receive: Receive, send: Send, told: _Told) -> None:
        contact, judgement, begin = told
        status: list[int] = []

        async def tell(message: Message) -> None:
            if message["type"] == "http.response.start":
                status.append(message["status"])
                message = {**message, "headers": _without_identity(message.get("headers") or ())}
            await send(message)

        try:
            await self._app(scope, receive, tell)
        finally:
            self._exchanged(contact, judgement, scope["method"], status[0] if status else None, begin)

    async def _open(self, scope: Scope, receive: Receive, send: Send, told: _Told, head: RequestHead) -> None:
        """A WebSocket, told of once: when the application opens it or does not. How long it lasts is no duration."""
        contact, judgement, _ = told
        is_told = False

        async def tell(message: Message) -> None:
            nonlocal is_told
            if not is_told:
                is_told = True
                self._exchanged(contact, judgement, head.method, _status_of(message), None)
            if "headers" in message:
                message = {**message, "headers": _without_identity(message["headers"] or ())}
            await send(message)

        try:
            await self._converse(scope, receive, tell, contact, head)
        finally:
            if not is_told:
                self._exchanged(contact, judgement, head.method, None, None)

    async def _converse(self, scope: Scope, receive: Receive, send: Send, contact: Contact, head: RequestHead) -> None:
        """Every message of a WebSocket passes only while its request would be let through."""
        allowed = self._state()

        async def check() -> None:
            nonlocal allowed
            if self._state() == allowed:
                return
            allowed = self._state()
            try:
                self._limen.verify(self._chain(scope))
                if not self._takes_websocket(contact):
                    raise Invalid("LM3108")
                if self._limen.still_allows_request(contact, head):
                    return
            except Invalid as problem:
                self._limen.refuse(contact, problem, "http")
            await send({"type": "websocket.close", "code": _POLICY_VIOLATION, "reason": "LM3465"})
            raise Invalid("LM3465")

        async def hear() -> Message:
            message = await receive()
            if message["type"] == "websocket.receive":
                await check()
            return message

        async def tell(message: Message) -> None:
            if message["type"] == "websocket.send":
                await check()
            await send(message)

        await self._app(scope, hear, tell)

    def _state(self) -> tuple[object, ...]:
        """What a decision hangs on: the rules, who we are, and the time, in steps."""
        workload = self._limen.workload
        return workload.judge, workload.identity, time.monotonic() // RECHECK_SECONDS


def _head(scope: Scope) -> RequestHead:
    """A request's head as a sidecar reads it. Raises Invalid with the rule that it breaks."""
    version = str(scope.get("http_version", "1.1"))
    if version not in {"1.1", "2", "2.0", "3"}:
        raise Invalid("LM3101")
    raw, root = scope.get("raw_path"), str(scope.get("root_path") or "").encode("ascii")
    if not isinstance(raw, bytes) or not raw.startswith(root):
        raise Invalid("LM3107")
    query = scope.get("query_string") or b""
    target = raw[len(root) :] + (b"?" + query if query else b"")
    method = scope.get("method", "GET").encode("ascii")
    head = read_request(method, target, scope["headers"])
    kept = serial.without_identity(head.fields)
    return head._replace(fields=kept) if len(kept) != len(head.fields) else head


def _status_of(message: Message) -> int:
    """With what an application answers a WebSocket's request by its first message."""
    if message["type"] == "websocket.accept":
        return 101
    return int(message.get("status", 403))


def _without_identity(headers: Any) -> list[tuple[bytes, bytes]]:  # noqa: ANN401  any iterable of pairs
    return [(name, value) for name, value in headers if not serial.is_identity(bytes(name))]


async def _answer(scope: Scope, send: Send, refusal: answer.Refusal) -> None:
    """Send a refusal; a WebSocket that was not accepted yet is answered as HTTP where the server can do so."""
    start, body = "http.response.start", "http.response.body"
    if scope["type"] == "websocket":
        if "websocket.http.response" not in (scope.get("extensions") or {}):
            await send({"type": "websocket.close", "code": _POLICY_VIOLATION})
            return
        start, body = f"websocket.{start}", f"websocket.{body}"
    fields = [*refusal.fields]
    if scope.get("http_version", "1.1")[0] != "1":
        fields = [field for field in fields if field[0] not in {b"connection", b"upgrade"}]
    await send({"type": start, "status": refusal.status[0], "headers": fields})
    await send({"type": body, "body": refusal.body})
