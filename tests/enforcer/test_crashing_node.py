"""kill -9 before every write to the disk, in joining, renewing and coming back: real processes, a real server."""

import asyncio
import datetime as dt
import pathlib
import signal
import sys
import tempfile
from collections.abc import Iterator

import pytest

from tests.doors import Doors, at_present
from tests.world import World, make_world

pytestmark = [pytest.mark.system, pytest.mark.slow]
SCRIPT = pathlib.Path(__file__).with_name("crashing_node.py")


@pytest.fixture
def world(tmp_path: pathlib.Path) -> Iterator[World]:
    found = at_present(make_world(tmp_path / "server"))
    yield found
    found.app.close()


async def run(
    folder: pathlib.Path, doors: Doors, token: str, *, at: int, after: dt.timedelta, renew: bool
) -> tuple[int, str]:
    """Run a node; return its exit status and what it printed."""
    now = (doors.world.clock.now() + after).isoformat()
    arguments = [str(folder), doors.url, token, now, str(at), *(["renew"] if renew else [])]
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(SCRIPT), *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    assert process.returncode in {0, -signal.SIGKILL}, err.decode()
    return int(process.returncode or 0), (out.decode().splitlines() or [""])[-1]


@pytest.mark.parametrize(
    ("begin", "after", "renew"),
    [
        pytest.param(False, dt.timedelta(0), False, id="joining"),
        pytest.param(True, dt.timedelta(0), True, id="renewing"),
        pytest.param(True, dt.timedelta(hours=2), False, id="coming-back"),
    ],
)
def test_a_kill_before_any_write_loses_nothing(world: World, begin: bool, after: dt.timedelta, renew: bool) -> None:
    async def walk() -> int:
        kills = 0
        async with Doors(world) as doors:
            while True:
                with tempfile.TemporaryDirectory(prefix="limen-k-") as name:
                    folder = pathlib.Path(name)
                    token = await asyncio.get_running_loop().run_in_executor(doors.worker, doors.token)
                    if begin:
                        await run(folder, doors, token, at=-1, after=dt.timedelta(0), renew=False)
                    status, said = await run(folder, doors, token, at=kills, after=after, renew=renew)
                    if status == 0:
                        assert said.startswith("node-")
                        return kills
                    kills += 1
                    # killed; started again, it is the same node, with an SVID
                    status, said = await run(folder, doors, token, at=-1, after=after, renew=renew)
                    assert status == 0
                    nodes = await asyncio.get_running_loop().run_in_executor(doors.worker, world.app.nodes.list)
                    assert said.split()[0] in {row["node"] for row in nodes}
                    assert len(nodes) == kills

    kills = asyncio.run(walk())
    assert kills >= 4
