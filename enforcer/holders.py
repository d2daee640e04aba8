"""Finds every process that holds a socket: an inherited or passed descriptor makes its receiver a holder too.

The scan looks at the processes of the socket's own user, and of root, who may hold anybody's. Without root only
one's own user's processes can be looked into; then others are not seen, and the caller knows (`is_complete`).
"""

from __future__ import annotations

import os


def holders(inode: int, uid: int) -> frozenset[int]:
    """The pids of all processes that can be seen to hold a socket's inode."""
    wanted = f"socket:[{inode}]"
    found = set()
    with os.scandir("/proc") as entries:
        for entry in entries:
            if not entry.name.isdigit():
                continue
            try:
                owner = entry.stat().st_uid
            except OSError:
                continue
            if owner in {uid, 0} and _holds(entry.path, wanted):
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
