import asyncio
import os
import pathlib
import signal

import pytest

from limen.supervisor import Part, wait_ready
from mesh.problems import Unavailable


async def version() -> tuple[list[str], dict[str, str]]:
    return ["--version"], {}


@pytest.mark.system
def test_a_part_that_never_was_ready_is_not_started_again() -> None:
    part = Part("server", version, is_quiet=True)
    with pytest.raises(Unavailable, match="LM5206"):
        asyncio.run(part.run())
    assert part.starts == 1


@pytest.mark.system
def test_a_killed_server_comes_back_and_a_stop_ends_it(tmp_path: pathlib.Path) -> None:
    async def arguments() -> tuple[list[str], dict[str, str]]:
        return ["--state", str(tmp_path), "server"], {}

    async def run() -> None:
        part = Part("server", arguments, is_quiet=True)
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(part.run())
            await wait_ready(part)
            first = part.pid
            assert first is not None
            os.kill(first, signal.SIGKILL)
            async with asyncio.timeout(100):
                while part.starts < 2 or not part.ready.is_set():
                    await asyncio.sleep(0.01)
            assert part.pid != first
            await part.stop()
            await running
        assert not (tmp_path / "run" / "server.json").exists()

    asyncio.run(run())
