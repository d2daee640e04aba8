"""gRPC over our TLS, for `grpc.aio`: every call decided by service and method, and channels that reach services.

A server shows the SVID of the moment by gRPC's own fetcher, once a handshake; gRPC checks a caller against the bundles,
and before a call reaches its method the interceptor has our verifier say who it is, and the policies what it may. A
call that streams is asked about again while it lasts. A client cannot tell gRPC whose name to expect: its channel
speaks plainly to an abstract socket of this very process, behind which the connection is ours (`enforcer.sdk.grpcway`).
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import contextvars
import inspect
import re
import ssl
import time
import urllib.parse
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import grpc

from enforcer.native import serial
from enforcer.native.http1 import Framing, RequestHead
from enforcer.native.records import Contact
from enforcer.native.sentences import sentence
from enforcer.native.sidecar import RECHECK_SECONDS
from enforcer.sdk.context import Chain
from enforcer.sdk.grpcway import Way
from enforcer.sdk.runtime import Limen, log, outcome_of
from mesh.problems import Invalid

_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
# the SPIFFE ID of the caller of the present call, as our verifier says
caller: contextvars.ContextVar[str] = contextvars.ContextVar("limen_caller")


def server_credentials(limen: Limen) -> grpc.ServerCredentials:
    """What a server's `add_secure_port` takes: the SVID and the bundles of each handshake's moment.

    Raises Invalid LM3012 without an SVID.
    """
    shown = limen.workload.require_identity()

    def fetch() -> Any:  # noqa: ANN401  grpc has no types
        nonlocal shown
        now = limen.workload.identity
        if now is None or now is shown:
            return None
        shown = now
        return _configuration(limen)

    return grpc.dynamic_ssl_server_credentials(_configuration(limen), fetch, require_client_authentication=True)


def _configuration(limen: Limen) -> Any:  # noqa: ANN401  grpc has no types
    identity = limen.workload.require_identity()
    roots = [_pem(b"CERTIFICATE", der) for bundle in identity.bundles.values() for der in bundle.x509_authorities]
    chain = [_pem(b"CERTIFICATE", der) for der in identity.svid.chain_der]
    key = _pem(b"PRIVATE KEY", identity.svid.key_pkcs8_der)
    return grpc.ssl_server_certificate_configuration([(key, b"".join(chain))], b"".join(roots))


def _pem(label: bytes, der: bytes) -> bytes:
    return b"-----BEGIN %b-----\n%b-----END %b-----\n" % (label, base64.encodebytes(der), label)


class ServerInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpc has no types
    """Stands before the methods of a server, which are coroutines or asynchronous generators.

    ``port`` is the one that policies name: that of `limen run --sdk --inbound`, unless it is given.
    Raises Invalid LM5240 when there is not exactly one.
    """

    def __init__(self, limen: Limen, *, port: int | None = None) -> None:
        serves = limen.serves
        if port is None and len(serves) != 1:
            raise Invalid("LM5240", given=f"{len(serves)} ports", form="--inbound [ADDR:]PORT")
        self._limen, self._port = limen, serves[0][1] if port is None else port

    async def intercept_service(self, continuation: Any, details: Any) -> Any:  # noqa: ANN401  grpc has no types
        """Put the decision before a method; what is no method stays none."""
        found = await continuation(details)
        if found is None:
            return None
        head = _head(details.method, details.invocation_metadata or ())
        kind = {
            (False, False): ("unary_unary", grpc.unary_unary_rpc_method_handler),
            (False, True): ("unary_stream", grpc.unary_stream_rpc_method_handler),
            (True, False): ("stream_unary", grpc.stream_unary_rpc_method_handler),
            (True, True): ("stream_stream", grpc.stream_stream_rpc_method_handler),
        }[found.request_streaming, found.response_streaming]
        behaviour = self._around(getattr(found, kind[0]), head, streams=kind[0] != "unary_unary")
        if found.response_streaming:
            behaviour = self._generating(getattr(found, kind[0]), head)
        return kind[1](behaviour, found.request_deserializer, found.response_serializer)

    def _around(self, method: Callable[..., Any], head: RequestHead, *, streams: bool) -> Callable[..., Any]:
        async def behave(request: Any, context: Any) -> Any:  # noqa: ANN401  grpc has no types
            contact = await self._admit(context, head)
            async with self._counted(contact), self._lasting(context, contact, head, streams=streams):
                return await method(request, context)

        return behave

    def _generating(self, method: Callable[..., Any], head: RequestHead) -> Callable[..., Any]:
        async def behave(request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: ANN401  grpc has no types
            contact = await self._admit(context, head)
            async with self._counted(contact), self._while_allowed(context, contact, head):
                answers = method(request, context)
                if inspect.isawaitable(answers):
                    await answers  # it writes by itself
                    return
                async for found in answers:
                    yield found

        return behave

    async def _admit(self, context: Any, head: RequestHead) -> Contact:  # noqa: ANN401  grpc has no types
        """Say who calls, decide and record, or end the call.

        1. Who calls is known by a chain that verifies now.
        2. The policies decide by caller, method and metadata.
        """
        # (1)
        chain = _chain(context.auth_context())
        contact = self._contact(context, None, chain)
        try:
            if not chain:
                raise Invalid("LM3466")
            contact = self._contact(context, str(self._limen.verify(chain).spiffe_id), chain)
        except Invalid as problem:
            name = self._limen.refuse(contact, problem, "grpc")
            self._limen.count(contact, "refused")
            await _abort(context, problem.code, str(problem), name)
        # (2)
        judgement, name = self._limen.judge_request(contact, head, is_grpc=True)
        self._limen.exchanged(contact, judgement, protocol="grpc", method=head.method)
        decision = judgement.decision
        if not decision.is_allowed:
            self._limen.count(contact, outcome_of(judgement))
            facts: dict[str, object] = {"policy": decision.policy, "rule": decision.rule, "tier": decision.tier}
            await _abort(context, decision.code, sentence(decision.code, "message", facts), name)
        caller.set(contact.caller or "")
        return contact

    def _contact(self, context: Any, who: str | None, chain: Chain) -> Contact:  # noqa: ANN401  grpc has no types
        kind, _, place = urllib.parse.unquote(context.peer()).partition(":")
        address = place.rpartition(":")[0].strip("[]") if kind in {"ipv4", "ipv6"} else ""
        return self._limen.contact(who, self._port, address, chain)

    @contextlib.asynccontextmanager
    async def _counted(self, contact: Contact) -> AsyncIterator[None]:
        """Count a call that was let through when it is over. gRPC has no class of status that Prometheus would know."""
        begin = time.monotonic()
        try:
            yield
        finally:
            self._limen.count(contact, "allowed", None, time.monotonic() - begin)

    def _lasting(self, context: Any, contact: Contact, head: RequestHead, *, streams: bool) -> Any:  # noqa: ANN401
        return self._while_allowed(context, contact, head) if streams else contextlib.nullcontext()

    @contextlib.asynccontextmanager
    async def _while_allowed(self, context: Any, contact: Contact, head: RequestHead) -> AsyncIterator[None]:  # noqa: ANN401
        """End what streams when its caller does not hold or is not allowed any more."""
        task, chain = asyncio.current_task(), _chain(context.auth_context())
        assert task is not None
        is_denied = False

        async def watch() -> None:
            nonlocal is_denied
            while not is_denied:
                await asyncio.sleep(RECHECK_SECONDS)
                try:
                    self._limen.verify(chain)
                    is_denied = not self._limen.still_allows_request(contact, head, is_grpc=True)
                except Invalid:
                    is_denied = True
            task.cancel()

        watching = asyncio.get_running_loop().create_task(watch())
        try:
            yield
        except asyncio.CancelledError:
            if not is_denied:
                raise
            task.uncancel()
            await _abort(context, "LM3465", sentence("LM3465", "message", {}), "")
        finally:
            watching.cancel()


async def _abort(context: Any, code: str, message: str, record: str) -> None:  # noqa: ANN401  grpc has no types
    """End a call as denied. Raises what gRPC raises there."""
    why = f"; decision {record}: limen audit show {record}" if record else ""
    said = (("x-limen-code", code), *((("x-limen-decision", record),) if record else ()))
    text = message if message.startswith(code) else f"{code} {message}"
    await context.abort(grpc.StatusCode.PERMISSION_DENIED, f"{text}{why}", said)


def _head(method: str, metadata: Sequence[tuple[str, str | bytes]]) -> RequestHead:
    """A call as a request; binary metadata as it stands on the wire, and none that only an enforcer may set."""
    fields = tuple(
        (
            key.encode("latin-1"),
            base64.b64encode(value) if isinstance(value, bytes) else value.encode("latin-1", "replace"),
        )
        for key, value in metadata
    )
    return RequestHead(
        "POST",
        method,
        "",
        "",
        serial.without_identity(fields),
        Framing.NONE,
        0,
        keep_alive=True,
        expects_continue=False,
    )


def _chain(told: dict[str, Sequence[bytes]]) -> Chain:
    """The caller's certificates by gRPC's word, leaf first; BoringSSL's chain leaves the leaf out on this side."""
    found = [
        ssl.PEM_cert_to_DER_cert(item.decode("ascii"))
        for name in ("x509_pem_cert", "x509_pem_cert_chain")
        for text in told.get(name, ())
        for item in _CERTIFICATE.findall(text)
    ]
    return tuple(dict.fromkeys(found))


class ClientInterceptor(grpc.aio.UnaryUnaryClientInterceptor):  # type: ignore[misc]  # grpc has no types
    """Logs what a denied call was denied by, and how to ask why."""

    async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:  # noqa: ANN401
        """Look at the answer's status."""
        call = await continuation(details, request)
        if await call.code() is grpc.StatusCode.PERMISSION_DENIED:
            log.warning("denied by the called service: %s", await call.details())
        return call


@contextlib.asynccontextmanager
async def channel(
    limen: Limen,
    service: str,
    *,
    port: int | None = None,
    options: Sequence[tuple[str, Any]] = (),
    interceptors: Sequence[Any] = (),
) -> AsyncIterator[Any]:
    """A channel to a called service, a name of the policies or a SPIFFE ID, at the port that policies name or any."""
    async with Way(limen, service, port) as address:
        authority = service.rpartition("/")[2]
        asked = [("grpc.default_authority", authority), *options]
        made = grpc.aio.insecure_channel(address, options=asked, interceptors=[ClientInterceptor(), *interceptors])
        async with made as found:
            yield found
