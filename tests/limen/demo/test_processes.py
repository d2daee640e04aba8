import asyncio
import pathlib

import pytest

from limen.demo.processes import Processes
from mesh.problems import Unavailable


def test_a_command_that_fails_is_reported_with_what_it_said(tmp_path: pathlib.Path) -> None:
    async def run() -> None:
        processes = Processes(tmp_path)
        assert (await processes.limen("--version")).out.startswith("limen")
        with pytest.raises(Unavailable, match="LM5201"):
            await processes.limen("status")
        assert (await processes.limen("status", expect=(3,))).status == 3

    asyncio.run(run())


@pytest.mark.system
def test_a_running_command_is_heard_and_stopped(tmp_path: pathlib.Path) -> None:
    async def run() -> None:
        processes = Processes(tmp_path)
        server = await processes.start("server", "server")
        await server.until_line("ready server")
        assert server.is_running
        await processes.stop()
        assert not server.is_running
        with pytest.raises(Unavailable, match="LM5222"):
            await server.until_row("never", within_s=1)

    asyncio.run(run())
