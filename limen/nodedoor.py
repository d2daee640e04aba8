"""Who calls the node API: the peer's chain is verified again, and work runs on the one worker thread.

gRPC's own chain check is the outer fence; `mesh.x509svid` verifies the peer's chain again, as everywhere else. The
services of that port share this; it decides nothing but who somebody is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

import grpc
from cryptography.hazmat.primitives.serialization import Encoding

from limen.app import App
from limen.nodefront import NodeFront
from limen.nodes import Peer
from mesh.certpath import read_pem
from mesh.problems import Conflict, Forbidden, Invalid, NotFound, Problem, Unavailable

T = TypeVar("T")
UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED
"""The status of a peer that is no node of ours, or none any more: its agent attests itself again."""
TIME_METADATA = "limen-time"
_STATUS: tuple[tuple[type[Problem], grpc.StatusCode], ...] = (
    (NotFound, grpc.StatusCode.NOT_FOUND),
    (Conflict, grpc.StatusCode.ABORTED),
    (Forbidden, grpc.StatusCode.PERMISSION_DENIED),
    (Unavailable, grpc.StatusCode.UNAVAILABLE),
    (Invalid, grpc.StatusCode.INVALID_ARGUMENT),
)


class NodeDoor:
    """The door of one server's node API."""

    def __init__(self, app: App, worker: Executor, front: NodeFront) -> None:
        self.app = app
        self.worker = worker
        self._front = front

    async def node(self, context: grpc.aio.ServicerContext, *, is_downstream: bool = False) -> str:
        """The name of the node whose SVID the peer proved to hold: a server below has its own calls, and no others."""
        peer = await self.peer(context)
        if peer.is_downstream != is_downstream:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, str(Forbidden("LM1629", name=peer.node)))
        return peer.node

    async def peer(self, context: grpc.aio.ServicerContext) -> Peer:
        """Who proved to be a node of ours, of either kind. Every answer says what time it is here."""
        await self._tell_time(context)
        found = context.auth_context()
        # the leaf stands by itself; the chain may or may not repeat it
        text = b"".join([*found.get("x509_pem_cert", []), *found.get("x509_pem_cert_chain", [])])
        try:
            ders = [item.public_bytes(Encoding.DER) for item in read_pem(text)]
        except ValueError:
            ders = []
        ders = list(dict.fromkeys(ders))
        try:
            peer = await self.call(context, lambda: self.app.nodes.authenticate(ders), kind=UNAUTHENTICATED)
        except grpc.aio.AbortError:
            self._front.refused(context.peer())
            raise
        if not self._front.proved(context.peer(), peer.node):
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, str(Unavailable("LM5219", node=peer.node)))
        return peer

    async def _tell_time(self, context: grpc.aio.ServicerContext) -> None:
        await context.send_initial_metadata(((TIME_METADATA, self.app.time()),))

    async def call(
        self,
        context: grpc.aio.ServicerContext,
        work: Callable[[], T],
        *,
        kind: grpc.StatusCode | None = None,
    ) -> T:
        """Run work on the one worker thread and answer its Problems as gRPC statuses, or as the one that is given."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self.worker, work)
        except Problem as problem:
            status = next((code for found, code in _STATUS if isinstance(problem, found)), grpc.StatusCode.UNKNOWN)
            await context.abort(kind or status, str(problem))
            raise


def wake(loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> None:
    """Set an event of a loop from the worker thread."""
    loop.call_soon_threadsafe(event.set)
