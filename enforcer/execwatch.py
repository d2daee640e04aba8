"""Hears of every exec on this host: the kernel's process connector (CN_PROC, linux/cn_proc.h), for root alone.

The kernel queues an exec's event before the new image runs its first instruction, so whoever drains the queue after
having looked at a process has heard of every exec that made it what it was seen to be.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import time

from mesh.problems import Unavailable

_NETLINK_CONNECTOR = 11
_NLMSG_DONE = 3
_CN_IDX_PROC = _CN_VAL_PROC = 1
_PROC_CN_MCAST_LISTEN = 1
_PROC_EVENT_NONE, _PROC_EVENT_EXEC = 0x0, 0x2
_HEADER = struct.Struct("=IHHII")
_CONNECTOR = struct.Struct("=IIIIHH")
# what, cpu, time in nanoseconds of CLOCK_MONOTONIC; then pid and tgid of the process
_EVENT = struct.Struct("=IIQII")
_EVENT_AT = _HEADER.size + _CONNECTOR.size
_SO_RCVBUFFORCE = 33
_SO_ATTACH_FILTER = 26
_RECEIVE_BYTES = 4 << 20
_ANSWER_WITHIN_MS = 200


class ExecWatch:
    """A queue of the host's execs. ``lost_at`` is when events were lost the last time, in ns of CLOCK_MONOTONIC."""

    def __init__(self) -> None:
        """Subscribe.

        Raises Unavailable LM3406 without the right to, outside of the first namespaces, or when the kernel has none.
        """
        self.lost_at = 0
        try:
            # close-on-exec, as every socket of Python's
            self._netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _NETLINK_CONNECTOR)
        except OSError as err:
            raise Unavailable("LM3406", reason=err.strerror or str(err)) from err
        try:
            self._subscribe()
        except OSError as err:
            self._netlink.close()
            raise Unavailable("LM3406", reason=err.strerror or str(err)) from err

    def _subscribe(self) -> None:
        """Ask for events, and be sure that they come.

        1. Room for bursts; a filter in the kernel keeps every other event out of it.
        2. The wish; the kernel answers it with an error number, or with nothing where it does not take wishes.
        """
        # (1)
        self._netlink.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BYTES)
        self._netlink.bind((0, _CN_IDX_PROC))
        self._netlink.setblocking(False)
        code = _only_execs()
        lines = _buffer(code)
        self._netlink.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", len(code) // 8, lines[1]))
        # (2)
        wish = struct.pack("=I", _PROC_CN_MCAST_LISTEN)
        body = _CONNECTOR.pack(_CN_IDX_PROC, _CN_VAL_PROC, 0, 0, len(wish), 0) + wish
        self._netlink.send(_HEADER.pack(_HEADER.size + len(body), _NLMSG_DONE, 0, 0, os.getpid()) + body)
        poll = select.poll()
        poll.register(self._netlink, select.POLLIN)
        while True:
            if not poll.poll(_ANSWER_WITHIN_MS):
                raise OSError(errno.EPERM, "the kernel does not answer")
            what, number = self._first()
            if what == _PROC_EVENT_NONE:
                if number:
                    raise OSError(number, os.strerror(number))
                return

    def _first(self) -> tuple[int, int]:
        """One event: what it is, and the error number of an answer."""
        data = self._netlink.recv(4096)
        what, _, _, number, _ = _EVENT.unpack_from(data.ljust(_EVENT_AT + _EVENT.size, b"\0"), _EVENT_AT)
        return what, number

    def fileno(self) -> int:
        """The queue's descriptor: readable when something was executed."""
        return self._netlink.fileno()

    def close(self) -> None:
        """Unsubscribe."""
        self._netlink.close()

    def read(self) -> dict[int, int]:
        """Drain the queue: the pids that executed something, each with the time of its last exec (ns, monotonic)."""
        found: dict[int, int] = {}
        while True:
            try:
                data, (port, _) = self._netlink.recvfrom(4096)
            except BlockingIOError:
                return found
            except OSError as err:
                if err.errno != errno.ENOBUFS:
                    raise
                self.lost_at = time.monotonic_ns()
                continue
            # nobody but the kernel speaks from port 0
            if port == 0 and len(data) >= _EVENT_AT + _EVENT.size:
                what, _, at, _, tgid = _EVENT.unpack_from(data, _EVENT_AT)
                if what == _PROC_EVENT_EXEC:
                    found[tgid] = at


def _only_execs() -> bytes:
    """A socket filter (linux/filter.h): answers and execs pass; a load is big-endian, hence the swapped constants."""
    load, equal, give = 0x20, 0x15, 0x06
    lines = (
        (load, 0, 0, _EVENT_AT),
        (equal, 1, 0, _swapped(_PROC_EVENT_EXEC)),
        (equal, 0, 1, _swapped(_PROC_EVENT_NONE)),
        (give, 0, 0, 0xFFFFFFFF),
        (give, 0, 0, 0),
    )
    return b"".join(struct.pack("=HBBI", *line) for line in lines)


def _swapped(value: int) -> int:
    return int(struct.unpack("=I", struct.pack(">I", value))[0])


def _buffer(code: bytes) -> tuple[object, int]:
    """The filter's lines where the kernel can read them, with their address."""
    import ctypes  # noqa: PLC0415  for the address alone

    lines = ctypes.create_string_buffer(code, len(code))
    return lines, ctypes.addressof(lines)
