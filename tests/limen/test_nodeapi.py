import asyncio
import contextlib
import datetime as dt
import pathlib
import sqlite3
from collections.abc import AsyncIterator

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from ca.rotation import Kind
from enforcer.identity import new_ask
from enforcer.join import join, key_der, readmit
from enforcer.node import Node
from enforcer.skew import ServerClock
from mesh.clock import ManualClock
from mesh.problems import Forbidden, Invalid, Unavailable
from mesh.proto import node_pb2 as pb
from mesh.truststate import read_trust_state
from tests.doors import Doors
from tests.world import RULES, World


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
            key = ec.generate_private_key(ec.SECP256R1())
            chain, bundle = await node.renew(key)
            state.chain, state.key = chain, key_der(key)
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


def test_every_answer_says_what_time_it_is_at_the_server(world_now: World) -> None:
    async def run() -> None:
        async with Doors(world_now) as doors:
            state = await asyncio.to_thread(join, doors.url, doors.token())
            here = ManualClock(world_now.clock.now() + dt.timedelta(minutes=4))
            clock = ServerClock(here)
            node = Node(state, clock)
            await node.report_endpoints([])
            assert (clock.is_known, clock.skew) == (True, dt.timedelta(minutes=4))
            here.advance(dt.timedelta(minutes=-9))
            await anext(aiter_of(node))
            assert clock.skew == dt.timedelta(minutes=-5)
            await node.close()

    asyncio.run(run())


def test_a_ban_ends_a_watch_and_every_call_and_the_way_back(world_now: World) -> None:
    async def run() -> None:
        async with Doors(world_now) as doors:
            state = await asyncio.to_thread(join, doors.url, doors.token())
            node = Node(state)
            watch = aiter_all(node)
            await anext(watch)
            await asyncio.get_running_loop().run_in_executor(
                doors.worker, lambda: world_now.app.ban_node(state.name, reason="stolen", actor="test")
            )
            with pytest.raises(Unavailable, match="LM1243"):
                while True:
                    await anext(watch)
            assert node.refused
            with pytest.raises(Unavailable, match="LM1243"):
                await node.report_endpoints([])
            key = ec.generate_private_key(ec.SECP256R1())
            with pytest.raises(Forbidden, match="LM1243"):
                await asyncio.to_thread(readmit, state, key)
            world_now.app.nodes.allow(state.name, actor="test")
            await asyncio.to_thread(readmit, state, key)
            await node.close()

    asyncio.run(run())


async def aiter_all(node: Node) -> AsyncIterator[pb.Update]:
    async for update in node.watch(0):
        yield update


def test_the_fence_follows_the_roots_under_live_agents(world_now: World) -> None:
    """Another authority takes over while an agent is connected: it stays, and a node of the new roots comes in."""

    async def run() -> None:
        async with Doors(world_now) as doors:
            app = world_now.app
            state = await asyncio.to_thread(join, doors.url, doors.token())
            node = Node(state)
            await node.report_endpoints([])
            before = app.bundle().x509_authorities
            app.authorities.rotate(Kind.ROOT, actor="test", is_forced=True)
            fresh = await asyncio.to_thread(join, doors.url, doors.token())
            assert len(app.bundle().x509_authorities) == 2
            newcomer = Node(fresh)
            await newcomer.report_endpoints([])
            # the connection from before lives, and so does a new one with the old root's SVID
            await node.report_endpoints([])
            again = Node(state)
            await again.report_endpoints([])
            # the old root is gone: its nodes are refused at the fence, and come back by the other door
            (old,) = [slot for slot in app._authority.slots if slot.certificates[0] == before[0]]
            app.authorities.leave("revoke", old.id, actor="test", reason="", is_forced=True, is_dry=False)
            outside = Node(state)
            with pytest.raises(Unavailable, match="LM3444"):
                await outside.report_endpoints([])
            key = ec.generate_private_key(ec.SECP256R1())
            admission = await asyncio.to_thread(readmit, state, key)
            admission.into(state)
            await outside.adopt()
            await outside.report_endpoints([])
            for item in (node, newcomer, again, outside):
                await item.close()

    asyncio.run(run())


def test_what_an_agent_holds_is_looked_at_before_it_is_sent_anything(world_now: World) -> None:
    """A restored server that gave its numbers again: the watch begins above all of them, with what was revoked."""

    async def run() -> None:
        async with Doors(world_now) as doors:
            state = await asyncio.to_thread(join, doors.url, doors.token())
            node, app = Node(state), world_now.app
            serial = next(row["serial"] for row in app.identities() if row["spiffe_id"] == state.spiffe_id)
            with contextlib.closing(sqlite3.connect(world_now.state / "server" / "limen.sqlite")) as disk:
                backup = sqlite3.connect(":memory:")
                disk.backup(backup)
                # another node's: this one still has to be let in
                other = app.join(app.create_token(ttl_s=60, actor="t")["token"], world_now.spki())
                del other
                stolen = next(row["serial"] for row in app.identities() if row["serial"] != serial)
                app.authorities.revoke_svids(stolen, actor="ada", reason="stolen", is_dry=False)
                held = app._authority.signed_trust
                backup.backup(disk)
            app._authority.load()
            for _ in range(3):
                app.authorities.rotate(Kind.JWT, actor="ada", is_forced=True)
            number = app._authority.trust.sequence
            async for update in node.watch(0, held):
                shown = read_trust_state(bytes(update.trust), app._authority.trust_domain, state.server_certificate)
                break
            assert shown.sequence > number
            assert any(
                item.serial_number == int(stolen, 16)
                for der in shown.bundle.crls
                for item in x509.load_der_x509_crl(der)
            )
            await node.close()

    asyncio.run(run())
