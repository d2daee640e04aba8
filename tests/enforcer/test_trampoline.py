import errno
import json
import os
import pathlib
import socket
import struct
import subprocess
import sys

import pytest

from enforcer.trampoline import layout_filter

TRAMPOLINE = pathlib.Path(__file__).parent.parent.parent / "enforcer" / "trampoline.py"


def run(*, out: int | None = None, **plan: object) -> tuple[bytes, int]:
    """What comes back through the channel, and the exit code."""
    ours, theirs = socket.socketpair()
    base: dict[str, object] = {
        "argv": ["true"], "env": {}, "cwd": "/", "uid": 0, "gid": 0, "groups": None, "parent": os.getpid(),
    }  # fmt: skip
    with ours, theirs, open("/bin/true", "rb") as file:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(TRAMPOLINE), str(theirs.fileno())],
            pass_fds=(theirs.fileno(), file.fileno(), *([plan["executable"]] if out is not None else [])),  # type: ignore[list-item]
            stdout=out,
        )
        theirs.close()
        ours.sendall(json.dumps({**base, "executable": file.fileno(), **plan}).encode() + b"\n")
        said = ours.recv(4096)
        return said, process.wait()


def test_success_closes_the_channel_and_the_open_file_runs() -> None:
    assert run() == (b"", 0)
    assert run(argv=["false"]) == (b"", 0)


def test_failure_says_why() -> None:
    for plan, reason in (({"executable": 999}, "Bad file descriptor"), ({"cwd": "/none"}, "No such file or directory")):
        said, code = run(**plan)
        assert (json.loads(said)["reason"], code) == (reason, 127)


@pytest.mark.parametrize("env", [{"A": "x\0y"}, {"A=B": "x"}], ids=["NUL", "name"])
def test_what_no_kernel_takes_is_a_failure_with_a_reason_too(env: dict[str, str]) -> None:
    said, code = run(env=env)
    assert json.loads(said)["reason"]
    assert code == 127


ASK = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
size = ctypes.c_uint(0)
print(libc.prctl(35, 15, ctypes.byref(size), 0, 0), ctypes.get_errno(), libc.prctl(15, b"name", 0, 0, 0))
"""


def test_a_workload_and_what_it_executes_cannot_claim_another_layout() -> None:
    direct = [sys.executable, "-c", ASK]
    behind = [sys.executable, "-c", f"import os, sys; os.execv(sys.executable, [sys.executable, '-c', {ASK!r}])"]
    for argv in (direct, behind):
        with open(sys.executable, "rb") as program:
            os.set_inheritable(program.fileno(), True)
            out, inner = os.pipe()
            assert run(argv=argv, executable=program.fileno(), out=inner) == (b"", 0)
            os.close(inner)
            assert os.read(out, 100).decode() == f"-1 {errno.EPERM} 0\n"
            os.close(out)


def test_the_filter_jumps_where_it_should() -> None:
    text = layout_filter(((1, 2), (3, 4)))
    lines = [struct.unpack_from("=HBBI", text, offset) for offset in range(0, len(text), 8)]

    def decide(table: int, number: int, option: int) -> int:
        """What the kernel would answer, by the rules of seccomp(2)."""
        data, register, at = {4: table, 0: number, 16: option}, 0, 0
        while True:
            code, on_true, on_false, value = lines[at]
            at += 1
            if code == 0x20:
                register = data[value]
            elif code == 0x54:
                register &= value
            elif code == 0x15:
                at += on_true if register == value else on_false
            else:
                return value

    refused = 0x50000 | errno.EPERM
    assert decide(1, 2, 35) == decide(3, 4, 35) == decide(1, 2 | 0x40000000, 35) == refused
    assert decide(1, 2, 36) == decide(1, 4, 35) == decide(3, 2, 35) == decide(3, 4, 1) == 0x7FFF0000
    assert decide(5, 2, 35) == 0x80000000


def test_an_agent_that_is_gone_launches_nothing() -> None:
    assert run(parent=1) == (b"", 1)


def test_it_imports_nothing_of_ours() -> None:
    text = TRAMPOLINE.read_text("utf-8")
    assert not any(f"from {room}" in text or f"import {room}" in text for room in ("mesh", "enforcer", "audit"))
