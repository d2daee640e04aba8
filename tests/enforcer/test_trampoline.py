import json
import os
import pathlib
import socket
import subprocess
import sys

TRAMPOLINE = pathlib.Path(__file__).parent.parent.parent / "enforcer" / "trampoline.py"


def run(**plan: object) -> tuple[bytes, int]:
    """What comes back through the channel, and the exit code."""
    ours, theirs = socket.socketpair()
    base: dict[str, object] = {
        "argv": ["true"], "env": {}, "cwd": "/", "uid": 0, "gid": 0, "groups": None, "parent": os.getpid(),
    }  # fmt: skip
    with ours, theirs, open("/bin/true", "rb") as file:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(TRAMPOLINE), str(theirs.fileno())],
            pass_fds=(theirs.fileno(), file.fileno()),
        )
        theirs.close()
        ours.sendall(json.dumps({**base, "executable": file.fileno(), **plan}).encode() + b"\n")
        said = ours.recv(4096)
        return said, process.wait()


def test_success_closes_the_channel_and_the_open_file_runs() -> None:
    assert run() == (b"", 0)
    assert run(argv=["false"]) == (b"", 0)


def test_failure_says_why() -> None:
    said, code = run(executable=999)
    assert (json.loads(said)["errno"], code) == (2, 127)
    said, code = run(cwd="/none")
    assert (json.loads(said)["reason"], code) == ("No such file or directory", 127)


def test_an_agent_that_is_gone_launches_nothing() -> None:
    assert run(parent=1) == (b"", 1)


def test_it_imports_nothing_of_ours() -> None:
    text = TRAMPOLINE.read_text("utf-8")
    assert not any(f"from {room}" in text or f"import {room}" in text for room in ("mesh", "enforcer", "audit"))
