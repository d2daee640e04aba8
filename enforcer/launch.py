"""Launches a workload: opens what it is going to execute, hashes and executes that, and records what came of it.

Two processes do it together. `limen run` opens the files, executes them as a child of its own and holds it: so the
program has the control group, limits, namespaces and descriptors of where it was asked for, a systemd unit's as well.
The agent hashes the open files and records what runs (`enforcer.attest.Launch`): every connection is held against it.
Files are executed through their open descriptors: what was hashed is what runs, whatever stands at the path by then.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pwd
import signal
import socket
import stat as st
import subprocess
import sys
from collections.abc import Iterator, Mapping

from enforcer.attest import Launch
from enforcer.command import Command, resolve
from enforcer.process import hash_file, is_randomised, read_process
from mesh.problems import Invalid, NotFound

_TRAMPOLINE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "trampoline.py")
_EXEC_WITHIN_S = 30.0


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
class Prepared:
    """A command whose files are open; ``script`` is None for what is no interpreter."""

    command: Command
    executable: int
    script: int | None

    @property
    def handles(self) -> tuple[int, ...]:
        """The open descriptors, the executable's first."""
        return (self.executable,) if self.script is None else (self.executable, self.script)

    def close(self) -> None:
        """Close the files."""
        for handle in self.handles:
            os.close(handle)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Hashed:
    """A file that is going to be executed or read, with what it was when it was hashed."""

    handle: int
    path: str
    sha256: str
    stamp: tuple[int, int, int, int]


def prepare(order: Order) -> Prepared:
    """Resolve a command to an executable and, for an interpreter, its script; open both, links followed now, once.

    Raises Invalid LM3430 to LM3433.
    """
    command = resolve(order.argv, order.cwd, order.env)
    executable = _open(command.executable)
    if command.script is None:
        return Prepared(command=command, executable=executable, script=None)
    try:
        script = _open(os.path.join(order.cwd, command.argv[command.script]))
    except Invalid:
        os.close(executable)
        raise
    return Prepared(command=command, executable=executable, script=script)


def _open(path: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as err:
        raise Invalid("LM3433", path=path, reason=err.strerror or str(err)) from err


def hash_opened(handle: int) -> Hashed:
    """Hash an open file, read anew; its path is the kernel's own answer to which file it is, links and all.

    Raises Invalid LM3403 for one that is too large, LM3433 for what is no file with a name.
    """
    path = os.readlink(f"/proc/self/fd/{handle}")
    found = os.fstat(handle)
    if not st.S_ISREG(found.st_mode) or found.st_nlink == 0 or path.startswith("/memfd:"):
        raise Invalid("LM3433", path=path, reason="it is no regular file, or it has no name any more")
    return Hashed(handle=handle, path=path, sha256=hash_file(handle), stamp=_stamp(handle))


def _stamp(handle: int) -> tuple[int, int, int, int]:
    found = os.fstat(handle)
    return found.st_dev, found.st_ino, found.st_size, found.st_ctime_ns


def begin(order: Order, prepared: Prepared) -> subprocess.Popen[bytes]:
    """Execute the open file in a process of its own, in a session of its own, as the user of the order.

    When it returns, the exec closed our channel, while the kernel was still making the image: see `held`.
    Raises Invalid LM3432; then nothing of it is left.
    """
    command = prepared.command
    argv = list(command.argv)
    if prepared.script is not None:
        assert command.script is not None
        argv[command.script] = f"/proc/self/fd/{prepared.script}"
    ours, theirs = socket.socketpair()
    with ours, theirs:
        plan = {
            "argv": argv,
            "env": dict(order.env),
            "cwd": order.cwd,
            "executable": prepared.executable,
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
            pass_fds=(theirs.fileno(), *prepared.handles),
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
def held(pid: int) -> Iterator[None]:
    """Keep a child from running: it is stopped where its image begins to.

    One that was ended meanwhile, or that became another user, is not held.
    """
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


def record(pid: int, uid: int, executable: Hashed, script: Hashed | None) -> Launch:
    """Record what runs in a process that is held: the file that was hashed, in its first image.

    ``uid`` is the user's of one that is gone already. Raises Invalid LM3402 or LM3403 for an executable that is
    refused, LM3434 when a file was changed since it was hashed.
    """
    process = None
    with contextlib.suppress(NotFound):
        process = read_process(pid)
    if process is None or (process.executable.device, process.executable.inode) != executable.stamp[:2]:
        # it ended, or executed another file, before it could be looked at: of what was launched nothing is left
        # that could connect, and what another file would attest is not what was hashed
        return Launch(
            pid=pid, start=0, session=pid, layout=(), device=0, inode=0, uid=uid, facts=_facts(executable, script)
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
        uid=process.uid,
        facts=(*process.facts(is_launched=True), *_facts(executable, script)),
    )


def _facts(executable: Hashed, script: Hashed | None) -> tuple[tuple[str, str], ...]:
    """What the launch itself attests."""
    found = [("launch:path", executable.path), ("launch:sha256", executable.sha256)]
    if script is not None:
        found += [
            ("launch:script", script.path),
            ("launch:script_sha256", script.sha256),
            ("launch:script_basename", os.path.basename(script.path)),
        ]
    return tuple(found)
