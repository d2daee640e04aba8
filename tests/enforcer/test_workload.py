import asyncio
import datetime as dt
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import structlog.testing

from enforcer.launch import Order
from enforcer.ports import Ports
from enforcer.sight import Sight
from enforcer.sockdiag import SockDiag
from enforcer.workload import ASK_AGAIN, Feed, Workload
from mesh.problems import Forbidden, Problem, Unavailable
from tests.launching import launch

pytestmark = pytest.mark.system


async def take(rows: Sequence[Mapping[str, object]]) -> None:
    del rows


DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.pause()"
FEED = Feed(
    policy=lambda: {"type": "policy", "epoch": 0, "active": None, "candidate": None},
    endpoints=lambda: {"type": "endpoints", "endpoints": []},
    bundles=lambda identity: {},
    trust=lambda: 0,
    records=take,
    flows=lambda rows: None,
    keys=lambda: {"type": "keys", "sets": []},
    missed=lambda sources: None,
    back="/nonexistent/sidecars.sock",
)


def order(*argv: str) -> Order:
    return Order(
        argv=argv, cwd="/", env={"PATH": os.environ["PATH"]}, uid=os.getuid(), gid=os.getgid(), streams=(0, 1, 2)
    )


def start(workload: Workload, *argv: str) -> subprocess.Popen[bytes]:
    """Begin a program for a workload, which takes it on."""
    child, launched = launch(order(*argv))
    workload.adopt(os.pidfd_open(child.pid), launched)
    return child


def run(work: Any, ports: Ports | None = None) -> None:
    async def main() -> None:
        diag = SockDiag()
        workload = Workload("w", ports or Ports(), FEED, Sight(diag=diag), None)
        async with asyncio.timeout(100), asyncio.TaskGroup() as tasks:
            tasks.create_task(workload.run_sidecar())
            try:
                await work(workload)
            finally:
                await workload.stop()
        diag.close()

    asyncio.run(main())


def test_the_program_ends_and_the_sidecar_with_it() -> None:
    async def work(workload: Workload) -> None:
        await workload.wait_ready()
        child = start(workload, sys.executable, "-c", "raise SystemExit(5)")
        await workload.wait_program()
        await workload.stop()
        assert child.wait() == 5

    run(work)


def test_a_signal_reaches_the_program() -> None:
    async def work(workload: Workload) -> None:
        await workload.wait_ready()
        child = start(workload, "sleep", "600")
        workload.signal_program(signal.SIGKILL)
        await workload.wait_program()
        await workload.stop()
        # what ended is signalled without harm
        workload.signal_program(signal.SIGTERM)
        assert child.wait() == -signal.SIGKILL

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
        (first,) = workload.sidecars
        child = start(workload, "sleep", "60")
        first.kill()
        while not workload.sidecars or workload.sidecars[0] is first:
            await asyncio.sleep(0)
        await workload.wait_ready()
        assert workload.sidecars[0].process != first.process
        await workload.stop()
        child.wait()

    run(work)


def test_stopping_ends_a_program_that_does_not_listen() -> None:
    async def work(workload: Workload) -> None:
        await workload.wait_ready()
        child = start(workload, sys.executable, "-c", DEAF)
        await workload.stop()
        assert child.wait() in {-signal.SIGKILL, -signal.SIGTERM}

    run(work)


def test_a_refusal_of_the_rules_is_said_once_and_not_asked_again_every_second() -> None:
    diag = SockDiag()
    workload = Workload("w", Ports(), FEED, Sight(diag=diag), None)
    diag.close()
    now, second = dt.datetime(2026, 1, 1, tzinfo=dt.UTC), dt.timedelta(seconds=1)
    # it has not begun
    assert not workload.is_due(now)
    child, workload.launch = launch(order(sys.executable, "-c", "pass"))
    child.wait()
    assert workload.is_due(now)
    with structlog.testing.capture_logs() as said:
        for _ in range(3):
            workload.refuse(Forbidden("LM1210", count="2"), now)
    assert [row["event"] for row in said] == ["no identity"]
    assert not workload.is_due(now + second)
    assert workload.is_due(now + ASK_AGAIN)
    # another reason is said, and what may be over in a moment is asked again in one
    with structlog.testing.capture_logs() as said:
        workload.refuse(Unavailable("LM3453", reason="x"), now)
    assert len(said) == 1
    assert workload.is_due(now + second)
