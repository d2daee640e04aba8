"""A whole agent that was away until everything it had was over: its SVID, and every CA that it knew."""

import asyncio
import datetime as dt
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

import pytest

from ca.rotation import Kind
from enforcer import nodestate
from enforcer.agent import Agent
from enforcer.join import join
from mesh.bundle import parse_bundle
from mesh.clock import SystemClock
from mesh.settings import prepare_state
from mesh.spiffe import TrustDomain
from mesh.wrapping import WrappingKey
from mesh.x509svid import verify_x509_svid
from tests.doors import Doors, at_present
from tests.world import DOMAIN, World, make_world

pytestmark = pytest.mark.system
WRAPPING = WrappingKey(bytes(32), beside_state=False)


@pytest.fixture
def folder() -> Iterator[pathlib.Path]:
    # short: socket paths are limited to 107 bytes
    found = pathlib.Path(tempfile.mkdtemp(prefix="limen-c-"))
    prepare_state(found)
    yield found
    shutil.rmtree(found)


def begun_hours_ago(place: pathlib.Path) -> World:
    """A server whose clock stands three hours back: what it signs is over for everybody else."""
    return at_present(make_world(place), dt.timedelta(hours=3))


def replace_every_ca(world: World) -> None:
    """The roots that anybody knew are gone; the server's own key is what it was."""
    before = [slot for slot in world.app._authority.slots if slot.kind is Kind.ROOT]
    world.app.authorities.rotate(Kind.ROOT, actor="test", is_forced=True)
    for slot in before:
        world.app.authorities.leave("revoke", slot.id, actor="test", reason="gone", is_forced=True, is_dry=False)


def test_an_agent_is_back_by_itself_when_everything_it_had_is_over(
    folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    world = begun_hours_ago(tmp_path / "server")

    async def run() -> None:
        async with Doors(world) as doors:
            state = await asyncio.to_thread(join, doors.url, doors.token())
            nodestate.save(folder / "agent", state, WRAPPING)
            name = state.name
            world.clock.advance(dt.timedelta(hours=3))
            await asyncio.get_running_loop().run_in_executor(doors.worker, lambda: replace_every_ca(world))
            # started again, as `limen agent` does, by a host that remembers nothing but its state
            again = nodestate.load(folder / "agent", WRAPPING)
            assert again is not None
            agent = Agent(folder, again, WRAPPING, clock=SystemClock(), advertise=None)
            stop, ready = asyncio.Event(), asyncio.Event()
            async with asyncio.TaskGroup() as tasks:
                running = tasks.create_task(agent.run(stop, ready))
                try:
                    async with asyncio.timeout(30):
                        await ready.wait()
                finally:
                    stop.set()
                await running
            saved = nodestate.load(folder / "agent", WRAPPING)
            assert saved is not None
            assert saved.name == name
            domain = TrustDomain(DOMAIN)
            bundle = parse_bundle(domain, saved.bundle)
            verify_x509_svid(saved.chain, {domain: bundle}, SystemClock().now())
            assert await asyncio.get_running_loop().run_in_executor(
                doors.worker, lambda: [row["node"] for row in world.app.nodes.list()]
            ) == [name]

    asyncio.run(run())
    events = [row["event"] for row in world.app.records(after=0, kind="agent", limit=9)]
    assert events == ["join", "readmit"]
    world.app.close()
