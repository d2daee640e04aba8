import asyncio
import pathlib
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Self

import pytest

from enforcer.identity import new_ask
from enforcer.join import join
from enforcer.node import Node
from limen.api.public import public_api
from limen.serve import _listen, _node_server, _server_context, _uvicorn
from mesh.problems import Forbidden, Invalid, Unavailable
from mesh.proto import node_pb2 as pb
from tests.world import RULES, World


class Doors:
    """The real doors of a world: TLS and the node API on loopback."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.worker = ThreadPoolExecutor(1)

    async def __aenter__(self) -> Self:
        self.server, port = await _node_server(self.world.app, self.worker, "127.0.0.1")
        sock = _listen("127.0.0.1", 0)
        self.url = f"https://127.0.0.1:{sock.getsockname()[1]}"
        self.world.app.locate(url=self.url, node_api=f"127.0.0.1:{port}")
        self.tls = _uvicorn(public_api(self.world.app, self.worker), context=_server_context(self.world.app))
        self.task = asyncio.ensure_future(self.tls.serve(sockets=[sock]))
        async with asyncio.timeout(10):
            while not self.tls.started:
                await asyncio.sleep(0)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.server.stop(0.1)
        self.tls.should_exit = True
        await self.task
        self.worker.shutdown()

    def token(self) -> str:
        return str(self.world.app.create_token(ttl_s=60, actor="test")["token"])


@pytest.fixture
def world_now(world: World) -> World:
    """The world's clock at the present: TLS on both sides looks at the real one."""
    from mesh.clock import SystemClock

    world.clock.advance(SystemClock().now() - world.clock.now())
    world.app.close()
    import shutil

    from limen.opening import open_app

    for name in ("server", "audit", "ca"):
        shutil.rmtree(world.state / name)
    from mesh.settings import prepare_state

    prepare_state(world.state)
    reviewers = next(world.state.glob("reviewers-*.json"))
    world.app = open_app(world.state, trust_domain="world.test", database=None, reviewers=reviewers, clock=world.clock)
    return world


def test_an_agent_joins_is_known_and_gets_what_it_asks_for(world_now: World) -> None:
    async def run() -> None:
        async with Doors(world_now) as doors:
            state = await asyncio.to_thread(join, doors.url, doors.token())
            node = Node(state)
            world_now.rules(RULES)
            ask = pb.Ask(ref="1", spki=world_now.spki(), facts=[pb.Fact(key="unix:uid", value="1000")])
            issued = await node.issue([ask])
            assert issued[0].spiffe_id == "spiffe://world.test/user/1000"
            update = await anext(aiter_of(node))
            assert update.releases == []
            chain, key, bundle = await node.renew()
            state.chain, state.key = chain, key
            await node.adopt()
            assert (await node.issue([ask]))[0].code == ""
            assert bundle
            await node.close()

    asyncio.run(run())


async def aiter_of(node: Node) -> AsyncIterator[pb.Update]:
    async for update in node.watch(0):
        yield update
        return


def test_a_used_token_and_a_stranger_are_refused(world_now: World) -> None:
    async def run() -> None:
        async with Doors(world_now) as doors:
            token = doors.token()
            state = await asyncio.to_thread(join, doors.url, token)
            with pytest.raises(Forbidden, match="LM1208"):
                await asyncio.to_thread(join, doors.url, token)
            # a certificate of the trust domain that is no node's
            world_now.rules(RULES)
            node = Node(state)
            ask, key = new_ask("1", [("unix:uid", "1000")])
            issued = await node.issue([ask])
            await node.close()
            state.chain, state.key = tuple(issued[0].chain), key
            stranger = Node(state)
            with pytest.raises(Unavailable, match="LM5230"):
                await stranger.issue([ask])
            await stranger.close()

    asyncio.run(run())


def test_another_server_than_the_pinned_one_is_refused(world_now: World, tmp_path: pathlib.Path) -> None:
    from tests.world import make_world

    other = make_world(tmp_path / "other")
    token = str(other.app.create_token(ttl_s=60, actor="test")["token"])

    async def run() -> None:
        async with Doors(world_now) as doors:
            with pytest.raises(Forbidden, match="LM3442"):
                await asyncio.to_thread(join, doors.url, token)
            with pytest.raises(Invalid, match="LM1207"):
                await asyncio.to_thread(join, doors.url, "no token")

    asyncio.run(run())
    other.app.close()
