import os
import pathlib
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator

import pytest

from enforcer.control import Conversation
from enforcer.orders import check_environment, read_begun, read_order
from mesh.problems import Invalid, NotFound

GOOD: dict[str, object] = {
    "type": "launch",
    "name": "true",
    "inbound": [{"address": "127.0.0.1", "port": 1, "app_port": 2}],
    "outbound": [{"local_port": 3, "service": "db", "port": None}, {"local_port": 4, "service": "db", "port": 5}],
}
BEGUN: dict[str, object] = {"type": "begun"}


@pytest.fixture
def talk() -> Iterator[Conversation]:
    ours, theirs = socket.socketpair()
    found = Conversation(theirs)
    found.handles = [os.dup(0), os.dup(1)]
    yield found
    found.close()
    ours.close()


@pytest.fixture
def child() -> Iterator[Callable[[bool], int]]:
    begun: list[int] = []

    def begin(is_leader: bool) -> int:
        inner, outer = os.pipe()
        pid = os.fork()
        if pid == 0:
            if is_leader:
                os.setsid()
            os.write(outer, b"x")
            signal.pause()
        os.read(inner, 1)
        os.close(inner)
        os.close(outer)
        begun.append(pid)
        return pid

    yield begin
    for pid in begun:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_a_program_that_enforces_by_itself_holds_its_own_key_and_has_no_sidecar(talk: Conversation) -> None:
    asked = read_order(talk, {**GOOD, "sdk": True, "outbound": []})
    assert asked.is_direct
    assert asked.ports.sdk
    alone: dict[str, object] = {**GOOD, "sdk": True, "outbound": []}
    health = ["9100=8080/healthz@10.0.0.0/8"]
    for refused in ({**GOOD, "sdk": True}, {**alone, "intercept": True}, {**alone, "health": health}):
        with pytest.raises(Invalid, match="LM3002"):
            read_order(talk, refused)


def test_health_checks_are_read_before_anything_is_opened(talk: Conversation) -> None:
    asked = read_order(talk, {**GOOD, "health": ["9100=8080/healthz@10.0.0.0/8"]})
    assert asked.ports.health == ("127.0.0.1:9100=8080/healthz@10.0.0.0/8",)
    assert asked.ports.message()["health"] == list(asked.ports.health)
    for refused in ("9100=8080/healthz@10.0.0.0/8", ["9100=8080/healthz@10.0.0.0/8"] * 17):
        with pytest.raises(Invalid, match="LM3002"):
            read_order(talk, {**GOOD, "health": refused})
    with pytest.raises(Invalid, match="LM3705"):
        read_order(talk, {**GOOD, "health": ["9100=8080/healthz@0.0.0.0/0"]})


def test_an_order_is_ports_and_open_files(talk: Conversation) -> None:
    asked = read_order(talk, GOOD)
    assert (asked.name, asked.executable, asked.script, asked.is_direct) == ("true", *talk.handles, False)
    assert asked.kept == frozenset()
    assert asked.ports.inbound == (("127.0.0.1", 1, 2),)
    assert asked.ports.outbound == ((3, "db", None), (4, "db", 5))
    assert asked.ports.message()["type"] == "listeners"
    os.close(talk.handles.pop())
    assert read_order(talk, GOOD | {"direct": True}).script is None
    assert read_order(talk, GOOD | {"direct": True}).is_direct


@pytest.mark.parametrize(
    "change",
    [
        {"name": ""},
        {"name": None},
        {"name": "n" * 257},
        {"inbound": [{}]},
        {"inbound": "x"},
        {"inbound": [{"address": "a", "port": 0, "app_port": 1}]},
        {"inbound": [{"address": "a", "port": True, "app_port": 1}]},
        {"outbound": [{"local_port": 70000, "service": "x", "port": None}]},
        {"outbound": [{"local_port": 1, "service": 5, "port": None}]},
    ],
    ids=str,
)
def test_an_order_that_breaks_the_form_is_refused(talk: Conversation, change: dict[str, object]) -> None:
    with pytest.raises(Invalid, match="LM3002"):
        read_order(talk, GOOD | change)


@pytest.mark.parametrize("count", [0, 3])
def test_an_order_has_one_open_file_or_two(talk: Conversation, count: int) -> None:
    talk.handles += [os.dup(0)] * (count == 3)
    kept = talk.handles
    talk.handles = kept[:count]
    with pytest.raises(Invalid, match="LM3002"):
        read_order(talk, GOOD)
    talk.handles = kept


def test_what_was_begun_is_the_askers_child_and_leads_its_session(
    talk: Conversation, child: Callable[[bool], int]
) -> None:
    pid = child(True)
    talk.handles.append(os.pidfd_open(pid))
    assert read_begun(talk, BEGUN, "begun", 2) == (talk.handles[2], pid)


@pytest.mark.parametrize("what", ["nothing", "other-word", "no-pidfd", "a-file", "own-session", "stranger"])
def test_anything_else_is_not_taken_on(talk: Conversation, child: Callable[[bool], int], what: str) -> None:
    message: dict[str, object] | None = BEGUN
    handle = os.dup(0)
    match what:
        case "nothing":
            message = None
        case "other-word":
            message = {"type": "launched"}
        case "own-session":
            os.close(handle)
            handle = os.pidfd_open(child(False))
        case "stranger":
            os.close(handle)
            handle = os.pidfd_open(1)
    if what == "no-pidfd":
        os.close(handle)
    else:
        talk.handles.append(handle)
    with pytest.raises(Invalid, match="LM3002"):
        read_begun(talk, message, "begun", 2)


def test_what_is_gone_is_not_found(talk: Conversation) -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    talk.handles.append(os.pidfd_open(pid))
    os.waitpid(pid, 0)
    with pytest.raises(NotFound, match="LM3401"):
        read_begun(talk, BEGUN, "begun", 2)


@pytest.mark.parametrize("kept", ["PYTHONPATH", [1], {}], ids=["text", "number", "object"])
def test_what_is_kept_is_a_list_of_names(talk: Conversation, kept: object) -> None:
    with pytest.raises(Invalid, match="LM3002"):
        read_order(talk, {**GOOD, "keep_env": kept})
    assert read_order(talk, {**GOOD, "keep_env": ["PYTHONPATH"]}).kept == {"PYTHONPATH"}


def test_a_program_that_began_with_what_loads_code_is_refused_but_for_what_is_kept() -> None:
    with subprocess.Popen(["/bin/sleep", "600"], env={"LD_AUDIT": "/none", "PYTHONPATH": "/none", "X": "1"}) as program:
        while b"PYTHONPATH" not in pathlib.Path(f"/proc/{program.pid}/environ").read_bytes():
            os.sched_yield()
        with pytest.raises(Invalid, match=r"LM3436.*LD_AUDIT, PYTHONPATH"):
            check_environment(program.pid, frozenset())
        with pytest.raises(Invalid, match=r"LM3436.*: LD_AUDIT"):
            check_environment(program.pid, frozenset({"PYTHONPATH"}))
        check_environment(program.pid, frozenset({"PYTHONPATH", "LD_AUDIT"}))
        program.kill()
    check_environment(program.pid, frozenset())
