import dataclasses
import os
import pathlib
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from enforcer.attest import check_member


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


def test_a_worker_that_left_the_session_is_refused(launched: Any) -> None:
    pid = int(launched.do(f"setsid {launched.port}"))
    assert launched.attest().code == "LM3422"
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


def test_a_copied_interpreter_is_another_executable(make_launched: Callable[..., Any], tmp_path: pathlib.Path) -> None:
    launched = make_launched()
    other = dataclasses.replace(launched.launch, inode=launched.launch.inode + 1)
    refused = check_member(other, launched.launch.pid)
    assert refused is not None
    assert refused.code == "LM3423"
    assert shutil.which("cat") is not None
    assert tmp_path.exists()


def test_a_pid_that_began_earlier_is_another_process(launched: Any) -> None:
    later = dataclasses.replace(launched.launch, start=launched.launch.start + 1)
    refused = check_member(later, launched.launch.pid)
    assert refused is not None
    assert refused.code == "LM3422"


def test_a_hidden_layout_proves_nothing(launched: Any) -> None:
    hidden = dataclasses.replace(launched.launch, layout=(0,) * 6)
    refused = check_member(hidden, launched.launch.pid)
    assert refused is not None
    assert refused.code == "LM3424"


def test_another_users_socket_is_refused(launched: Any) -> None:
    launched.do(f"connect {launched.port}")
    launched.launch = dataclasses.replace(launched.launch, uid=launched.launch.uid + 1)
    assert launched.attest().code == "LM3420"


def test_a_connection_that_is_gone_is_refused(launched: Any) -> None:
    from enforcer.attest import attest_connection

    found = attest_connection(launched.launch, ("127.0.0.1", 1), ("127.0.0.1", 2), launched.diag)
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
