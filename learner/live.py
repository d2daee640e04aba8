"""Live capture: an AF_PACKET socket with a ring of TPACKET_V3 blocks that the kernel fills and this process reads.

The filter runs in the kernel, before a packet takes room in the ring. What the kernel had no room for is counted by
PACKET_STATISTICS. Nothing is copied: packets are read where the kernel put them. Linux alone; opening takes
CAP_NET_RAW, reading takes no privilege.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self

from mesh.problems import Forbidden, NotFound, Unavailable

ANY = "any"
BLOCK_BYTES = 1 << 20
MAX_RING_MIB = 1024
_SOL_PACKET, _RX_RING, _STATISTICS, _VERSION = 263, 5, 6, 10
_TPACKET_V3 = 2
_SO_ATTACH_FILTER = 26
_ETH_P_ALL = 3
_FRAME_BYTES = 2048
# the kernel gives a block that is not full after so many milliseconds
RETIRE_MS = 60
_STATUS_USER = 1
_WAIT_MS = 200
# what is under way when a capture ends is waited for so long
_DRAIN_S = 10.0
_STATUS_AT = 8
# kinds of interfaces (linux/if_arp.h) -> link type (pcap-linktype(7)), as libpcap has them; others are read cooked
_ETHERNET, _RAW = 1, 101
_LINKS = {1: _ETHERNET, 772: _ETHERNET, 65534: _RAW, 519: _RAW, 801: 105, 802: 119, 803: 127}
_NETWORK_AT = {_ETHERNET: 14, _RAW: 0}
_DROP_ALL = struct.pack("=HBBI", 0x06, 0, 0, 0)


class Ring:
    """One socket and its ring, opened and filled from then on; `close` gives both back.

    ``link`` is the link type of its packets, ``is_cooked`` whether they come without a header of the link layer;
    ``packets`` and ``dropped`` are what the kernel counted so far, those that it dropped among the packets.
    """

    def __init__(self, interface: str, make_filter: Callable[[int | None], bytes], *, ring_mib: int) -> None:
        """Open a ring on an interface, `any` for all.

        ``make_filter`` gives the filter for where the network layer begins in a packet, None where that varies.
        Raises Forbidden LM4051 without CAP_NET_RAW, NotFound LM4052 for an interface that is not there, Unavailable
        LM4054 where the kernel gives no such ring.
        """
        self.packets = self.dropped = self.gaps = 0
        self._interface = interface
        self.link, self.is_cooked = _kind_of(interface)
        program = make_filter(0 if self.is_cooked else _NETWORK_AT.get(self.link))
        self._socket = _socket(socket.SOCK_DGRAM if self.is_cooked else socket.SOCK_RAW)
        try:
            # no packet arrives before the protocol is named, so that all of them pass the filter
            self._filter(program)
            self._map = self._open(ring_mib)
            self._bytes = memoryview(self._map)
            self._words = self._bytes.cast("I")
            self._index = _bind(self._socket, interface, _ETH_P_ALL)
        except BaseException:
            self._socket.close()
            raise

    def _open(self, ring_mib: int) -> mmap.mmap:
        size = ring_mib << 20
        request = struct.pack(
            "=7I", BLOCK_BYTES, size // BLOCK_BYTES, _FRAME_BYTES, size // _FRAME_BYTES, RETIRE_MS, 0, 0
        )
        try:
            self._socket.setsockopt(_SOL_PACKET, _VERSION, _TPACKET_V3)
            self._socket.setsockopt(_SOL_PACKET, _RX_RING, request)
            return mmap.mmap(self._socket.fileno(), size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        except OSError as err:
            raise Unavailable("LM4054", reason=err.strerror or str(err)) from err

    def _filter(self, program: bytes) -> None:
        lines = ctypes.create_string_buffer(program, len(program))
        pointed = struct.pack("@HP", len(program) // 8, ctypes.addressof(lines))
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, pointed)
        except OSError as err:
            raise Unavailable("LM4054", reason=err.strerror or str(err)) from err

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the socket and the ring back to the kernel."""
        self._socket.close()
        # who failed while reading a block may still hold it; it goes with him
        with contextlib.suppress(BufferError):
            self._words.release()
            self._bytes.release()
            self._map.close()

    def blocks(self, is_over: Callable[[], bool]) -> Iterator[memoryview]:
        """Each block that the kernel filled, its own again with the next one; nobody may keep it or a part of it.

        1. Until it is over, what comes.
        2. Then the kernel is told to take no more packets, and what it took is waited for: all that it counted and did
           not drop. What does not come is counted as dropped.
        """
        waiter = select.poll()
        waiter.register(self._socket, select.POLLIN | select.POLLERR)
        at = 0
        end: float | None = None
        count = len(self._map) // BLOCK_BYTES
        seen = 0
        while True:
            words = self._words
            status = (at * BLOCK_BYTES + _STATUS_AT) >> 2
            if words[status] & _STATUS_USER:
                seen += words[status + 1]
                yield self._bytes[at * BLOCK_BYTES : (at + 1) * BLOCK_BYTES]
                words[status] = 0
                at = (at + 1) % count
                if end is None and is_over():
                    end = self._stop()
                continue
            self._count()
            if end is None and is_over():
                end = self._stop()
            # (2)
            if end is not None and (seen >= self.packets - self.dropped or time.monotonic() > end):
                self.dropped += max(0, self.packets - self.dropped - seen)
                return
            # (1)
            events = waiter.poll(_WAIT_MS if end is None else RETIRE_MS)
            self._look(has_error=any(event & select.POLLERR for _, event in events))

    def _stop(self) -> float:
        self._filter(_DROP_ALL)
        self._count()
        return time.monotonic() + _DRAIN_S

    def _count(self) -> None:
        """Take over the kernel's counts, which begin anew each time they are read."""
        packets, dropped, _ = struct.unpack("=III", self._socket.getsockopt(_SOL_PACKET, _STATISTICS, 12))
        self.packets += packets
        self.dropped += dropped

    def _look(self, *, has_error: bool) -> None:
        """The interface went down, a gap, or is gone for good: the kernel says the same of both.

        Raises NotFound LM4052.
        """
        number = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) if has_error else 0
        if number == errno.ENETDOWN:
            self.gaps += 1
        elif number:
            raise NotFound("LM4052", interface=self._interface, reason=errno.errorcode.get(number, str(number)))
        if self.gaps and self._index:
            try:
                socket.if_indextoname(self._index)
            except OSError as err:
                raise NotFound("LM4052", interface=self._interface, reason="it is gone") from err


def _socket(kind: int) -> socket.socket:
    """A packet socket that receives nothing yet."""
    try:
        return socket.socket(socket.AF_PACKET, kind | socket.SOCK_CLOEXEC, 0)
    except PermissionError as err:
        raise Forbidden("LM4051") from err
    except OSError as err:
        raise Unavailable("LM4054", reason=err.strerror or str(err)) from err


def _kind_of(interface: str) -> tuple[int, bool]:
    """The link type of an interface's packets, and whether they are read without their link layer's header."""
    if interface == ANY:
        return _RAW, True
    with _socket(socket.SOCK_RAW) as asking:
        _bind(asking, interface, 0)
        link = _LINKS.get(asking.getsockname()[3])
    return (_RAW, True) if link is None else (link, False)


def _bind(sock: socket.socket, interface: str, protocol: int) -> int:
    """Bind to an interface, or to all (0): its number. Python's own `bind` knows none without a name.

    Raises NotFound LM4052.
    """
    try:
        index = 0 if interface == ANY else socket.if_nametoindex(interface)
        place = struct.pack("=HHiHBB8x", socket.AF_PACKET, socket.htons(protocol), index, 0, 0, 0)
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.bind(sock.fileno(), place, len(place)) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    except OSError as err:
        raise NotFound("LM4052", interface=interface, reason=err.strerror or str(err)) from err
    return index
