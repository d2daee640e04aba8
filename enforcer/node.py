"""The agent's side of the node API: one pinned, mutually authenticated channel, kept up for ever.

What comes in is handed on as values; what it means is decided in `enforcer.agent` and `enforcer.release`.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import datetime as dt
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import grpc
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
)

from enforcer.join import SERVER_NAME
from enforcer.nodestate import NodeState
from enforcer.skew import ServerClock
from mesh.clock import SystemClock, parse_time
from mesh.problems import Conflict, Unavailable
from mesh.proto import node_pb2 as pb
from mesh.proto import node_pb2_grpc

CALL_WITHIN_S = 15.0
TIME_METADATA = "limen-time"
BACKOFF_S = (0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0)
OPTIONS = (
    ("grpc.ssl_target_name_override", SERVER_NAME),
    ("grpc.max_receive_message_length", 128 << 20),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.max_reconnect_backoff_ms", 5_000),
    ("grpc.enable_http_proxy", 0),
)


class Node:
    """Calls to the server. Every method raises Unavailable LM3444 when the server cannot be reached."""

    def __init__(self, state: NodeState, clock: ServerClock | None = None) -> None:
        self._state = state
        self._clock = clock or ServerClock(SystemClock())
        self.refused = False
        self._channel = self._open()

    def _open(self) -> grpc.aio.Channel:
        return grpc.aio.secure_channel(self._state.node_api, credentials_of(self._state), options=OPTIONS)

    @property
    def _stub(self) -> node_pb2_grpc.NodeStub:
        return node_pb2_grpc.NodeStub(self._channel)  # type: ignore[no-untyped-call]  # generated

    async def close(self) -> None:
        """Close the channel."""
        await self._channel.close()

    async def renew(self, key: ec.EllipticCurvePrivateKey) -> tuple[tuple[bytes, ...], bytes]:
        """Have the node's next key certified; return chain and bundle document.

        `adopt` makes the channel use them.
        """
        spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        answer = await self._call("Renew", pb.RenewRequest(spki=spki))
        return tuple(bytes(item) for item in answer.chain), bytes(answer.bundle)

    async def adopt(self) -> None:
        """Open a channel with the state's present SVID; calls on the old one end."""
        old, self._channel = self._channel, self._open()
        await old.close(grace=1.0)

    async def issue(self, asks: Sequence[pb.Ask]) -> list[pb.IssuedSvid]:
        """Ask for workloads' SVIDs."""
        answer = await self._call("BatchNewX509Svid", pb.BatchRequest(asks=asks))
        return list(answer.svids)

    async def issue_jwts(self, asks: Sequence[pb.JwtAsk]) -> list[pb.IssuedJwt]:
        """Ask for workloads' JWT-SVIDs."""
        answer = await self._call("BatchNewJwtSvid", pb.JwtBatchRequest(asks=asks))
        return list(answer.svids)

    async def report_endpoints(self, endpoints: Sequence[pb.Endpoint]) -> None:
        """Tell where this node's inbound listeners are, in full."""
        await self._call("ReportEndpoints", pb.EndpointsRequest(endpoints=endpoints))

    async def push_records(self, batch: pb.RecordBatch) -> int:
        """Hand over a batch of records; what comes back is durable there.

        Raises Conflict LM6077 when the server expects another number.
        """
        try:
            return int((await self._call("PushRecords", batch)).sequence)
        except Unavailable as problem:
            cause = problem.__cause__
            if isinstance(cause, grpc.aio.AioRpcError) and cause.code() is grpc.StatusCode.ABORTED:
                raise Conflict("LM6077", sequence=batch.sequence, reason=str(cause.details())) from problem
            raise

    async def push_flows(self, flows: Sequence[bytes]) -> None:
        """Hand over flows."""
        await self._call("PushFlows", pb.FlowBatch(flows=flows))

    async def report_status(self, request: pb.StatusRequest) -> bool:
        """Tell what this agent applies; whether the server lost a trust state and asks to be shown it."""
        return bool((await self._call("ReportStatus", request)).wants_trust)

    async def watch(self, epoch: int, trust: bytes = b"") -> AsyncIterator[pb.Update]:
        """The server's full state, now and after every change, until the stream breaks (then Unavailable).

        ``trust`` is the trust state that is held: a server that was restored from a backup learns from it first.
        """
        request = pb.WatchRequest(epoch=epoch, trust=trust)
        async for update in self.stream(lambda: self._stub.Watch(request, wait_for_ready=True)):
            yield update

    async def stream(self, begin: Callable[[], Any]) -> AsyncIterator[Any]:
        """What a call of the node API streams, until it breaks (then Unavailable)."""
        try:
            before = self._clock.local()
            call = begin()
            self._hear(await call.initial_metadata(), before)
            async for update in call:
                yield update
        except grpc.aio.AioRpcError as err:
            raise self._unavailable(err) from err
        except asyncio.CancelledError as err:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # not we were cancelled but the call: its channel was replaced by `adopt`
            raise Unavailable("LM3444", address=self._state.node_api, reason="the channel was replaced") from err

    async def _call(self, name: str, request: object) -> Any:  # noqa: ANN401  the answer of the method that is named
        return await self.ask(getattr(self._stub, name), request)

    async def ask(self, method: Callable[..., Any], request: object) -> Any:  # noqa: ANN401  the answer of the method
        """Call a method of the node API."""
        try:
            before = self._clock.local()
            call = method(request, timeout=CALL_WITHIN_S)
            self._hear(await call.initial_metadata(), before)
            return await call
        except grpc.aio.AioRpcError as err:
            raise self._unavailable(err) from err

    def _hear(self, metadata: grpc.aio.Metadata | None, before: dt.datetime) -> None:
        """Take the server's time, which stands before every answer."""
        after = self._clock.local()
        for name, value in metadata or ():
            if name == TIME_METADATA:
                with contextlib.suppress(ValueError):
                    self._clock.heard(parse_time(str(value)), before, after)

    def _unavailable(self, err: grpc.aio.AioRpcError) -> Unavailable:
        if err.code() is grpc.StatusCode.UNAUTHENTICATED:
            # the server knows this node no more: whoever holds the membership comes back by the other door
            self.refused = True
        return Unavailable("LM3444", address=self._state.node_api, reason=f"{err.code().name}: {err.details()}")


def credentials_of(state: NodeState) -> grpc.ChannelCredentials:
    """A node's SVID, and the pinned certificate of its server."""
    key = load_der_private_key(state.key, password=None)
    return grpc.ssl_channel_credentials(
        root_certificates=_pem(state.server_certificate),
        private_key=key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        certificate_chain=b"".join(_pem(der) for der in state.chain),
    )


def _pem(der: bytes) -> bytes:
    body = base64.encodebytes(der).replace(b"\n", b"")
    lines = [body[start : start + 64] for start in range(0, len(body), 64)]
    return b"-----BEGIN CERTIFICATE-----\n" + b"\n".join(lines) + b"\n-----END CERTIFICATE-----\n"


async def pause(failures: int, stop: asyncio.Event) -> None:
    """Wait before the next try: longer after each failure, with jitter; a stop ends the wait."""
    base = BACKOFF_S[min(failures, len(BACKOFF_S) - 1)]
    jitter = base * secrets.randbelow(1000) / 4000
    try:
        async with asyncio.timeout(base + jitter):
            await stop.wait()
    except TimeoutError:
        return
