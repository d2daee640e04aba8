"""Closing a process that holds a private key against its surroundings (prctl(2)). Linux alone."""

from __future__ import annotations

import ctypes
import resource

_PR_SET_DUMPABLE = 4
_PR_SET_NO_NEW_PRIVS = 38


def harden() -> None:
    """Close the process against its surroundings.

    1. No core file: it would hold the private key.
    2. Not dumpable: no ptrace and no /proc/PID/mem for another process of the same user.
    3. No new privileges by executing anything.
    """
    # (1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    libc = ctypes.CDLL(None, use_errno=True)
    for option, value in (
        (_PR_SET_DUMPABLE, 0),  # (2)
        (_PR_SET_NO_NEW_PRIVS, 1),  # (3)
    ):
        if libc.prctl(option, value, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl")
