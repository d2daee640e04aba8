import asyncio
import pathlib

import pytest

from ca.rotation import Kind
from ca.trustmaking import public_jwk
from limen import downstreamapi
from mesh.problems import Unavailable
from tests.limen.nested import nested
from tests.world import World


def test_a_change_reaches_the_server_below_at_once(
    world_now: World, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # whoever only looked would look again in an hour
    monkeypatch.setattr(downstreamapi, "LOOK_S", 3600.0)

    async def run() -> None:
        async with nested(world_now, tmp_path) as found:
            node, _ = found.follower.above.connect()
            stream = node.follow()
            first = await anext(stream)
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(
                found.doors.worker,
                lambda: world_now.app.authorities.rotate(Kind.JWT, actor="ada", is_forced=True),
            )
            async with asyncio.timeout(60):
                async for standing in stream:
                    if standing.trust != first.trust:
                        break
            await stream.aclose()  # type: ignore[attr-defined]
            await node.close()

    asyncio.run(run())


def test_a_second_stream_and_a_removed_server_get_none(world_now: World, tmp_path: pathlib.Path) -> None:
    async def run() -> None:
        async with nested(world_now, tmp_path) as found:
            node, _ = found.follower.above.connect()
            stream = node.follow()
            await anext(stream)
            other, _ = found.follower.above.connect()
            with pytest.raises(Unavailable, match="LM5211"):
                await anext(other.follow())
            await other.close()
            await asyncio.get_running_loop().run_in_executor(
                found.doors.worker,
                lambda: world_now.app.downstreams.remove(
                    "eu", actor="ada", reason="gone", is_forced=True, is_dry=False
                ),
            )
            with pytest.raises(Unavailable, match=r"LM5230|LM1625"):
                async for _ in stream:
                    pass
            await node.close()

    asyncio.run(run())


def test_what_oversteps_is_refused_and_changes_nothing(world_now: World, tmp_path: pathlib.Path) -> None:
    async def run() -> None:
        async with nested(world_now, tmp_path) as found:
            await found.say()
            before = world_now.app._authority.trust.sequence
            kid = world_now.app._authority.jwt_key.kid
            stolen = public_jwk(kid, world_now.app._authority.server_key.public_key())
            for words, code in (({"jwks": (stolen,)}, "LM1628"), ({"jwks": (b"x",)}, "LM1627")):
                with pytest.raises(Unavailable, match=code):
                    await found.say_words(**words)
            assert world_now.app._authority.trust.sequence == before

    asyncio.run(run())
