"""What this host lets the agent see of a connection: whose socket it is, who began it, and everybody who holds it.

The best way that the kernel allows is taken, each for itself: sock_diag needs no right; the eBPF programs need root,
and without them holders are looked for in /proc and who began a connection is not known.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable
from typing import TypeVar

from enforcer.holders import holders
from enforcer.opensockets import OpenSockets
from enforcer.sockdiag import SockDiag
from enforcer.stamp import Stamp, Stamps, unified_root
from mesh.problems import Unavailable

# the namespaces that the kernel began with (PROC_PID_INIT_INO, PROC_TIME_INIT_INO of linux/proc_ns.h)
_FIRST = {"pid": 0xEFFFFFFC, "time": 0xEFFFFFFA}
Report = Callable[[str], None]
_Way = TypeVar("_Way")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """The ways that are open; None for one that is not."""

    diag: SockDiag
    stamps: Stamps | None = None
    sockets: OpenSockets | None = None

    def beginner(self, cookie: int) -> Stamp | None:
        """Who began a connection, by its socket's cookie; None when that is not known."""
        return self.stamps.find(cookie) if self.stamps is not None else None

    def holders(self, inode: int) -> frozenset[int]:
        """The pids of all processes that can be seen to hold a socket."""
        if self.sockets is not None:
            try:
                return self.sockets.holders(inode)
            except Unavailable:
                return holders(inode)
        return holders(inode)

    def close(self) -> None:
        """Give everything up."""
        for found in (self.diag, self.stamps, self.sockets):
            if found is not None:
                found.close()


def open_sight(report: Report) -> Sight:
    """All ways that are open; of the others the reason is reported."""
    return Sight(diag=SockDiag(), stamps=open_stamps(report), sockets=open_sockets(report))


def open_stamps(report: Report) -> Stamps | None:
    """Stamps of this host's connections, or None, with the reason reported."""
    return _opened(lambda: Stamps(unified_root()), report)


def open_sockets(report: Report) -> OpenSockets | None:
    """The open sockets of this host, or None, with the reason reported."""
    return _opened(OpenSockets, report)


def _opened(way: Callable[[], _Way], report: Report) -> _Way | None:
    try:
        _check_namespace()
        return way()
    except Unavailable as problem:
        report(str(problem.facts["reason"]))
        return None


def _check_namespace() -> None:
    """Refuse where the kernel's numbers of processes, or its times, are others than /proc says.

    A kernel before 5.6 has no time namespaces. Raises Unavailable LM3407.
    """
    for kind, first in _FIRST.items():
        place = pathlib.Path("/proc/self/ns", kind)
        if place.exists() and place.stat().st_ino != first:
            raise Unavailable(
                "LM3407", reason=f"this is a {kind} namespace of its own: the kernel's numbers differ here"
            )
