"""Notes who begins a connection while it begins: a program in the kernel at every connect of the host's groups.

It is called in the connecting process, before the first packet leaves (bpf(2): BPF_CGROUP_INET4_CONNECT and
BPF_CGROUP_INET6_CONNECT), and puts the process and the time beside the socket's cookie, which `enforcer.sockdiag` gives
for a connection's four coordinates. So who *began* it is known, whoever holds the socket by the time it is looked at,
and a pid that was given to another process since is told by that one's start. It decides nothing and delays nobody.

Taken with CAP_BPF and CAP_NET_ADMIN (root) on a host with a unified control group hierarchy, from the host's first pid
namespace: the program sees the host's numbers. Otherwise holders alone are known (`enforcer.sight`).
What is attached ends with the agent, also with one that is killed (`enforcer.bpf`).
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import struct

from enforcer import bpf
from mesh.problems import Unavailable

# of the newest connections: what was pushed out is found by the scan
ENTRIES = 65536
_SOCKET_ADDRESS_PROGRAM = 18
_CONNECTS = (10, 11)
_GET_COOKIE, _GET_PROCESS, _GET_TIME, _UPDATE = 46, 14, 125, 2
# struct bpf_sock_addr
_TYPE_AT, _STREAM = 32, 1
_VALUE = struct.Struct("=QQ")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Stamp:
    """Who began a connection, and when: ``began`` is in ns since boot, as a process's start time is."""

    pid: int
    began: int


class Stamps:
    """The newest connections of this host. Close it, or end, to take the programs off."""

    def __init__(self, root: str) -> None:
        """Attach to everything below a control group's folder.

        Raises Unavailable LM3407 with the step that the kernel refused, and its error.
        """
        self._handles: list[int] = []
        try:
            self._map = bpf.make_map(bpf.LRU_HASH, key=8, value=_VALUE.size, entries=ENTRIES)
            self._handles.append(self._map)
            group = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self._handles.append(group)
            for attach in _CONNECTS:
                program = bpf.load(_SOCKET_ADDRESS_PROGRAM, attach, _noting(self._map))
                self._handles.append(program)
                self._handles.append(bpf.link(program, group, attach))
        except OSError as err:
            self.close()
            raise Unavailable("LM3407", reason=f"{root}: {err.strerror} (errno {err.errno})") from err
        except Unavailable:
            self.close()
            raise

    def find(self, cookie: int) -> Stamp | None:
        """Who began the connection of a socket; None for one that began before, or 65536 connections ago."""
        found = bpf.look_up(self._map, struct.pack("=Q", cookie), _VALUE.size)
        if found is None:
            return None
        process, began = _VALUE.unpack(found)
        return Stamp(pid=process >> 32, began=began)

    def close(self) -> None:
        """Take the programs off."""
        bpf.close(self._handles)
        self._handles = []


def _noting(map_handle: int) -> bytes:
    """The program, called with a struct bpf_sock_addr in register 1; it returns 1, which lets the connect go on.

    1. Streams alone: a datagram socket that is connected is no connection.
    2. The key is the socket's cookie, at -8 of the stack; the value, process and time, is at -24 and -16.
    3. The map takes it, an older entry of the same socket goes.
    """
    noted = b"".join(
        (
            # (2)
            bpf.line(bpf.MOVE, 1, 6),
            bpf.line(bpf.CALL, value=_GET_COOKIE),
            bpf.line(bpf.STORE_64, 10, 0, -8),
            bpf.line(bpf.CALL, value=_GET_PROCESS),
            bpf.line(bpf.STORE_64, 10, 0, -24),
            bpf.line(bpf.CALL, value=_GET_TIME),
            bpf.line(bpf.STORE_64, 10, 0, -16),
            # (3)
            bpf.load_map(1, map_handle),
            bpf.line(bpf.MOVE, 2, 10),
            bpf.line(bpf.ADD_VALUE, 2, value=-8),
            bpf.line(bpf.MOVE, 3, 10),
            bpf.line(bpf.ADD_VALUE, 3, value=-24),
            bpf.line(bpf.MOVE_VALUE, 4),
            bpf.line(bpf.CALL, value=_UPDATE),
        )
    )
    return b"".join(
        (
            bpf.line(bpf.MOVE, 6, 1),
            # (1)
            bpf.line(bpf.LOAD_32, 2, 1, _TYPE_AT),
            bpf.unless(bpf.JUMP_NOT_VALUE, 2, noted, value=_STREAM),
            bpf.line(bpf.MOVE_VALUE, 0, value=1),
            bpf.line(bpf.EXIT),
        )
    )


def unified_root() -> str:
    """Where the unified control group hierarchy is mounted (mountinfo, proc(5)).

    Raises Unavailable LM3407 on a host without one.
    """
    for row in pathlib.Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape").splitlines():
        mount, _, source = row.partition(" - ")
        if source.startswith("cgroup2 "):
            return mount.split(" ")[4].replace("\\040", " ")
    raise Unavailable("LM3407", reason="no unified control group hierarchy is mounted")
