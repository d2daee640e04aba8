"""The real doors of a world: TLS and the node API on loopback, at the present time, which TLS looks at."""

import asyncio
import datetime as dt
import shutil
from concurrent.futures import ThreadPoolExecutor
from typing import Self

from limen import tlsport
from limen.api.public import public_api
from limen.limits import CONNECT_BURST, CONNECT_RATE, PeerLimits
from limen.nodefront import PROVES_WITHIN_S
from limen.nodeport import NodePort
from limen.opening import open_app
from limen.serve import _for_strangers, _listen
from mesh.clock import SystemClock
from mesh.settings import prepare_state
from tests.world import World


class Doors:
    """The real doors of a world: TLS and the node API on loopback."""

    def __init__(
        self, world: World, *, proves_within_s: float = PROVES_WITHIN_S, often: PeerLimits | None = None
    ) -> None:
        self.world, self.proves_within_s = world, proves_within_s
        self.often = often or PeerLimits(rate=CONNECT_RATE, burst=CONNECT_BURST)
        self.worker = ThreadPoolExecutor(1)

    async def __aenter__(self) -> Self:
        self.server = NodePort(
            self.world.app, self.worker, self.world.state / "run" / "node", within_s=self.proves_within_s
        )
        self.node_listener = _listen("127.0.0.1", 0, "node", self.often)
        port = self.node_listener.getsockname()[1]
        await self.server.start(self.node_listener)
        sock = _listen("127.0.0.1", 0)
        self.url = f"https://127.0.0.1:{sock.getsockname()[1]}"
        self.world.app.locate(url=self.url, node_api=f"127.0.0.1:{port}")
        self.tls = _for_strangers(
            public_api(self.world.app, self.worker), tlsport.context_of(*self.world.app.server_pem())
        )
        self.task = asyncio.ensure_future(self.tls.serve(sockets=[sock]))
        async with asyncio.timeout(60):
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


def at_present(world: World, ago: dt.timedelta = dt.timedelta(0)) -> World:
    """The world begun anew at the present, or some time ago: TLS on both sides looks at the real clock."""
    world.clock.advance(SystemClock().now() - ago - world.clock.now())
    world.app.close()
    for name in ("server", "audit", "ca"):
        shutil.rmtree(world.state / name)
    prepare_state(world.state)
    reviewers = next(world.state.glob("reviewers-*.json"))
    world.app = open_app(world.state, trust_domain="world.test", database=None, reviewers=reviewers, clock=world.clock)
    return world
