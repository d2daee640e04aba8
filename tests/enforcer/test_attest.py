import ctypes
import dataclasses
import errno
import os
import pathlib
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from enforcer.attest import check_member

PTRACE_CONT, PTRACE_DETACH, PTRACE_SEIZE, PTRACE_INTERRUPT, WALL = 7, 17, 0x4206, 0x4207, 0x40000000
ASK_PERSONALITY, ADDR_NO_RANDOMIZE = 0xFFFFFFFF, 0x0040000
# claims the layout of another process for itself and says what came of it; then connects, if it is told where
FORGER = """
import ctypes, os, socket, struct, sys
NUMBERS = (26, 27, 28, 45, 46, 47, 48, 49, 50, 51)
def read(pid):
    text = open(f"/proc/{pid}/stat").read()
    fields = text[text.rindex(")") + 2:].split()
    return [int(fields[number - 3]) for number in NUMBERS]
code, end, stack, data, data_end, brk, *mine = read(sys.argv[1])[:6] + read("self")[6:]
claim = struct.pack("=11QQII", code, end, data, data_end, brk, brk + 4096, stack, *mine, 0, 0, 2**32 - 1)
libc = ctypes.CDLL(None, use_errno=True)
kept = [socket.create_connection(("127.0.0.1", int(port))) for port in sys.argv[2:]]
failed = libc.prctl(35, 14, claim, ctypes.c_ulong(len(claim)), ctypes.c_ulong(0))
os.write(1, f"{ctypes.get_errno() if failed else 0} {read('self')[:6] == read(sys.argv[1])[:6]}\\n".encode())
os.read(0, 1)
"""


def test_the_workload_itself_passes(launched: Any) -> None:
    launched.do(f"connect {launched.port}")
    assert launched.attest().code == ""


def test_a_forked_worker_belongs_to_it_from_its_first_connection(launched: Any) -> None:
    launched.do(f"fork {launched.port}")
    assert launched.attest().code == ""


def test_another_program_of_the_same_user_is_refused(launched: Any) -> None:
    with socket.create_connection(("127.0.0.1", launched.port)):
        found = launched.attest()
    assert (found.code, found.facts["pid"]) == ("LM3422", str(os.getpid()))


def test_the_genuine_script_started_by_somebody_else_is_refused(launched: Any) -> None:
    command = [sys.executable, str(launched.script)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(f"connect {launched.port}\n".encode())
        process.stdin.flush()
        assert launched.attest().code == "LM3422"
        process.kill()


def test_a_worker_that_left_the_session_belongs_to_it_while_its_parent_does(launched: Any) -> None:
    # as every backend of PostgreSQL does
    pid = int(launched.do(f"setsid {launched.port}"))
    assert launched.attest().code == ""
    os.kill(pid, 9)


def test_a_worker_that_left_the_session_and_lost_its_parent_is_refused(launched: Any) -> None:
    pid = int(launched.do(f"orphan {launched.port}"))
    assert launched.attest().code == "LM3422"
    os.kill(pid, 9)


def test_a_child_that_left_the_session_and_executed_something_is_refused(launched: Any) -> None:
    launched.say(f"setsid-exec {launched.port}")
    pid = int(os.read(launched.stdout, 100))
    assert launched.attest().code == "LM3424"
    os.kill(pid, 9)


def test_executing_something_else_is_refused(launched: Any) -> None:
    launched.say(f"exec {launched.port}")
    os.read(launched.stdout, 10)
    assert launched.attest().code == "LM3424"


def test_connecting_first_and_executing_the_genuine_script_then_is_refused(launched: Any) -> None:
    launched.say(f"exec-self {launched.port}")
    before = launched.launch.layout
    from enforcer.process import read_stat

    while read_stat(launched.launch.pid).layout == before:
        os.sched_yield()
    assert launched.attest().code == "LM3424"


def test_a_child_that_runs_another_program_and_inherited_the_socket_is_refused(launched: Any) -> None:
    launched.do(f"child {launched.port}")
    assert launched.attest().code == "LM3423"


def test_a_descriptor_passed_to_another_process_is_seen(launched: Any, tmp_path: pathlib.Path) -> None:
    path = str(tmp_path / "u")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        launched.say(f"pass {launched.port} {path}")
        receiver, _ = listener.accept()
        with receiver:
            _, handles, _, _ = socket.recv_fds(receiver, 1, 1)
            assert launched.attest().code == "LM3422"
            receiver.send(b"x")
            os.close(handles[0])


@pytest.mark.parametrize("how", ["copied", "symlink", "memory-file", "deleted"])
def test_a_child_that_holds_the_socket_under_another_name_of_the_program_is_refused(
    how: str, make_launched: Callable[..., Any], tmp_path: pathlib.Path
) -> None:
    launched = make_launched()
    answer = launched.do(f"hold {how} {tmp_path}/other {launched.port}")
    assert int(answer) != launched.launch.pid
    # a symbolic link leads to the very file, which was executed once more; all others are other files
    assert launched.attest().code == ("LM3424" if how == "symlink" else "LM3423")


def test_a_pid_that_began_earlier_is_another_process(launched: Any) -> None:
    later = dataclasses.replace(launched.launch, start=launched.launch.start + 1)
    refused = check_member(later, launched.launch.pid)
    assert refused is not None
    assert refused.code == "LM3422"


@pytest.mark.parametrize("layout", [(0,) * 6, ()], ids=["hidden", "none"])
def test_a_launch_without_a_layout_of_its_own_has_no_members(launched: Any, layout: tuple[int, ...]) -> None:
    hidden = dataclasses.replace(launched.launch, layout=layout)
    refused = check_member(hidden, launched.launch.pid)
    assert refused is not None
    assert refused.code == "LM3425"


def test_a_workload_that_was_not_placed_at_random_is_refused(make_launched: Callable[..., Any]) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    before = libc.personality(ASK_PERSONALITY)
    try:
        # as for an agent that was started under `setarch -R`: what it launches inherits it
        libc.personality(before | ADDR_NO_RANDOMIZE)
        launched = make_launched()
    finally:
        libc.personality(before)
    launched.do(f"connect {launched.port}")
    assert launched.attest().code == "LM3425"


def test_a_program_that_forges_its_layout_is_stopped_by_the_kernel(
    make_launched: Callable[..., Any], tmp_path: pathlib.Path
) -> None:
    evil = tmp_path / "evil.py"
    evil.write_text(FORGER)
    launched = make_launched()
    # outside of a launch nothing stops it, without any privilege: that is what the filter is for
    bare = subprocess.run(
        [sys.executable, evil, str(launched.launch.pid)], input=b"\n", capture_output=True, check=True
    )
    assert bare.stdout in {b"0 True\n", b"%d False\n" % errno.EINVAL}
    assert launched.do(f"run {evil} {launched.launch.pid} {launched.port}") == f"{errno.EPERM} False"
    refused = launched.attest()
    assert refused.code == "LM3424"


def test_another_users_socket_is_refused(launched: Any) -> None:
    launched.do(f"connect {launched.port}")
    launched.launch = dataclasses.replace(launched.launch, uid=launched.launch.uid + 1)
    assert launched.attest().code == "LM3420"


def test_a_connection_that_is_gone_is_refused(launched: Any) -> None:
    from enforcer.attest import attest_connection

    found = attest_connection(launched.launch, ("127.0.0.1", 1), ("127.0.0.1", 2), launched.sight)
    assert found.code == "LM3410"


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root sees other users' descriptors")
def test_a_holder_of_another_user_is_seen_too(launched: Any, tmp_path: pathlib.Path) -> None:
    tmp_path.chmod(0o777)
    path = str(tmp_path / "u")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        os.chmod(path, 0o777)
        listener.listen()
        pid = os.fork()
        if pid == 0:
            receiver, _ = listener.accept()
            socket.recv_fds(receiver, 1, 1)
            os.setresuid(61000, 61000, 61000)
            receiver.send(b"x")
            __import__("signal").pause()
        launched.do(f"pass {launched.port} {path}")
        assert launched.attest().code == "LM3422"
        os.kill(pid, 9)
        os.waitpid(pid, 0)


def hand_over(launched: Any, path: str) -> int:
    """A stranger connects, gives the connection to the workload and ends; return the number it had."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        stranger = os.fork()
        if stranger == 0:
            try:
                with socket.create_connection(("127.0.0.1", launched.port)) as connection:
                    receiver, _ = listener.accept()
                    socket.send_fds(receiver, [b"x"], [connection.fileno()])
                    receiver.recv(1)
            finally:
                os._exit(0)
        assert launched.do(f"receive {path}") == "ok"
        os.waitpid(stranger, 0)
    return stranger


def test_a_connection_that_a_stranger_began_is_refused_though_the_workload_alone_holds_it(
    launched: Any, tmp_path: pathlib.Path
) -> None:
    hand_over(launched, str(tmp_path / "u"))
    # without the kernel's note the beginning is over, and nobody saw it
    assert launched.attest().code == ("LM3426" if launched.sight.stamps else "")


def test_a_connection_that_a_stranger_began_and_shares_with_the_workload_is_refused(
    launched: Any, tmp_path: pathlib.Path
) -> None:
    path = str(tmp_path / "u")
    with (
        socket.socket(socket.AF_UNIX) as listener,
        socket.create_connection(("127.0.0.1", launched.port)) as connection,
    ):
        listener.bind(path)
        listener.listen()
        launched.say(f"receive {path}")
        receiver, _ = listener.accept()
        with receiver:
            socket.send_fds(receiver, [b"x"], [connection.fileno()])
            receiver.recv(1)
            assert launched.attest().code == "LM3422"


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may choose the number of a process")
def test_a_worker_that_was_given_the_beginners_number_afterwards_is_not_taken_for_it(
    launched: Any, tmp_path: pathlib.Path
) -> None:
    number = hand_over(launched, str(tmp_path / "u"))
    assert launched.do(f"fork-as {number}") == str(number)
    assert launched.attest().code == ("LM3426" if launched.sight.stamps else "")


@pytest.fixture
def traced(launched: Any) -> Iterator[None]:
    """The workload is traced by this process, as by a debugger, while it goes on."""
    libc = ctypes.CDLL(None, use_errno=True)
    for request in (PTRACE_SEIZE, PTRACE_INTERRUPT):
        assert libc.ptrace(request, launched.launch.pid, None, None) == 0, os.strerror(ctypes.get_errno())
    os.waitpid(launched.launch.pid, WALL)
    assert libc.ptrace(PTRACE_CONT, launched.launch.pid, None, None) == 0
    yield
    assert libc.ptrace(PTRACE_INTERRUPT, launched.launch.pid, None, None) == 0
    os.waitpid(launched.launch.pid, WALL)
    libc.ptrace(PTRACE_DETACH, launched.launch.pid, None, None)


def test_a_traced_workload_is_refused_for_as_long_as_it_is_traced(
    request: pytest.FixtureRequest, launched: Any
) -> None:
    launched.do(f"connect {launched.port}")
    assert launched.attest().code == ""
    request.getfixturevalue("traced")
    launched.do(f"connect {launched.port}")
    refused = launched.attest()
    assert (refused.code, refused.facts["tracer"]) == ("LM3427", str(threading.get_native_id()))
