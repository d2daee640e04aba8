"""What a server of the same trust domain asks the one above it: over the node API's port, as a node that was allowed.

This module translates between messages and `limen.downstreams` and decides nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import structlog

from limen.downstreamwords import words_of
from limen.nodedoor import UNAUTHENTICATED, NodeDoor, wake
from mesh.proto import node_pb2 as pb
from mesh.proto import node_pb2_grpc

# so that what other agents hold is told, which changes nothing else
LOOK_S = 1.0


class DownstreamService(node_pb2_grpc.DownstreamServicer):
    """Answers servers below."""

    def __init__(self, door: NodeDoor) -> None:
        self._door, self._app = door, door.app
        self._watched: set[str] = set()

    async def NewX509Ca(self, request: pb.NewX509CaRequest, context: grpc.aio.ServicerContext) -> pb.NewX509CaResponse:
        """Give an issuing certificate."""
        node = await self._door.node(context, is_downstream=True)
        given, trust = await self._door.call(context, lambda: self._app.downstreams.sign(node, bytes(request.csr)))
        return pb.NewX509CaResponse(chain=list(given.chain), roots=list(given.roots), trust=trust)

    async def Follow(self, request: pb.FollowRequest, context: grpc.aio.ServicerContext) -> AsyncIterator[pb.Standing]:
        """Send how the caller stands, at once and whenever that changes; one stream for each."""
        node = await self._door.node(context, is_downstream=True)
        if node in self._watched:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "LM5211")
        self._watched.add(node)
        try:
            if request.trust:
                await self._door.call(context, lambda: self._app.authorities.shown(node, bytes(request.trust)))
            await self._door.call(context, lambda: self._app.watch_begins(node))
            changed = asyncio.Event()
            loop = asyncio.get_running_loop()
            forget = self._app.on_change(lambda: wake(loop, changed))
            structlog.get_logger().info("server below connected", node=node)
            last = b""
            try:
                while True:
                    changed.clear()
                    found = await self._standing(node, context)
                    if (data := found.SerializeToString(deterministic=True)) != last:
                        last = data
                        yield found
                    await _within(changed, LOOK_S)
                    # a banned node's watch ends with its ban
                    await self._door.call(context, lambda: self._app.nodes.require(node), kind=UNAUTHENTICATED)
            finally:
                forget()
                # not awaited: this runs while the call is being cancelled
                self._door.worker.submit(self._app.watch_ends, node)
                structlog.get_logger().info("server below disconnected", node=node)
        finally:
            self._watched.discard(node)

    async def _standing(self, node: str, context: grpc.aio.ServicerContext) -> pb.Standing:
        stands, trust, held = await self._door.call(context, lambda: self._app.downstreams.standing(node))
        return pb.Standing(trust=trust, held=held, renew=stands.renew, tainted=list(stands.tainted))

    async def Publish(self, request: pb.PublishRequest, context: grpc.aio.ServicerContext) -> pb.PublishResponse:
        """Take what the caller's server says of itself."""
        node = await self._door.node(context, is_downstream=True)
        wants = await self._door.call(
            context,
            lambda: self._app.downstreams.hear(
                node, words_of(request, node), trust=request.trust, newer=bytes(request.newer_trust)
            ),
        )
        return pb.PublishResponse(wants_trust=wants)


async def _within(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
