import asyncio
import pathlib

import pytest

from mesh.problems import Conflict, NotFound
from tests.limen.nested import allow, nested
from tests.world import World


def records(world: World, kind: str, event: str) -> list[dict[str, object]]:
    return [row for row in world.app.records(after=0, kind=kind, limit=1000) if row.get("event") == event]


def test_who_may_and_what_was_given_is_in_the_log(world_now: World, tmp_path: pathlib.Path) -> None:
    async def run() -> None:
        async with nested(world_now, tmp_path) as found:
            (allowed,) = records(world_now, "ca", "downstream-allow")
            assert (allowed["actor"], allowed["node"], allowed["life_s"]) == ("ada", "downstream-eu", 7 * 86400)
            (given,) = records(world_now, "issuance", "downstream")
            (row,) = world_now.app.downstreams.show()
            assert given["authority"] == row["authorities"][0]["id"]
            assert given["certificate"]
            # the journal has it too, as any authority
            world_now.app.tick()
            assert any(item["authority"] == given["authority"] for item in records(world_now, "ca", "authority"))
            assert found.below.follower is not None

    asyncio.run(run())


def test_removing_says_what_it_breaks_and_needs_force(world_now: World, tmp_path: pathlib.Path) -> None:
    async def run() -> None:
        async with nested(world_now, tmp_path) as found:
            found.below.svid.renew()
            await found.say()
            downstreams = world_now.app.downstreams
            dry = downstreams.remove("eu", actor="ada", reason="", is_forced=False, is_dry=True)
            assert (dry["done"], dry["blast"]["live_svids"], dry["blast"]["downstreams"]) == (False, 1, 1)
            with pytest.raises(Conflict, match="LM1308"):
                downstreams.remove("eu", actor="ada", reason="", is_forced=False, is_dry=False)
            done = downstreams.remove("downstream-eu", actor="ada", reason="gone", is_forced=True, is_dry=False)
            assert done["done"]
            assert records(world_now, "ca", "downstream-remove")[0]["reason"] == "gone"
            with pytest.raises(NotFound, match="LM1624"):
                downstreams.remove("eu", actor="ada", reason="", is_forced=True, is_dry=False)

    asyncio.run(run())


def test_it_counts_among_the_agents_a_rotation_waits_for(world: World) -> None:
    allow(world)
    world.app.join(allow(world, "us")["token"], world.spki())
    assert world.app.authenticate_node  # the node is one of ours
    assert [row["node"] for row in world.app.nodes.list()] == ["downstream-us"]
    assert [row["attestor"] for row in world.app.nodes.list()] == ["downstream"]
