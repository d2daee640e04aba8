"""Programs that enforce by themselves: who of them is fed, and what they may say."""

import asyncio
import contextlib
import dataclasses
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest

from enforcer.inprocess import InProcess, refuse, stamped, stamped_flows
from enforcer.native import wire
from enforcer.sight import Sight
from enforcer.sockdiag import SockDiag
from enforcer.workload import Feed, Ports
from enforcer.workloadfront import read_caller
from mesh.problems import Invalid
from tests.enforcer.test_workload import FEED, order
from tests.launching import launch

ME = "spiffe://corp.test/ns/shop/sa/db"
OTHER = "spiffe://corp.test/ns/shop/sa/web"
ROW = {
    "schema": 1, "id": "01ARZ3NDEKTSV4RRFFQ69G5FAV", "time": "2026-11-24T12:00:00Z", "kind": "decision",
    "source": f"sidecar:{OTHER}", "direction": "inbound", "caller": OTHER, "destination": OTHER,
}  # fmt: skip


def test_what_a_program_reports_is_its_own_word_about_itself() -> None:
    found = stamped([ROW, {**ROW, "direction": "outbound"}, {**ROW, "direction": "workload-api"}], ME)
    assert [row["source"] for row in found] == [f"sdk:{ME}"] * 3
    assert [(row["caller"], row["destination"]) for row in found] == [(OTHER, ME), (ME, OTHER), (OTHER, ME)]


@pytest.mark.parametrize(
    "change",
    [{"kind": "change"}, {"kind": "activation"}, {"id": "x"}, {"schema": 2}, {"time": 7}, {"source": None}],
    ids=str,
)
def test_what_only_others_may_say_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(Invalid):
        stamped([ROW, {**ROW, **change}], ME)


def test_a_program_without_a_name_reports_nothing() -> None:
    with pytest.raises(Invalid):
        stamped([ROW], "")


def test_one_end_of_every_flow_is_the_program_itself() -> None:
    rows = [{"source": OTHER, "destination": OTHER}, {"source": ME, "destination": OTHER}, {"source": None}]
    found = stamped_flows(rows, ME)
    assert [(row.get("source"), row.get("destination")) for row in found] == [(OTHER, ME), (ME, OTHER), (None, ME)]
    assert {row["sensor"] for row in found} == {f"sdk:{ME}"}


def test_who_is_nobodys_is_told_so() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        refuse(theirs, "LM3463")
        first = wire.receive(ours)
        assert first is not None
        assert (first["type"], first["code"]) == ("failed", "LM3463")
        assert wire.receive(ours) == {"type": "stop"}
        assert wire.receive(ours) is None


# a workload's own process: it connects, says what it hears, and passes on what the test says
PROGRAM = """
import os, socket, sys
sock = socket.socket(socket.AF_UNIX)
sock.connect(sys.argv[1])
while True:
    data = sock.recv(65536)
    if not data:
        break
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
"""
FORKS = PROGRAM.replace("sock = ", "os.fork()\nsock = ", 1)


class Place:
    """A workload, and the socket at which its processes come."""

    def __init__(self, folder: pathlib.Path, feed: Feed = FEED) -> None:
        self.diag = SockDiag()
        self.workload = InProcess(
            "w", Ports(inbound=(("127.0.0.1", 8443, 8443),), sdk=True), feed, Sight(diag=self.diag)
        )
        self.path = folder / "s"
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(self.path))
        self.listener.listen()
        self.listener.setblocking(False)

    async def come(self) -> bool:
        """Take the next process that comes; whether it is one of the workload's."""
        sock, _ = await asyncio.get_running_loop().sock_accept(self.listener)
        caller = read_caller(sock, self.diag)
        if self.workload.admits(caller):
            self.workload.take_in(sock, caller)
            return True
        os.close(caller.pidfd)
        sock.close()
        return False


@pytest.fixture
def folder() -> Iterator[pathlib.Path]:
    found = pathlib.Path(tempfile.mkdtemp(prefix="limen-i-"))
    yield found
    shutil.rmtree(found)


def begin(place: Place, code: str, **streams: Any) -> "subprocess.Popen[bytes]":
    pipe_out, pipe_in = os.pipe()
    found = dataclasses.replace(order(sys.executable, "-c", code, str(place.path)), streams=(0, pipe_in, 2))
    child, launched = launch(found)
    os.close(pipe_in)
    child.stdout = os.fdopen(pipe_out, "rb")
    place.workload.adopt(os.pidfd_open(child.pid), launched)
    return child


def run(folder: pathlib.Path, work: Callable[[Place], Awaitable[None]], feed: Feed = FEED) -> None:
    async def main() -> None:
        place = Place(folder, feed)
        with place.listener:
            async with asyncio.timeout(100), asyncio.TaskGroup() as tasks:
                tasks.create_task(place.workload.run_sidecar())
                try:
                    await work(place)
                finally:
                    await place.workload.stop()
        place.diag.close()

    asyncio.run(main())


@pytest.mark.system
def test_a_launched_process_is_told_everything_but_no_key_before_there_is_one(folder: pathlib.Path) -> None:
    async def work(place: Place) -> None:
        await place.workload.wait_ready()
        child = begin(place, PROGRAM)
        assert child.stdout is not None
        assert await place.come()
        decoder, heard = wire.Decoder(), []
        while len(heard) < 5:
            heard += decoder.feed(await asyncio.to_thread(os.read, child.stdout.fileno(), 65536))
        assert [found["type"] for found in heard] == ["listeners", "program", "keys", "policy", "endpoints"]
        assert heard[0]["serves"] == [{"address": "127.0.0.1", "port": 8443}]
        assert heard[1]["pid"] == child.pid
        assert place.workload.is_told
        assert not place.workload.is_serving
        child.kill()
        child.stdout.close()
        await asyncio.to_thread(child.wait)

    run(folder, work)


@pytest.mark.system
def test_its_forks_are_it_and_nobody_else_is(folder: pathlib.Path) -> None:
    async def work(place: Place) -> None:
        child = begin(place, FORKS)
        assert await place.come()
        assert await place.come()
        # the same user, the same program, the same words, and not launched
        stranger = await asyncio.create_subprocess_exec(sys.executable, "-c", PROGRAM, str(place.path))
        assert not await place.come()
        assert await stranger.wait() == 0
        child.kill()
        assert child.stdout is not None
        child.stdout.close()
        await asyncio.to_thread(child.wait)

    run(folder, work)


@pytest.mark.system
def test_a_process_that_connects_and_then_executes_something_else_is_heard_no_more(folder: pathlib.Path) -> None:
    taken: list[Sequence[Mapping[str, object]]] = []

    async def take(rows: Sequence[Mapping[str, object]]) -> None:
        taken.append(rows)

    # what it executes is the very same program, with the connection it had before; it waits until it may speak
    code = (
        "import os, socket, struct, sys\n"
        "if len(sys.argv) == 2:\n"
        "    sock = socket.socket(socket.AF_UNIX); sock.connect(sys.argv[1]); sock.set_inheritable(True)\n"
        "    sock.recv(1)\n"
        "    os.execv(sys.executable, [sys.executable, '-c', os.environ['CODE'], sys.argv[1], str(sock.fileno())])\n"
        'data = b\'{"type":"records","sequence":1,"records":[]}\'\n'
        "os.write(int(sys.argv[2]), struct.pack('>I', len(data)) + data)\n"
        "while os.read(int(sys.argv[2]), 65536): pass\n"
    )

    async def work(place: Place) -> None:
        found = dataclasses.replace(order(sys.executable, "-c", code, str(place.path)), env={"CODE": code})
        child, launched = launch(found)
        place.workload.adopt(os.pidfd_open(child.pid), launched)
        assert await place.come()
        # hung up on: that is how it ends
        assert await asyncio.to_thread(child.wait) == 0
        assert taken == []
        while place.workload.is_told:
            await asyncio.sleep(0.01)

    run(folder, work, dataclasses.replace(FEED, records=take))


@pytest.mark.system
def test_without_direct_in_its_rule_it_gets_no_key(folder: pathlib.Path) -> None:
    from enforcer.identity import Identity
    from mesh.clock import SystemClock
    from tests.enforcer.native.harness import Realm

    now = SystemClock().now()
    svid = Realm("corp.test", now).svid(ME)

    async def work(place: Place) -> None:
        child = begin(place, PROGRAM)
        assert child.stdout is not None
        assert await place.come()
        decoder, heard = wire.Decoder(), []
        made = Identity(svid=svid, rule="r", hint="", direct=False, renew_at=svid.not_after)
        place.workload.identify(made)
        place.workload.identify(dataclasses.replace(made, direct=True))
        while not any(found["type"] == "identity" for found in heard):
            heard += decoder.feed(await asyncio.to_thread(os.read, child.stdout.fileno(), 65536))
        assert len([found for found in heard if found["type"] == "identity"]) == 1
        child.kill()
        child.stdout.close()
        await asyncio.to_thread(child.wait)

    run(folder, work)


def test_words_that_are_none_end_the_conversation(folder: pathlib.Path) -> None:
    async def work(place: Place) -> None:
        session: Any = None
        for message in (
            {"type": "attest"}, {"type": "records", "records": "x"}, {"type": "applied", "epoch": -1, "snapshot": ""},
            {"type": "trusts", "trust": True}, {"type": "flows", "flows": [1]},
        ):  # fmt: skip
            with pytest.raises(Invalid):
                await place.workload._hear(session, message)
        with contextlib.suppress(OSError):
            place.listener.shutdown(socket.SHUT_RDWR)

    run(folder, work)


def test_what_it_counts_is_counted_for_its_workload_alone(folder: pathlib.Path) -> None:
    counted: list[tuple[str, Mapping[str, object]]] = []

    async def work(place: Place) -> None:
        session: Any = None
        await place.workload._hear(session, {"type": "signals", "requests": []})
        with contextlib.suppress(OSError):
            place.listener.shutdown(socket.SHUT_RDWR)

    run(folder, work, dataclasses.replace(FEED, signals=lambda name, message: counted.append((name, message))))
    assert counted == [("w", {"type": "signals", "requests": []})]


@pytest.mark.system
def test_it_may_be_ended_twice_at_once(folder: pathlib.Path) -> None:
    async def work(place: Place) -> None:
        child = begin(place, PROGRAM)
        assert await place.come()
        await asyncio.gather(place.workload.stop(), place.workload.stop())
        assert await asyncio.to_thread(child.wait) != 0
        assert child.stdout is not None
        child.stdout.close()

    run(folder, work)
