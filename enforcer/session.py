"""Ends whatever still runs in a session that a launch began, and nothing else.

A session's number stays taken as long as one process is in it or its leader is not reaped yet: whoever calls this
keeps the leader unreaped, so that the number cannot come to mean another session meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable

from enforcer.process import read_stat
from mesh.problems import Problem

_LOOK_S = 0.05
_KILL_ROUNDS = 40


def members(session: int) -> frozenset[int]:
    """The pids of a session's processes that still run; zombies do not."""
    found = set()
    for name in os.listdir("/proc"):  # noqa: PTH208  names are all that is needed
        if name.isdigit():
            with contextlib.suppress(Problem):
                stat = read_stat(int(name))
                if stat.session == session and not stat.has_ended:
                    found.add(int(name))
    return frozenset(found)


async def end(session: int, within_s: float) -> None:
    """End a session: SIGTERM to each of its processes once, and SIGKILL to those left after ``within_s``.

    A process that set out for a session of its own (setsid) is not found. One that may not be signalled is left.
    """
    loop = asyncio.get_running_loop()
    told: set[int] = set()
    deadline = loop.time() + within_s
    while left := await asyncio.to_thread(members, session):
        if loop.time() >= deadline:
            break
        for pid in left - told:
            _signal(pid, session, signal.SIGTERM)
        told |= left
        await asyncio.sleep(_LOOK_S)
    # what forks while it is being ended is found in the next round
    await _rounds(lambda pid: _signal(pid, session, signal.SIGKILL), session)


async def _rounds(act: Callable[[int], None], session: int) -> None:
    for _ in range(_KILL_ROUNDS):
        left = await asyncio.to_thread(members, session)
        if not left:
            return
        for pid in left:
            act(pid)
        await asyncio.sleep(_LOOK_S)


def _signal(pid: int, session: int, number: int) -> None:
    """Signal a process that is still in the session: its pidfd cannot come to mean another one."""
    with contextlib.suppress(OSError, Problem):
        handle = os.pidfd_open(pid)
        try:
            if read_stat(pid).session == session:
                signal.pidfd_send_signal(handle, number)
        finally:
            os.close(handle)
