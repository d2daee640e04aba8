import asyncio
import pathlib
from typing import Any

import grpc
import pytest

from enforcer.join import join
from enforcer.node import Node, credentials_of
from enforcer.skew import ServerClock
from limen.above import AboveNode
from mesh.clock import SystemClock
from mesh.problems import Unavailable
from mesh.proto import node_pb2 as pb
from mesh.proto import node_pb2_grpc
from tests.doors import Doors
from tests.limen.nested import nested
from tests.world import World

OPTIONS = [("grpc.ssl_target_name_override", "limen-server"), ("grpc.enable_http_proxy", 0)]
OF_AGENTS = [
    ("BatchNewX509Svid", pb.BatchRequest()),
    ("BatchNewJwtSvid", pb.JwtBatchRequest()),
    ("ReportEndpoints", pb.EndpointsRequest()),
    ("PushRecords", pb.RecordBatch()),
    ("PushFlows", pb.FlowBatch()),
    ("ReportStatus", pb.StatusRequest()),
]


@pytest.mark.parametrize(("name", "request_"), OF_AGENTS, ids=[name for name, _ in OF_AGENTS])
def test_a_server_below_asks_nothing_that_is_an_agents(
    world_now: World, tmp_path: pathlib.Path, name: str, request_: Any
) -> None:
    async def run() -> None:
        async with nested(world_now, tmp_path) as found:
            state = found.follower.above._state
            async with grpc.aio.secure_channel(state.node_api, credentials_of(state), options=OPTIONS) as channel:
                stub = node_pb2_grpc.NodeStub(channel)  # type: ignore[no-untyped-call]
                with pytest.raises(grpc.aio.AioRpcError, match="LM1629") as caught:
                    await getattr(stub, name)(request_, timeout=60)
                assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
                # its own SVID it renews like any node
                assert (await stub.Renew(pb.RenewRequest(spki=world_now.spki()), timeout=60)).chain

    asyncio.run(run())


def test_it_watches_no_policies(world_now: World, tmp_path: pathlib.Path) -> None:
    async def run() -> None:
        async with nested(world_now, tmp_path) as found:
            node = Node(found.follower.above._state)
            with pytest.raises(Unavailable, match="LM1629"):
                await anext(node.watch(0))
            await node.close()

    asyncio.run(run())


def test_an_agent_asks_nothing_that_is_a_servers(world_now: World) -> None:
    async def run() -> None:
        async with Doors(world_now) as doors:
            state = await asyncio.to_thread(join, doors.url, doors.token())
            node = AboveNode(state, ServerClock(SystemClock()), lambda: None)
            with pytest.raises(Unavailable, match="LM1629"):
                await node.publish(pb.PublishRequest())
            with pytest.raises(Unavailable, match="LM1629"):
                await anext(node.follow())
            await node.close()

    asyncio.run(run())
