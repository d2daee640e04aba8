"""Finds every process that holds a socket: an inherited or passed descriptor makes its receiver a holder too.

With root the scan looks at every process: a descriptor can be passed to anybody. Without root only one's own user's
processes can be looked into; then others are not seen, and the caller knows (`is_complete`).
"""

from __future__ import annotations

import os


def holders(inode: int) -> frozenset[int]:
    """The pids of all processes that can be seen to hold a socket's inode."""
    wanted = f"socket:[{inode}]"
    found = set()
    me = None if is_complete() else os.geteuid()
    with os.scandir("/proc") as entries:
        for entry in entries:
            if not entry.name.isdigit():
                continue
            try:
                if me is not None and entry.stat().st_uid != me:
                    continue
            except OSError:
                continue
            if _holds(entry.path, wanted):
                found.add(int(entry.name))
    return frozenset(found)


def _holds(process: str, wanted: str) -> bool:
    try:
        with os.scandir(f"{process}/fd") as handles:
            for handle in handles:
                try:
                    if os.readlink(handle.path) == wanted:
                        return True
                except OSError:
                    continue
    except OSError:
        return False
    return False


def is_complete() -> bool:
    """Whether the scan sees the descriptors of every process: it takes root."""
    return os.geteuid() == 0
