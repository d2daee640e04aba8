"""What an agent does with the workloads of its predecessor."""

import asyncio
import contextlib
import dataclasses
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence

import pytest

from enforcer import workloads as module
from enforcer.attest import Launch
from enforcer.control import Conversation
from enforcer.kept import Kept, KeptSidecar, KeptWorkloads
from enforcer.native import wire
from enforcer.ports import Ports
from enforcer.process import read_stat
from enforcer.sight import Sight
from enforcer.sockdiag import SockDiag
from enforcer.workload import Workload
from enforcer.workloads import House, Workloads, listen_for_sidecars
from mesh.problems import NotFound
from tests.enforcer.test_workload import FEED, order
from tests.launching import launch

pytestmark = pytest.mark.system
Program = tuple["subprocess.Popen[bytes]", Launch]
WAITS = "import signal; signal.pause()"


@pytest.fixture
def folder() -> Iterator[pathlib.Path]:
    # short: socket paths are limited to 107 bytes
    found = pathlib.Path(tempfile.mkdtemp(prefix="limen-w-"))
    yield found
    shutil.rmtree(found)


@pytest.fixture
def program() -> Iterator[Program]:
    child, found = launch(order(sys.executable, "-c", WAITS))
    yield child, found
    child.kill()
    child.wait()


async def reissue(found: Sequence[Workload]) -> None:
    del found


async def ended() -> None:
    return


def keep(folder: pathlib.Path, launched: Launch, sidecar: tuple[int, int] | None = None) -> None:
    sidecars = (KeptSidecar(process=sidecar),) if sidecar is not None else ()
    KeptWorkloads(folder).save(Kept(number=4, name="w", ports=Ports(), launch=launched, sidecars=sidecars))


@contextlib.asynccontextmanager
async def successor(folder: pathlib.Path) -> AsyncIterator[Workloads]:
    """The next agent's workloads, with the sidecars' door open."""
    diag = SockDiag()
    house = House(reissue=reissue, write_guard=lambda: None, ended=ended)
    found = Workloads(KeptWorkloads(folder), lambda: FEED, Sight(diag=diag), house)
    door = listen_for_sidecars(folder / "s")
    async with asyncio.timeout(100), asyncio.TaskGroup() as tasks:
        accepting = tasks.create_task(found.accept_sidecars(door))
        try:
            yield found
        finally:
            accepting.cancel()
            found.dismiss_returned()
            door.close()
            diag.close()


@contextlib.contextmanager
def coming_back(pid: int) -> Iterator[tuple[Conversation, socket.socket]]:
    """The conversation of whoever asked for a process, with its pidfd."""
    ours, theirs = socket.socketpair()
    talk = Conversation(theirs)
    talk.handles = [os.pidfd_open(pid)]
    try:
        yield talk, ours
    finally:
        talk.close()
        ours.close()


def test_a_recorded_workload_goes_on_and_ends_with_whoever_asked(folder: pathlib.Path, program: Program) -> None:
    child, found = program
    keep(folder, found)

    async def main() -> list[object]:
        async with successor(folder) as workloads:
            with coming_back(child.pid) as (talk, ours):
                async with asyncio.TaskGroup() as tasks:
                    resuming = tasks.create_task(workloads.resume(talk, {"type": "resume"}))
                    while not KeptWorkloads(folder).load()[0].sidecars:
                        await asyncio.sleep(0)
                    names = [item.name for item in workloads.values()]
                    ours.shutdown(socket.SHUT_WR)
                    await resuming
                said = wire.receive(ours)
        return [names, said]

    assert asyncio.run(main()) == [["w"], {"type": "ended"}]
    assert child.wait(60) == -15
    assert KeptWorkloads(folder).load() == []


@pytest.mark.parametrize(
    "change", [{"layout": (1,) * 6}, {"layout": ()}, {"inode": 1}, {"start": 1}], ids=["image", "none", "file", "start"]
)
def test_what_is_not_what_was_recorded_is_refused(
    folder: pathlib.Path, program: Program, change: dict[str, object]
) -> None:
    child, found = program
    keep(folder, dataclasses.replace(found, **change))  # type: ignore[arg-type]  # fields by name

    async def main() -> None:
        async with successor(folder) as workloads:
            with coming_back(child.pid) as (talk, _):
                await workloads.resume(talk, {"type": "resume"})

    with pytest.raises(BaseExceptionGroup) as raised:
        asyncio.run(main())
    assert raised.group_contains(NotFound, match="LM3462")


def ask(path: pathlib.Path) -> list[object]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(60)
        sock.connect(str(path))
        return [wire.receive(sock), wire.receive(sock)]


def test_a_stranger_at_the_sidecars_door_is_told_to_stop_and_nothing_else(
    folder: pathlib.Path, program: Program
) -> None:
    # a process of a sidecar's pid that began at another time is a stranger too
    keep(folder, program[1], (os.getpid(), read_stat(os.getpid()).start + 1))

    async def main() -> object:
        async with successor(folder):
            return await asyncio.to_thread(ask, folder / "s")

    assert asyncio.run(main()) == [{"type": "failed", "code": "LM3463", "facts": {}}, {"type": "stop"}]
    assert (folder / "s").stat().st_mode & 0o777 == 0o666


def test_a_program_that_was_not_resumed_yet_is_hung_up_on_and_asks_again(folder: pathlib.Path) -> None:
    asks = "s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); raise SystemExit(len(s.recv(9)))"
    waits = f"import signal, socket, sys; signal.sigwait([signal.SIGUSR1]); {asks}"

    async def main() -> int:
        old = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
        child, found = launch(order(sys.executable, "-c", waits, str(folder / "s")))
        signal.pthread_sigmask(signal.SIG_SETMASK, old)
        kept = Kept(number=4, name="w", ports=Ports(sdk=True), launch=found)
        KeptWorkloads(folder).save(kept)
        async with successor(folder):
            child.send_signal(signal.SIGUSR1)
            return await asyncio.to_thread(child.wait)

    assert asyncio.run(main()) == 0


def test_a_sidecar_whose_workload_nobody_comes_back_for_is_dismissed(
    folder: pathlib.Path, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RESUMED_WITHIN_S", 0.0)
    keep(folder, program[1], (os.getpid(), read_stat(os.getpid()).start))

    async def main() -> object:
        async with successor(folder) as workloads:
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(60)
                sock.connect(str(folder / "s"))
                while not workloads._returned:
                    await asyncio.sleep(0)
                await workloads.forget_predecessors()
                return wire.receive(sock)

    assert asyncio.run(main()) == {"type": "stop"}
    assert KeptWorkloads(folder).load() == []


def test_numbers_of_predecessors_are_not_given_again(folder: pathlib.Path, program: Program) -> None:
    keep(folder, program[1])

    async def main() -> int:
        async with successor(folder) as workloads:
            return workloads._last

    assert asyncio.run(main()) == 4
