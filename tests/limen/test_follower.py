import asyncio
import contextlib
import datetime as dt
import pathlib
import sqlite3

from ca.rotation import AuthorityState, Kind
from enforcer.join import join
from enforcer.node import Node
from limen.follower import keep_following
from mesh.proto import node_pb2 as pb
from tests.limen.nested import Nested, nested
from tests.world import World

S = AuthorityState


async def settled(found: Nested, claim: object) -> None:
    """Both go on until a claim holds."""
    async with asyncio.timeout(100):
        while True:
            await found.follow()
            await asyncio.to_thread(found.follower.step)
            await found.say()
            found.world.clock.advance(dt.timedelta(milliseconds=100))
            found.world.app.tick()
            found.below.tick()
            if claim():  # type: ignore[operator]
                return


def test_a_root_rotated_above_is_signed_with_below_and_the_server_above_waits_for_it(
    world_now: World, tmp_path: pathlib.Path
) -> None:
    async def run() -> None:
        async with nested(world_now, tmp_path) as found:
            await found.follow()
            await found.say()
            node = world_now.app.downstreams.show()[0]["node"]
            world_now.app.watch_begins(node)
            made = world_now.app.authorities.rotate(Kind.ROOT, actor="ada", is_forced=False)["authority"]
            assert world_now.app.authorities.progress(made)["behind"] == [node]
            first = found.below._authority.active(Kind.ISSUING).id
            await settled(found, lambda: found.below._authority.active(Kind.ISSUING).id != first)
            assert world_now.app.authorities.progress(made)["state"] == "active"
            root = world_now.app._authority.active(Kind.ROOT).certificates[0]
            assert found.below._authority.active(Kind.ROOT).certificates[0] == root

    asyncio.run(run())


def test_it_holds_what_all_of_its_agents_hold(world_now: World, tmp_path: pathlib.Path) -> None:
    async def run() -> None:
        async with nested(world_now, tmp_path) as found:
            await found.follow()
            before = found.follower.held()
            assert before == world_now.app._authority.trust.sequence
            agent = found.below._agents.of("node-1")
            agent.watches, agent.trust = 1, found.below._authority.trust.sequence
            world_now.app.authorities.rotate(Kind.JWT, actor="ada", is_forced=True)
            await found.follow()
            # the agent has not reported it yet
            assert found.follower.held() == before
            agent.trust = found.below._authority.trust.sequence
            assert found.follower.held() > before

    asyncio.run(run())


def test_nothing_signs_that_an_agent_of_the_server_above_cannot_follow(
    world_now: World, tmp_path: pathlib.Path
) -> None:
    async def run() -> None:
        async with nested(world_now, tmp_path) as found:
            state = await asyncio.to_thread(join, found.doors.url, found.doors.token())
            node = Node(state)
            watching = node.watch(0)
            await anext(watching)
            await node.report_status(pb.StatusRequest(trust=world_now.app._authority.trust.sequence))
            await found.follow()
            made = await asyncio.to_thread(
                lambda: found.below.authorities.rotate(Kind.ISSUING, actor="ada", is_forced=False)["authority"]
            )
            await found.follow()
            async with asyncio.timeout(60):
                # a moment passes after every publication
                while (behind := found.below.authorities.progress(made)["behind"]) != ["the server above"]:
                    assert behind
                    await asyncio.sleep(0)
            await node.report_status(pb.StatusRequest(trust=world_now.app._authority.trust.sequence))
            await settled(found, lambda: found.below.authorities.progress(made)["state"] == "active")
            await node.close()

    asyncio.run(run())


def test_a_server_above_from_a_backup_is_shown_its_newer_word(world_now: World, tmp_path: pathlib.Path) -> None:
    async def run() -> None:
        async with nested(world_now, tmp_path) as found:
            app = world_now.app
            app.join(app.create_token(ttl_s=60, actor="t")["token"], world_now.spki())
            await found.follow()
            with contextlib.closing(sqlite3.connect(world_now.state / "server" / "limen.sqlite")) as live:
                backup = sqlite3.connect(":memory:")
                live.backup(backup)
                serial = next(row["serial"] for row in app.identities() if "/limen/agent/node-" in row["spiffe_id"])
                app.authorities.revoke_svids(serial, actor="ada", reason="stolen", is_dry=False)
                assert app.authorities.show(serial)[0]["revoked"]
                await found.follow()
                backup.backup(live)
            app._authority.load()
            assert app.authorities.show(serial)[0]["revoked"] is None
            newer = found.below._authority.following.kept()
            assert newer is not None
            assert await found.say()
            await found.say(is_asked=True)
            assert app.authorities.show(serial)[0]["revoked"]
            assert app._authority.trust.sequence > newer[0].sequence

    asyncio.run(run())


def test_a_server_above_that_is_not_heard_is_told_until_it_is_heard_again(
    world_now: World, tmp_path: pathlib.Path
) -> None:
    async def run() -> None:
        async with nested(world_now, tmp_path) as found:
            await found.follow()
            told = found.below.authorities.list
            assert told()["upstream"] is not None
            assert told()["upstream_problem"] == ""
            found.follower.lost("LM3444: nobody answers")
            assert told()["upstream_problem"] == "LM3444: nobody answers"
            await found.follow()
            assert told()["upstream_problem"] == ""

    asyncio.run(run())


def test_it_follows_by_itself_until_it_is_stopped(world_now: World, tmp_path: pathlib.Path) -> None:
    async def run() -> None:
        async with nested(world_now, tmp_path) as found:
            stop = asyncio.Event()
            task = asyncio.ensure_future(keep_following(found.below, found.follower, found.doors.worker, stop))
            async with asyncio.timeout(100):
                while not world_now.app.downstreams.show()[0]["is_connected"]:
                    await asyncio.sleep(0)
                while world_now.app.downstreams.show()[0]["heard"] is None:
                    await asyncio.sleep(0)
            stop.set()
            async with asyncio.timeout(60):
                await task

    asyncio.run(run())
