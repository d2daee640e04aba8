"""Who is behind a connection: the launched workload itself, or something else beside it (design D6)."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Mapping

from enforcer.process import Stat, read_stat, tracer_of
from enforcer.sight import Sight
from enforcer.sockdiag import Address
from enforcer.stamp import Stamp
from mesh.problems import NotFound, Problem

_ROOT = 0
# how far above it a process that left its session is looked for
_GENERATIONS = 4
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """What the agent recorded of a workload after it had executed it.

    ``device`` and ``inode`` are the executable's. ``facts`` are what identity rules match.
    """

    pid: int
    start: int
    session: int
    layout: tuple[int, ...]
    device: int
    inode: int
    uid: int
    facts: tuple[tuple[str, str], ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Attested:
    """The answer: ``code`` is empty when the connection is the workload's own."""

    code: str = ""
    facts: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def is_ok(self) -> bool:
        """Whether the workload itself is behind the connection."""
        return not self.code


def attest_connection(launch: Launch, source: Address, destination: Address, sight: Sight) -> Attested:
    """Find out whether the launched workload, and nothing else, is behind a loopback connection.

    1. The kernel names the client's socket: owner and inode. A socket that is gone is refused.
    2. Its owner is the workload's user; a workload that was launched as root may have become anybody (nginx's workers).
    3. With stamps, the process that BEGAN the connection is the launched image, and is there still.
    4. EVERY process that holds it is found; a socket that nobody is seen to hold is refused.
    5. EVERY holder is the launched image: see `check_member`.

    Everything that cannot be found out is a refusal, with its code.
    """
    try:
        # (1)
        found = sight.diag.find(source, destination)
        # (2)
        if found.uid != launch.uid != _ROOT:
            return _refused("LM3420", uid=found.uid, expected=launch.uid)
        # (3)
        stamp = sight.beginner(found.cookie)
        if stamp is not None:
            refusal = _check_beginner(launch, stamp)
            if refusal is not None:
                return refusal
        # (4)
        pids = sight.holders(found.inode)
        if not pids:
            return _refused("LM3421", inode=found.inode)
        # (5)
        for pid in sorted(pids):
            refusal = check_member(launch, pid)
            if refusal is not None:
                return refusal
    except Problem as problem:
        return Attested(code=problem.code, facts={name: str(value) for name, value in problem.facts.items()})
    return Attested()


def _check_beginner(launch: Launch, stamp: Stamp) -> Attested | None:
    """Check the process that began a connection; one that is gone, or whose pid another has by now, is not known."""
    try:
        start = read_stat(stamp.pid).start
    except NotFound:
        return _refused("LM3426", pid=stamp.pid)
    if start > stamp.began * _TICKS_PER_S // 1_000_000_000:
        return _refused("LM3426", pid=stamp.pid)
    return check_member(launch, stamp.pid)


def check_member(launch: Launch, pid: int) -> Attested | None:
    """Check that a process is the launched image or was forked from it without executing anything.

    1. It is in the session that the launch began, which nobody can join (setsid(2)), or it left that (PostgreSQL's
       backends do) and descends from a process in it that is still there: see `_descends`.
    2. It did not begin before the launch.
    3. It runs the executable that was launched, the very file.
    4. Its memory has the layout of the launched image, which was drawn at random: a fork keeps it, an exec never does,
       and no descendant can write it itself (`enforcer.trampoline`). So a process that connected first and executes
       the genuine program afterwards does not pass, whenever it is looked at.
    5. Nobody traces it: a tracer writes into it what it likes.
    6. Looked at again it is the same process still: nobody took over its pid in between.

    Returns None for a member, the refusal for anything else.
    """
    stat = read_stat(pid)
    name = _name(pid)
    # (1)
    if stat.session != launch.session and not _descends(launch, pid, stat):
        return _refused("LM3422", pid=pid, program=name)
    # (2)
    if stat.start < launch.start:
        return _refused("LM3422", pid=pid, program=name)
    # (3)
    try:
        executable = os.stat(f"/proc/{pid}/exe")
    except OSError as err:
        raise NotFound("LM3401", pid=pid) from err
    if (executable.st_dev, executable.st_ino) != (launch.device, launch.inode):
        return _refused("LM3423", pid=pid, program=name)
    # (4)
    if not any(launch.layout):
        return _refused("LM3425", pid=pid, program=name)
    if stat.layout != launch.layout:
        return _refused("LM3424", pid=pid, program=name)
    # (5)
    tracer = tracer_of(pid)
    if tracer:
        return _refused("LM3427", pid=pid, program=name, tracer=tracer)
    # (6)
    again = read_stat(pid)
    if (again.start, again.session, again.layout) != (stat.start, stat.session, stat.layout):
        raise NotFound("LM3401", pid=pid)
    return None


def _descends(launch: Launch, pid: int, stat: Stat) -> bool:
    """Whether a process's parent, or one of the nearest above it, is in the session of the launch.

    A process whose parent ended is given to another one (init, or a subreaper above it), so a parent that is there, and
    is there again after it was read, is who forked it. What descends from the launch cannot write its own layout.
    """
    for _ in range(_GENERATIONS):
        above = stat.ppid
        if above <= 1:
            return False
        parent = read_stat(above)
        if read_stat(pid).ppid != above:
            return False
        if parent.session == launch.session:
            return parent.start >= launch.start
        pid, stat = above, parent
    return False


def _refused(code: str, **facts: object) -> Attested:
    return Attested(code=code, facts={name: str(value) for name, value in facts.items()})


def _name(pid: int) -> str:
    """The executable's path, for the explanation only."""
    with contextlib.suppress(OSError):
        return os.readlink(f"/proc/{pid}/exe")
    return "unknown"
