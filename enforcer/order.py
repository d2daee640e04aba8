"""Whether a caller of `agent.sock` was what it is before its connection began (design D6, ADR 3).

A program may connect, leave the connection with a helper and execute the genuine program, for which the helper is
then taken. The kernel remembers who connected, not as what. What says it:

- The caller's own end of the connection is marked close-on-exec: then it was opened by what runs now. No privilege.
- Every exec of the host is heard of (`enforcer.execwatch`, root): none of the caller's came after the connection began.
- Otherwise it is best effort: every process that is seen to hold that end is what the caller is.
"""

from __future__ import annotations

import asyncio
import enum
import os
import re
from collections.abc import Callable
from typing import Protocol

from enforcer.execwatch import ExecWatch
from enforcer.holders import holders
from enforcer.process import read_stat
from mesh.problems import Forbidden, NotFound, Unavailable

_CLOEXEC = 0o2000000
_FLAGS = re.compile(rb"^flags:\s+0([0-7]+)$", re.MULTILINE)


class End(enum.Enum):
    """What a process has of a connection."""

    OWN = "opened by what it runs: an exec would have closed it"
    KEPT = "may have been kept through an exec"
    GONE = "not held by it"


class Connected(Protocol):
    """A caller: who connected, the inode of its end if the kernel tells, and what it was when it was accepted."""

    @property
    def pid(self) -> int: ...  # noqa: D102
    @property
    def layout(self) -> tuple[int, ...]: ...  # noqa: D102
    @property
    def inode(self) -> int | None: ...  # noqa: D102


class Order:
    """The callers that are connected, and which of them executed something since."""

    def __init__(self, watch: ExecWatch | None) -> None:
        self.watch = watch
        self._live: dict[int, list[Connected]] = {}
        self._executed: set[int] = set()
        # execs since the last moment at which nobody was waiting to be accepted
        self._recent: dict[int, int] = {}

    def take(self, caller: Connected, since: int) -> bool:
        """Begin to follow a caller whose connection began after ``since`` (ns, monotonic), until `leave`.

        Returns whether it may have executed something after that, before now.
        """
        self._live.setdefault(caller.pid, []).append(caller)
        if self.watch is None:
            return False
        self.read()
        return self._recent.get(caller.pid, 0) >= since or self.watch.lost_at >= since

    def leave(self, caller: Connected) -> None:
        """Follow a caller no longer."""
        left = [found for found in self._live.pop(caller.pid, []) if found is not caller]
        if left:
            self._live[caller.pid] = left
        self._executed.discard(id(caller))

    def read(self) -> None:
        """Hear what was executed."""
        if self.watch is None:
            return
        lost = self.watch.lost_at
        executed = self.watch.read()
        self._recent |= executed
        # of what was not heard everybody is suspected; `check` asks for proof then
        for pid in executed if self.watch.lost_at == lost else [*self._live]:
            self._executed |= {id(found) for found in self._live.get(pid, ())}

    def nobody_waits(self, at: int) -> None:
        """Forget the execs before a moment (ns, monotonic): whoever is accepted from now on began after it."""
        self._recent = {pid: when for pid, when in self._recent.items() if when >= at}

    async def check(self, caller: Connected) -> None:
        """Refuse a caller that executed something since it connected, as far as that can be known.

        Called after its executable was read, between two looks at its layout: an exec closes descriptors before the
        new image has its layout, and tells of itself after.
        Raises Forbidden LM3404 or LM3405, NotFound LM3401.
        """
        self.read()
        if self.watch is not None and id(caller) not in self._executed:
            return
        end = await asyncio.to_thread(end_of, caller)
        if end is End.OWN:
            self._executed.discard(id(caller))
        elif end is End.GONE:
            raise Forbidden("LM3405", pid=caller.pid)
        elif self.watch is not None or not await asyncio.to_thread(_is_among_its_own, caller):
            raise Forbidden("LM3404", pid=caller.pid)


def end_of(caller: Connected) -> End:
    """What the caller has of its connection, KEPT when that cannot be found out. Raises NotFound LM3401."""
    if caller.inode is None:
        return End.KEPT
    wanted = f"socket:[{caller.inode}]"
    found = End.GONE
    try:
        with os.scandir(f"/proc/{caller.pid}/fd") as handles:
            for handle in handles:
                if _link(handle.path) != wanted:
                    continue
                found = End.KEPT
                if _is_closed_by_exec(caller.pid, handle.name):
                    return End.OWN
    except PermissionError:
        return End.KEPT
    except OSError as err:
        raise NotFound("LM3401", pid=caller.pid) from err
    return found


def _link(path: str) -> str:
    try:
        return os.readlink(path)  # noqa: PTH115  one system call
    except OSError:
        return ""


def _is_closed_by_exec(pid: int, name: str) -> bool:
    try:
        with open(f"/proc/{pid}/fdinfo/{name}", "rb") as file:  # noqa: PTH123  as quick as can be
            flags = _FLAGS.search(file.read(4096))
    except OSError:
        return False
    return flags is not None and bool(int(flags[1], 8) & _CLOEXEC)


def _is_among_its_own(caller: Connected) -> bool:
    """Whether everybody who is seen to hold the caller's end is what the caller is: forks of it at most.

    The layout alone does not say it: a process that was not launched may have written its own.
    """
    if caller.inode is None:
        return True
    try:
        image = _image(caller.pid)
        return image[0] == caller.layout and all(_image(pid) == image for pid in holders(caller.inode))
    except (OSError, NotFound):
        return False


def _image(pid: int) -> tuple[tuple[int, ...], int, int]:
    found = os.stat(f"/proc/{pid}/exe")  # noqa: PTH116  one system call
    return read_stat(pid).layout, found.st_dev, found.st_ino


def open_watch(report: Callable[[str], None]) -> ExecWatch | None:
    """A watch over the host's execs, or None, with the reason reported."""
    try:
        return ExecWatch()
    except Unavailable as problem:
        report(str(problem.facts.get("reason", "")))
        return None
