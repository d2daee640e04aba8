import asyncio
import os
import pathlib
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from enforcer.launch import Order
from enforcer.sockdiag import SockDiag
from enforcer.workload import Feed, Ports, Workload
from mesh.problems import Problem

pytestmark = pytest.mark.system


async def take(rows: Sequence[Mapping[str, object]]) -> None:
    del rows


FEED = Feed(
    policy=lambda: {"type": "policy", "epoch": 0, "active": None, "candidate": None},
    endpoints=lambda: {"type": "endpoints", "endpoints": []},
    bundles=lambda identity: {},
    trust=lambda: 0,
    records=take,
    flows=lambda rows: None,
)


def order(*argv: str) -> Order:
    return Order(
        argv=argv, cwd="/", env={"PATH": os.environ["PATH"]}, uid=os.getuid(), gid=os.getgid(), streams=(0, 1, 2)
    )


def run(work: Any, ports: Ports | None = None) -> None:
    async def main() -> None:
        diag = SockDiag()
        workload = Workload("w", ports or Ports(), FEED, diag, None)
        async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
            tasks.create_task(workload.run_sidecar())
            try:
                await work(workload)
            finally:
                await workload.stop()
        diag.close()

    asyncio.run(main())


def test_the_program_ends_with_its_code_and_the_sidecar_with_it() -> None:
    async def work(workload: Workload) -> None:
        await workload.wait_ready()
        workload.start_program(order(sys.executable, "-c", "raise SystemExit(5)"))
        assert await workload.wait_program() == 5

    run(work)


def test_a_signal_is_128_and_its_number() -> None:
    async def work(workload: Workload) -> None:
        await workload.wait_ready()
        workload.start_program(order("sleep", "60"))
        workload.signal_program(signal.SIGKILL)
        assert await workload.wait_program() == 137

    run(work)


def test_a_sidecar_that_cannot_listen_says_why() -> None:
    async def work(workload: Workload) -> None:
        with pytest.raises(Problem) as caught:
            await workload.wait_ready()
        assert caught.value.code == "LM3014"

    run(work, Ports(inbound=(("203.0.113.1", 1, 2),)))


def test_a_sidecar_that_falls_is_started_again() -> None:
    async def work(workload: Workload) -> None:
        await workload.wait_ready()
        first = workload._sidecar
        assert first is not None
        first.kill()
        while workload._sidecar is first or workload._sidecar is None:
            await asyncio.sleep(0)
        assert workload._sidecar.pid != first.pid

    run(work)


def test_stopping_ends_a_program_that_does_not_listen() -> None:
    ended: list[int] = []

    async def work(workload: Workload) -> None:
        await workload.wait_ready()
        launched = workload.start_program(order("sleep", "60"))
        await workload.stop()
        ended.append(launched.pid)

    run(work)
    assert not pathlib.Path(f"/proc/{ended[0]}").exists()
