"""A server with its real doors, and one below it that reached it through them."""

import asyncio
import contextlib
import dataclasses
import pathlib
from collections.abc import AsyncIterator
from typing import Any

from limen.app import App
from limen.downstreamwords import request_of
from limen.follower import Follower
from limen.opening import open_app
from mesh.clock import SystemClock
from mesh.proto import node_pb2 as pb
from mesh.settings import prepare_state
from tests.doors import Doors
from tests.world import DOMAIN, World


def put_token(folder: pathlib.Path, text: str) -> pathlib.Path:
    path = folder / "token"
    path.touch(mode=0o600)
    path.write_text(text)
    return path


def allow(world: World, name: str = "eu", life_s: int = 7 * 86400) -> Any:
    return world.app.allow_downstream(name, life_s=life_s, ttl_s=60, actor="ada")


def open_below(folder: pathlib.Path, upstream: str) -> App:
    prepare_state(folder)
    return open_app(folder, trust_domain=DOMAIN, database=None, reviewers=None, clock=SystemClock(), upstream=upstream)


@dataclasses.dataclass(slots=True, kw_only=True)
class Nested:
    """``below`` follows ``world`` over the real doors; nothing runs by itself."""

    world: World
    doors: Doors
    below: App
    folder: pathlib.Path

    @property
    def follower(self) -> Follower:
        assert self.below.follower is not None
        return self.below.follower

    async def standing(self) -> pb.Standing:
        """The first standing of a new stream."""
        node, _ = self.follower.above.connect()
        try:
            async for found in node.follow():
                return found
            raise AssertionError("the stream ended")
        finally:
            await node.close()

    async def follow(self) -> pb.Standing:
        """Take what the server above says now."""
        found = await self.standing()
        await asyncio.to_thread(self.follower.take, found)
        return found

    async def say(self, *, is_asked: bool = False) -> bool:
        """Say what the server below is."""
        node, _ = self.follower.above.connect()
        try:
            return await node.publish(self.follower.says(is_asked=is_asked))
        finally:
            await node.close()

    async def say_words(self, **words: Any) -> bool:
        """Say anything."""
        from ca.neighbours import Words

        node, _ = self.follower.above.connect()
        try:
            return await node.publish(request_of(Words(**words), trust=0, newer=b""))
        finally:
            await node.close()


@contextlib.asynccontextmanager
async def nested(world: World, folder: pathlib.Path) -> AsyncIterator[Nested]:
    async with Doors(world) as doors:
        token = put_token(folder, allow(world)["token"])
        upstream = f"limen:url={doors.url},token={token}"
        below = await asyncio.to_thread(open_below, folder / "below", upstream)
        try:
            yield Nested(world=world, doors=doors, below=below, folder=folder / "below")
        finally:
            below.close()
