"""The node API: agents, over mutual TLS, each proved to be the node whose SVID it shows.

`limen.nodedoor` knows who calls. This module translates between messages and `limen.app.App` and decides nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import structlog

from limen.nodedoor import UNAUTHENTICATED, NodeDoor, wake
from limen.values import Ask, Endpoint, Issued, JwtAsk, State
from mesh.proto import node_pb2 as pb
from mesh.proto import node_pb2_grpc

MAX_STREAMS_PER_NODE = 4


class NodeService(node_pb2_grpc.NodeServicer):
    """Answers agents. All work on `App` runs on one thread, so nothing there needs a lock."""

    def __init__(self, door: NodeDoor) -> None:
        self._door, self._app, self._worker = door, door.app, door.worker
        self._watchers: dict[str, int] = {}

    async def Renew(self, request: pb.RenewRequest, context: grpc.aio.ServicerContext) -> pb.RenewResponse:
        """Renew the calling node's SVID."""
        peer = await self._door.peer(context)
        chain = await self._door.call(
            context, lambda: self._app.renew_node(peer.node, bytes(request.spki), peer.spki_sha256)
        )
        bundle = await self._door.call(context, lambda: self._app.bundle().to_json())
        return pb.RenewResponse(chain=list(chain), bundle=bundle)

    async def BatchNewX509Svid(self, request: pb.BatchRequest, context: grpc.aio.ServicerContext) -> pb.BatchResponse:
        """Issue SVIDs for what the node attested."""
        node = await self._door.node(context)
        asks = [Ask(ask.ref, ask.spki, tuple([(fact.key, fact.value) for fact in ask.facts])) for ask in request.asks]
        issued = await self._door.call(context, lambda: self._app.issue(node, asks))
        answer = pb.BatchResponse()
        for found in issued:
            _tell(answer.svids.add(), found)
        return answer

    async def BatchNewJwtSvid(
        self, request: pb.JwtBatchRequest, context: grpc.aio.ServicerContext
    ) -> pb.JwtBatchResponse:
        """Issue JWT-SVIDs for what the node attested."""
        node = await self._door.node(context)
        asks = [
            JwtAsk(
                ref=ask.ref,
                facts=tuple((fact.key, fact.value) for fact in ask.facts),
                audiences=tuple(ask.audiences),
                spiffe_id=ask.spiffe_id,
            )
            for ask in request.asks
        ]
        issued = await self._door.call(context, lambda: self._app.issue_jwts(node, asks))
        return pb.JwtBatchResponse(
            svids=[
                pb.IssuedJwt(
                    ref=item.ref,
                    code=item.code,
                    facts=dict(item.facts),
                    spiffe_id=item.spiffe_id,
                    token=item.token,
                    not_after=item.not_after,
                    hint=item.hint,
                )
                for item in issued
            ]
        )

    async def Watch(self, request: pb.WatchRequest, context: grpc.aio.ServicerContext) -> AsyncIterator[pb.Update]:
        """Send the full state at once and after every change; nothing before what the agent holds was looked at."""
        node = await self._door.node(context)
        epoch = request.epoch
        if request.trust:
            await self._door.call(context, lambda: self._app.authorities.shown(node, bytes(request.trust)))
        if self._watchers.get(node, 0) >= MAX_STREAMS_PER_NODE:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "LM5211")
        self._watchers[node] = self._watchers.get(node, 0) + 1
        await self._door.call(context, lambda: self._app.watch_begins(node))
        changed = asyncio.Event()
        loop = asyncio.get_running_loop()
        forget = self._app.on_change(lambda: wake(loop, changed))
        structlog.get_logger().info("agent connected", node=node)
        try:
            while True:
                changed.clear()
                state = await self._door.call(context, lambda since=epoch: self._app.state(since))  # type: ignore[misc]  # mypy cannot infer lambdas with defaults
                yield _update_pb(state)
                epoch = state.epoch
                await changed.wait()
                # a banned node's watch ends with its ban
                await self._door.call(context, lambda: self._app.nodes.require(node), kind=UNAUTHENTICATED)
        finally:
            forget()
            self._watchers[node] -= 1
            # not awaited: this runs while the call is being cancelled
            self._worker.submit(self._app.watch_ends, node)
            structlog.get_logger().info("agent disconnected", node=node)

    async def ReportEndpoints(
        self, request: pb.EndpointsRequest, context: grpc.aio.ServicerContext
    ) -> pb.EndpointsResponse:
        """Take the full list of the node's inbound listeners."""
        node = await self._door.node(context)
        found = tuple(
            Endpoint(spiffe_id=item.spiffe_id, address=item.address, port=item.port) for item in request.endpoints
        )
        await self._door.call(context, lambda: self._app.report_endpoints(node, found))
        return pb.EndpointsResponse()

    async def PushRecords(self, request: pb.RecordBatch, context: grpc.aio.ServicerContext) -> pb.RecordAck:
        """Put a signed batch into the log; the answer comes after it is durable."""
        node = await self._door.node(context)
        sequence = await self._door.call(
            context,
            lambda: self._app.push_records(
                node,
                sequence=request.sequence,
                records=[bytes(found) for found in request.records],
                signature=bytes(request.signature),
                key=bytes(request.key),
            ),
        )
        return pb.RecordAck(sequence=sequence)

    async def PushFlows(self, request: pb.FlowBatch, context: grpc.aio.ServicerContext) -> pb.FlowAck:
        """Store aggregated flows."""
        node = await self._door.node(context)
        await self._door.call(context, lambda: self._app.push_flows(node, [bytes(row) for row in request.flows]))
        return pb.FlowAck()

    async def ReportStatus(self, request: pb.StatusRequest, context: grpc.aio.ServicerContext) -> pb.StatusResponse:
        """Remember what the node applies."""
        node = await self._door.node(context)
        refusals = tuple((item.code, item.detail) for item in request.refusals)
        wants = await self._door.call(
            context,
            lambda: self._app.report_status(
                node,
                epoch=request.epoch,
                snapshot=request.snapshot,
                sidecars=request.sidecars,
                handshakes=request.handshakes,
                refusals=refusals,
                trust=request.trust,
                rejected=tuple(request.rejected),
                newer_trust=bytes(request.newer_trust),
            ),
        )
        return pb.StatusResponse(wants_trust=wants)


def _tell(item: pb.IssuedSvid, found: Issued) -> None:
    """Write an answer where it stands in the message: a message of its own would be copied there."""
    item.ref = found.ref
    if found.code:
        item.code = found.code
        item.facts.update(found.facts)
        return
    item.spiffe_id, item.rule, item.hint = found.spiffe_id, found.rule, found.hint
    item.direct, item.container_bound = found.direct, found.container_bound
    item.chain.extend(found.chain)
    item.federates_with.extend(found.federates_with)


def _update_pb(state: State) -> pb.Update:
    return pb.Update(
        sequence=state.sequence,
        bundle=state.bundle,
        trust=state.trust,
        settling=state.is_settling,
        releases=[pb.Release(activation=activation, snapshot=snapshot) for activation, snapshot in state.releases],
        candidate=state.candidate,
        reviewers=list(state.reviewers),
        endpoints=[
            pb.Endpoint(spiffe_id=item.spiffe_id, address=item.address, port=item.port) for item in state.endpoints
        ],
        rotation=state.rotation,
        identity_rules=state.identity_rules,
        federated=dict(state.federated),
        tainted=list(state.tainted),
    )
