"""A workload's sidecar processes: one takes another's place, and what waits in the sockets is served."""

import asyncio
import os
import signal

import pytest

from enforcer.beside import Beside
from enforcer.ports import Ports
from enforcer.sight import Sight
from enforcer.workload import Workload
from mesh.problems import NotFound
from tests.enforcer.test_workload import FEED, run, start
from tests.ports import free_port

pytestmark = [pytest.mark.system, pytest.mark.slow]


def pids(workload: Workload) -> list[int]:
    return [found.process[0] for found in workload.sidecars if found.process is not None and not found.is_draining]


def test_one_that_is_to_be_another_is_over_when_it_has_nothing_left() -> None:
    async def work(workload: Workload) -> None:
        await workload.wait_ready()
        child = start(workload, "sleep", "600")
        (before,) = workload.sidecars
        await workload.upgrade()
        after = pids(workload)
        assert len(after) == 1
        await before.over.wait()
        assert before.process is not None
        assert before.process[0] not in after
        assert [found.is_draining for found in workload.sidecars] == [False]
        await workload.stop()
        child.wait()

    run(work, Ports(outbound=((free_port(), "db", None),)))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_one_that_is_ended_has_a_successor_on_the_same_sockets(number: int) -> None:
    port = free_port()

    async def work(workload: Workload) -> None:
        await workload.wait_ready()
        child = start(workload, "sleep", "600")
        (before,) = workload.sidecars
        assert before.process is not None
        os.kill(before.process[0], number)
        # from now on there is a moment without any sidecar: connections are taken all the same
        for _ in range(20):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
        await before.over.wait()
        while not pids(workload):
            await asyncio.sleep(0)
        await workload.wait_ready()
        assert pids(workload) != [before.process[0]]
        await workload.stop()
        child.wait()

    run(work, Ports(outbound=((port, "db", None),)))


def test_each_of_several_has_a_place_of_its_own_and_is_upgraded_there() -> None:
    async def work(workload: Workload) -> None:
        await workload.wait_ready()
        child = start(workload, "sleep", "600")
        first = workload.sidecars
        assert [found.place for found in first] == [0, 1]
        await workload.upgrade()
        for found in first:
            await found.over.wait()
        assert sorted(found.place for found in workload.sidecars) == [0, 1]
        assert not {found.process for found in first} & {found.process for found in workload.sidecars}
        await workload.stop()
        child.wait()

    run(work, Ports(outbound=((free_port(), "db", None),), workers=2))


def test_a_process_that_is_gone_is_not_waited_for() -> None:
    async def main() -> None:
        found = Beside(Workload("w", Ports(), FEED, Sight(diag=None), None), 0)  # type: ignore[arg-type]  # never asked
        with pytest.raises(NotFound, match="LM3401"):
            found.expect((os.getpid(), 1), is_draining=False, build="")
        found.tell({"type": "stop"})  # to nobody
        assert (found.is_told, found.is_awaited) == (False, False)

    asyncio.run(main())
