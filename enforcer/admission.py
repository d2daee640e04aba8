"""Who is let in at `agent.sock`, and for how much: the security header, the caller, the budget, the entitlement."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, NoReturn, Protocol, TypeVar

import grpc
from google.protobuf.message import Message

from enforcer.budget import Budget
from enforcer.identity import Identity
from enforcer.jwtsvids import HeldJwt
from enforcer.workloadfront import Caller, Front
from mesh.bundle import TrustBundle
from mesh.problems import Problem, Unavailable

HEADER = "workload.spiffe.io"
SDS_PREFIX = "/envoy.service.secret.v3.SecretDiscoveryService/"
M = TypeVar("M", bound=Message)


class Identities(Protocol):
    """What the API needs of the agent."""

    async def identities_of(self, caller: Caller) -> list[Identity]:
        """The identities of a caller.

        Raises Forbidden when there is none, Unavailable when that cannot be found out now.
        """
        ...

    def bundles(self) -> dict[str, TrustBundle]:
        """All bundles by trust domain name; the own one is among them."""
        ...

    async def jwt_svid(self, identity: Identity, audiences: Sequence[str]) -> HeldJwt:
        """A JWT-SVID of one of a caller's identities.

        Raises Forbidden when the server gives none, Unavailable when that cannot be found out now.
        """
        ...

    def now(self) -> dt.datetime:
        """The time, as far as it is known."""
        ...

    @property
    def version(self) -> int:
        """Grows whenever an identity, a bundle or a rule may have changed."""
        ...

    async def changed(self, since: int) -> None:
        """Wait until the version is another than the one that was seen."""
        ...


class SecurityHeader(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpc has no types
    """Every request says `workload.spiffe.io: true`, exactly once (Workload Endpoint §4; E-3, E-4).

    Whatever it asks for: also reflection, also what is not there. Envoy cannot say it, and SDS is not SPIFFE's
    service: those calls pass here, and are known by their caller as all others.
    """

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: grpc.HandlerCallDetails
    ) -> Any:  # noqa: ANN401  a handler of grpc, which has no types
        """Refuse in the place of the method when the header is missing."""
        said = [value for name, value in handler_call_details.invocation_metadata or () if name == HEADER]
        if said == ["true"] or handler_call_details.method.startswith(SDS_PREFIX):
            return await continuation(handler_call_details)
        return grpc.stream_stream_rpc_method_handler(_refuse)


async def _refuse(_: object, context: grpc.aio.ServicerContext) -> None:
    await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "security header missing: LM3501")


class Admission:
    """Lets callers in."""

    def __init__(self, identities: Identities, front: Front) -> None:
        self.identities = identities
        self._front, self._budget = front, Budget()

    @contextlib.asynccontextmanager
    async def call(self, context: grpc.aio.ServicerContext) -> AsyncIterator[Caller]:
        """Let a call in.

        1. The connection is one that this front accepted; its process still runs.
        2. Its budget of messages and streams, and its user's, is not used up (E-12: shedding load is Unavailable).
        """
        # (1)
        caller = self._front.caller_of(context.peer())
        if caller is None or not caller.is_alive:
            await gone(context)
        # (2)
        await self.message(caller, context)
        if not self._budget.take_stream(caller.uid, caller.process):
            await context.abort(grpc.StatusCode.UNAVAILABLE, "too many streams of one caller: LM3502")
        try:
            yield caller
        finally:
            self._budget.give_stream(caller.uid, caller.process)

    async def message(self, caller: Caller, context: grpc.aio.ServicerContext) -> None:
        """Count a message of a caller."""
        if not self._budget.take_message(caller.uid, caller.process, asyncio.get_running_loop().time()):
            await context.abort(grpc.StatusCode.UNAVAILABLE, "too many messages of one caller: LM3505")

    async def entitled(self, caller: Caller, context: grpc.aio.ServicerContext) -> list[Identity]:
        """The identities of a caller that still runs; without any the call ends (E-12, W-12)."""
        if not caller.is_alive:
            await gone(context)
        try:
            return await self.identities.identities_of(caller)
        except Unavailable as problem:
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(problem))
        except Problem as problem:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, str(problem))
        raise AssertionError("abort raises")

    async def updates(
        self, context: grpc.aio.ServicerContext, build: Callable[[list[Identity], dict[str, TrustBundle]], M]
    ) -> AsyncGenerator[M, None]:
        """The full state at once, and again after every change that shows in it (W-3, W-4)."""
        last = b""
        async with self.call(context) as caller:
            while True:
                # before the state is read: a change in between must not be missed
                seen = self.identities.version
                message = build(await self.entitled(caller, context), self.identities.bundles())
                data = message.SerializeToString(deterministic=True)
                if data != last:
                    last = data
                    yield message
                await self.identities.changed(seen)


async def gone(context: grpc.aio.ServicerContext) -> NoReturn:
    """End a call whose caller is not there any more."""
    await context.abort(grpc.StatusCode.PERMISSION_DENIED, "the caller is gone: LM3401")
    raise AssertionError("abort raises")
