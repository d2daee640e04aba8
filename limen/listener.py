"""A listening socket that counts: so many connections in all, and so many from one address, from accept to close.

A connection beyond that is closed at once, before a handshake costs anything; so is one of an address that connects too
often. Both are counted, in all and never by address. asyncio calls `accept` and closes what it got, so the count of
those that are open holds whatever becomes of a connection. This module reads no byte.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections import Counter
from typing import Any

import prometheus_client

from limen.limits import PeerLimits, peer_name

MOST = 1024
# agents behind one address use these ports to join, not to stay
MOST_OF_ONE = 128
_REFUSED = prometheus_client.Counter(
    "limen_server_refused_connections",
    "Connections that were closed before a handshake: too many at a time, or too often from one address.",
    ["port", "reason"],
)


class Counted(socket.socket):
    """A connection that gives back its place once: when it is closed, or when its peer is known."""

    def __init__(self, other: socket.socket, open_: Counter[str], peer: str) -> None:
        super().__init__(other.family, other.type, other.proto, other.detach())
        self._open, self._peer, self._is_counted = open_, peer, True
        open_[peer] += 1

    def close(self) -> None:
        """Close, and give back the place."""
        super().close()
        self.give_back()

    def give_back(self) -> None:
        """Give back the place, and stay open."""
        if self._is_counted:
            self._is_counted = False
            self._open[self._peer] -= 1
            if self._open[self._peer] <= 0:
                del self._open[self._peer]


class CountingListener(socket.socket):
    """A TCP socket whose `accept` holds to the limits.

    ``often`` says how often one address may connect; ``port`` is what the port is called in metrics.
    """

    def __init__(
        self,
        family: socket.AddressFamily,
        *,
        most: int = MOST,
        most_of_one: int = MOST_OF_ONE,
        often: PeerLimits | None = None,
        port: str = "",
    ) -> None:
        # asyncio turns Nagle's algorithm off only where the protocol is named; with it on, each answer waits 40 ms
        super().__init__(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self._most, self._most_of_one, self._often = most, most_of_one, often
        self._open: Counter[str] = Counter()
        self._refused = {reason: _REFUSED.labels(port, reason) for reason in ("many", "often")}

    @property
    def connections(self) -> int:
        """How many connections hold a place."""
        return self._open.total()

    def accept(self) -> tuple[socket.socket, Any]:
        """Accept a connection.

        Raises ConnectionAbortedError for one beyond the limits; asyncio goes on with the next one.
        """
        found, address = super().accept()
        peer = peer_name(str(address[0]))
        reason = ""
        if self._open.total() >= self._most or self._open[peer] >= self._most_of_one:
            reason = "many"
        elif self._often is not None and not self._often.take(str(address[0]), time.monotonic()):
            reason = "often"
        if reason:
            self._refused[reason].inc()
            with contextlib.suppress(OSError):
                found.close()
            raise ConnectionAbortedError("too many connections")
        return Counted(found, self._open, peer), address
