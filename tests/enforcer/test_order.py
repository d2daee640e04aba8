"""The attacks of ADR 3 on `agent.sock`, each by real processes; when they are accepted is ours to say."""

import asyncio
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from enforcer.execwatch import ExecWatch
from enforcer.order import End, Order, end_of
from enforcer.process import read_stat
from enforcer.sockdiag import SockDiag
from enforcer.workloadfront import Caller, read_caller
from mesh.problems import Problem, Unavailable

# connects, has a helper hold the connection and executes the genuine program when it is told to
THIEF = """
import os, socket, struct, sys
path, how, *genuine = sys.argv[1:]
sock = socket.socket(socket.AF_UNIX)
if how != "marked":
    sock.set_inheritable(True)
if how == "forged":
    import ctypes
    libc = ctypes.CDLL(None)
    libc.personality(0x0040000)
    numbers = (26, 27, 28, 45, 46, 47, 48, 49, 50, 51)
    def read(pid):
        text = open(f"/proc/{pid}/stat").read()
        fields = text[text.rindex(")") + 2:].split()
        return [int(fields[number - 3]) for number in numbers]
    # every execution without randomisation has this layout
    import subprocess
    model = subprocess.Popen(genuine, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
    model.stdin.write(b"x"); model.stdout.read(1)
    code, end, stack, data, data_end, brk = read(model.pid)[:6]
    mine = read("self")[6:]
    claim = struct.pack("=11QQII", code, end, data, data_end, brk, brk + 4096, stack, *mine, 0, 0, 2**32 - 1)
    libc.prctl(35, 14, claim, ctypes.c_ulong(len(claim)), ctypes.c_ulong(0))
    model.stdin.close(); model.wait()
sock.connect(path)
pid = os.fork()
if pid == 0:
    if how == "in-flight":
        here, there = socket.socketpair()
        socket.send_fds(there, [b"x"], [sock.fileno()]); sock.close()
    import signal
    os.write(1, b"helper\\n")
    signal.pause()
if how == "handed":
    sock.close()
os.read(0, 3)
if how != "handed":
    os.execv(genuine[0], genuine)
os.read(0, 3)
"""
EVERY = ["kept", "marked", "in-flight", "forged"]


@pytest.fixture(params=["watched", "unwatched"])
def order(request: pytest.FixtureRequest) -> Iterator[Order]:
    if request.param == "unwatched":
        yield Order(None)
        return
    try:
        watch = ExecWatch()
    except Unavailable as problem:
        pytest.skip(f"execs are told to root in the first namespaces alone: {problem.facts['reason']}")
    yield Order(watch)
    watch.close()


@pytest.fixture
def door(tmp_path: pathlib.Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as found:
        found.bind(str(tmp_path / "s"))
        found.listen()
        found.settimeout(60)
        yield found


@pytest.fixture
def genuine(tmp_path: pathlib.Path) -> pathlib.Path:
    program = shutil.which("cat")
    assert program is not None
    return pathlib.Path(shutil.copy(pathlib.Path(program).resolve(), tmp_path / "genuine"))


@pytest.fixture
def start(door: socket.socket, genuine: pathlib.Path) -> Iterator[Callable[[str], subprocess.Popen[bytes]]]:
    begun = []

    def run(how: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", THIEF, door.getsockname(), how, str(genuine)]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, start_new_session=True
        )
        begun.append(process)
        assert process.stdout is not None
        assert process.stdout.read(7) == b"helper\n"
        return process

    yield run
    for process in begun:
        os.killpg(process.pid, 9)
        process.wait()
        for stream in (process.stdin, process.stdout):
            assert stream is not None
            stream.close()


def become_genuine(process: subprocess.Popen[bytes]) -> None:
    """Have the thief execute the genuine program, and wait until that answers."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"go\nx")
    assert process.stdout.read(1) == b"x"


def taken(door: socket.socket, order: Order, since: int) -> tuple[socket.socket, Caller, bool]:
    diag = SockDiag()
    accepted, _ = door.accept()
    try:
        caller = read_caller(accepted, diag)
    finally:
        diag.close()
    return accepted, caller, order.take(caller, since)


def refused(order: Order, caller: Caller) -> str:
    try:
        asyncio.run(order.check(caller))
    except Problem as problem:
        return problem.code
    return ""


@pytest.mark.parametrize("how", EVERY)
def test_connecting_and_executing_the_genuine_program_before_the_accept_is_noticed(
    how: str, order: Order, door: socket.socket, start: Callable[[str], subprocess.Popen[bytes]], genuine: pathlib.Path
) -> None:
    since = time.monotonic_ns()
    thief = start(how)
    become_genuine(thief)
    accepted, caller, is_doubtful = taken(door, order, since)
    with accepted:
        # nothing that is seen of it now says otherwise: it is the genuine program
        assert os.readlink(f"/proc/{caller.pid}/exe") == str(genuine)
        assert read_stat(caller.pid).layout == caller.layout
        if order.watch is not None:
            # hung up on by the front
            assert is_doubtful
            assert end_of(caller) is not End.OWN
        elif how == "in-flight":
            # who is on the way between two processes is seen by nobody: best effort, and `limen check` says so
            assert refused(order, caller) == ""
        else:
            assert refused(order, caller) == ("LM3405" if how == "marked" else "LM3404")
        order.leave(caller)
        os.close(caller.pidfd)


@pytest.mark.parametrize("how", EVERY)
def test_connecting_and_executing_the_genuine_program_after_the_accept_is_refused(
    how: str, order: Order, door: socket.socket, start: Callable[[str], subprocess.Popen[bytes]]
) -> None:
    since = time.monotonic_ns()
    thief = start(how)
    accepted, caller, is_doubtful = taken(door, order, since)
    with accepted:
        assert is_doubtful == (order.watch is not None)
        become_genuine(thief)
        is_same = read_stat(caller.pid).layout == caller.layout
        # what a forged layout is worth: without a launch nobody keeps a process from writing its own
        assert is_same == (how == "forged")
        code = refused(order, caller)
        assert code == ("LM3405" if how == "marked" else "LM3404")
        order.leave(caller)
        os.close(caller.pidfd)


def test_a_connection_that_was_handed_on_is_refused_without_hearing_of_execs(
    door: socket.socket, start: Callable[[str], subprocess.Popen[bytes]]
) -> None:
    start("handed")
    accepted, caller, _ = taken(door, Order(None), 0)
    with accepted:
        os.close(caller.pidfd)
        assert refused(Order(None), caller) == "LM3405"


@pytest.mark.parametrize("is_marked", [True, False], ids=["marked", "kept"])
def test_a_program_that_connects_itself_is_what_it_was(order: Order, door: socket.socket, *, is_marked: bool) -> None:
    since = time.monotonic_ns()
    with socket.socket(socket.AF_UNIX) as client:
        client.set_inheritable(not is_marked)
        client.connect(door.getsockname())
        accepted, caller, is_doubtful = taken(door, order, since)
        with accepted:
            assert not is_doubtful
            assert end_of(caller) is (End.OWN if is_marked else End.KEPT)
            assert refused(order, caller) == ""
            order.leave(caller)
            os.close(caller.pidfd)


def test_a_program_that_connects_the_moment_it_begins_passes_if_it_marks_its_end(
    order: Order, door: socket.socket
) -> None:
    since = time.monotonic_ns()
    code = f"import socket; s = socket.socket(socket.AF_UNIX); s.connect({door.getsockname()!r}); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as process:
        accepted, caller, is_doubtful = taken(door, order, since)
        with accepted:
            assert is_doubtful == (order.watch is not None)
            assert end_of(caller) is End.OWN
            assert refused(order, caller) == ""
            order.leave(caller)
            os.close(caller.pidfd)
        process.kill()


@pytest.mark.root
def test_when_events_were_lost_everybody_has_to_show_it(door: socket.socket) -> None:
    try:
        watch = ExecWatch()
    except Unavailable as problem:
        pytest.skip(str(problem.facts["reason"]))
    order = Order(watch)
    with socket.socket(socket.AF_UNIX) as client:
        client.set_inheritable(True)
        client.connect(door.getsockname())
        accepted, caller, is_doubtful = taken(door, order, time.monotonic_ns())
        with accepted:
            assert not is_doubtful
            watch._netlink.setsockopt(1, 33, 2304)
            subprocess.run(["sh", "-c", "for i in $(seq 100); do /bin/true; done"], check=True)
            assert refused(order, caller) == "LM3404"
            client.set_inheritable(False)
            assert refused(order, caller) == ""
            order.leave(caller)
            os.close(caller.pidfd)
    watch.close()
