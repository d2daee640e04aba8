"""Launches a workload: opens and hashes what it is going to execute, executes that, and records what came of it.

The record (`enforcer.attest.Launch`) is what every connection of the workload is held against. Files are executed
through their open descriptors: what was hashed is what runs, whatever stands at the path by then.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pwd
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping

from enforcer.attest import Launch
from enforcer.command import Command, resolve
from enforcer.process import hash_file, is_randomised, read_process
from mesh.problems import Invalid, NotFound, Problem

_TRAMPOLINE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "trampoline.py")
_EXEC_WITHIN_S = 10.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What somebody asked to be launched, and as whom. ``streams`` are descriptors for stdin, stdout and stderr."""

    argv: tuple[str, ...]
    cwd: str
    env: Mapping[str, str]
    uid: int
    gid: int
    streams: tuple[int, int, int]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Opened:
    """A file that is going to be executed or read, with what it was when it was hashed."""

    handle: int
    path: str
    sha256: str
    stamp: tuple[int, int, int, int]


def launch(order: Order) -> tuple[subprocess.Popen[bytes], Launch]:
    """Launch a workload and record it.

    1. The command is resolved to an executable and, for an interpreter, its script.
    2. Both are opened; a symbolic link is followed now, once. Their content is hashed through the descriptor.
    3. A process of its own, in a session of its own, becomes the user and executes the open file (`trampoline`).
    4. The exec closed our channel, while the kernel was still making the image: it is stopped where it begins to run.
    5. Held there, what runs is the file that was hashed, in its first image, and neither file was changed meanwhile.

    Raises Invalid LM3430 to LM3434; then nothing of the workload is left.
    """
    # (1)
    command = resolve(order.argv, order.cwd, order.env)
    opened: list[_Opened] = []
    try:
        # (2)
        executable = _open(command.executable)
        opened.append(executable)
        script = None
        if command.script is not None:
            script = _open(os.path.join(order.cwd, command.argv[command.script]))
            opened.append(script)
        # (3)
        child = _execute(order, command, executable, script)
        try:
            # (4)
            with _held(child.pid):
                # (5)
                return child, _record(order, child.pid, executable, script)
        except Problem:
            child.kill()
            child.wait()
            raise
    finally:
        for found in opened:
            os.close(found.handle)


def _open(path: str) -> _Opened:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as err:
        raise Invalid("LM3433", path=path, reason=err.strerror or str(err)) from err
    # the kernel's own answer to which file this is, links and all
    real = os.readlink(f"/proc/self/fd/{handle}")
    return _Opened(handle=handle, path=real, sha256=hash_file(handle), stamp=_stamp(handle))


def _stamp(handle: int) -> tuple[int, int, int, int]:
    found = os.fstat(handle)
    return found.st_dev, found.st_ino, found.st_size, found.st_ctime_ns


def _execute(order: Order, command: Command, executable: _Opened, script: _Opened | None) -> subprocess.Popen[bytes]:
    argv = list(command.argv)
    passed = [executable.handle]
    if script is not None:
        assert command.script is not None
        argv[command.script] = f"/proc/self/fd/{script.handle}"
        passed.append(script.handle)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        plan = {
            "argv": argv,
            "env": dict(order.env),
            "cwd": order.cwd,
            "executable": executable.handle,
            "uid": order.uid,
            "gid": order.gid,
            "groups": _groups(order) if os.geteuid() == 0 else None,
            "parent": os.getpid(),
        }
        child = subprocess.Popen(  # noqa: S603  our own interpreter and our own file
            [sys.executable, "-I", "-S", _TRAMPOLINE, str(theirs.fileno())],
            stdin=order.streams[0],
            stdout=order.streams[1],
            stderr=order.streams[2],
            env={},
            cwd="/",
            pass_fds=(theirs.fileno(), *passed),
            start_new_session=True,
        )
        theirs.close()
        ours.settimeout(_EXEC_WITHIN_S)
        try:
            ours.sendall(json.dumps(plan).encode() + b"\n")
            # nothing comes back from an exec that succeeded: the channel is closed by it
            failure = ours.recv(4096)
        except OSError as err:
            failure = json.dumps({"reason": err.strerror or str(err)}).encode()
        if failure:
            child.kill()
            child.wait()
            reason = json.loads(failure).get("reason", "unknown")
            raise Invalid("LM3432", program=command.executable, reason=reason)
    return child


@contextlib.contextmanager
def _held(pid: int) -> Iterator[None]:
    """Keep a child from running. One that was ended meanwhile, or that became another user, is not held."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGSTOP)
        # a signal takes effect on the way out of the kernel, and the way out of an exec is where the image is ready
        os.waitid(os.P_PID, pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGCONT)


def _groups(order: Order) -> list[int]:
    """The groups that the user's name has; the group alone for a user without a name."""
    try:
        return os.getgrouplist(pwd.getpwuid(order.uid).pw_name, order.gid)
    except KeyError:
        return [order.gid]


def _record(order: Order, pid: int, executable: _Opened, script: _Opened | None) -> Launch:
    """Step 5 of `launch`."""
    process = None
    with contextlib.suppress(NotFound):
        process = read_process(pid)
    if process is None or (process.executable.device, process.executable.inode) != executable.stamp[:2]:
        # it ended, or executed another file, before it could be looked at: of what was launched nothing is left
        # that could connect, and what another file would attest is not what was hashed
        return Launch(
            pid=pid, start=0, session=pid, layout=(), device=0, inode=0, uid=order.uid, facts=_facts(executable, script)
        )
    if process.executable.sha256 != executable.sha256:
        raise Invalid("LM3434", path=executable.path)
    for found in (executable, script):
        if found is not None and _stamp(found.handle) != found.stamp:
            raise Invalid("LM3434", path=found.path)
    return Launch(
        pid=pid,
        start=process.start,
        session=process.session,
        # a layout that was not chosen at random proves nothing: then no connection passes
        layout=process.layout if is_randomised(pid) else (0,) * len(process.layout),
        device=process.executable.device,
        inode=process.executable.inode,
        uid=order.uid,
        facts=(*process.facts(is_launched=True), *_facts(executable, script)),
    )


def _facts(executable: _Opened, script: _Opened | None) -> tuple[tuple[str, str], ...]:
    """What the launch itself attests."""
    found = [("launch:path", executable.path), ("launch:sha256", executable.sha256)]
    if script is not None:
        found += [
            ("launch:script", script.path),
            ("launch:script_sha256", script.sha256),
            ("launch:script_basename", os.path.basename(script.path)),
        ]
    return tuple(found)
