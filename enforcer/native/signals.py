"""What a sidecar counts for Prometheus: requests, their durations, connections, handshakes, bytes, what it shed.

Counts are handed over as what was added since the last time, so that they add up whatever number of sidecars stand
beside a workload, one after the other or at once. Everything is bounded: callers beyond the first so many count
together as `other`. This module sends nothing and asks no clock.
"""

from __future__ import annotations

import bisect
import collections

MAX_CALLERS = 32
OTHER = "other"
# upper bounds in seconds; what is longer counts in the last bucket alone
BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Traffic:
    """The mutual TLS side of connections in one direction: bytes as they are on the wire, and how many are open."""

    __slots__ = ("open", "received", "sent")

    def __init__(self) -> None:
        self.received = self.sent = self.open = 0

    def take(self) -> list[int]:
        """What came and went since the last time."""
        found = [self.received, self.sent]
        self.received = self.sent = 0
        return found


class Signals:
    """The counts of one sidecar."""

    def __init__(self) -> None:
        self.inbound, self.outbound = Traffic(), Traffic()
        self._callers: set[str] = set()
        self._requests: collections.Counter[tuple[int, str, str, str]] = collections.Counter()
        self._durations = [0] * (len(BUCKETS_S) + 1)
        self._seconds = 0.0
        self._told_open = [0, 0]
        self._handshakes: collections.Counter[tuple[str, str]] = collections.Counter()
        self._shed: collections.Counter[str] = collections.Counter()

    def request(self, port: int, caller: str, outcome: str, status: int | None, seconds: float | None) -> None:
        """Count a request, or at L4 a connection; ``status`` is None for what got no answer.

        ``outcome`` is allowed, denied, or refused before anybody decided. Without ``seconds`` it has no duration.
        """
        if caller not in self._callers:
            if len(self._callers) < MAX_CALLERS:
                self._callers.add(caller)
            else:
                caller = OTHER
        self._requests[port, caller, outcome, "none" if status is None else f"{status // 100}xx"] += 1
        if seconds is not None:
            self._durations[bisect.bisect_left(BUCKETS_S, seconds)] += 1
            self._seconds += seconds

    def handshake(self, direction: str, code: str = "") -> None:
        """Count a handshake that succeeded, or failed with a code."""
        self._handshakes[direction, code] += 1

    def shed(self, code: str, count: int = 1) -> None:
        """Count what was not taken on for want of room."""
        self._shed[code] += count

    def tell_again(self) -> None:
        """Say anew how many connections are open, to somebody who does not know."""
        self._told_open = [-1, -1]

    def take(self) -> dict[str, object] | None:
        """What was added since the last time; None where nothing was."""
        inbound, outbound, is_open = self.inbound.take(), self.outbound.take(), [self.inbound.open, self.outbound.open]
        counted = self._requests or self._handshakes or self._shed or any(inbound) or any(outbound)
        if not counted and is_open == self._told_open:
            return None
        self._told_open = is_open
        found: dict[str, object] = {
            "requests": [[*key, count] for key, count in self._requests.items()],
            "durations": self._durations,
            "seconds": self._seconds,
            "handshakes": [[*key, count] for key, count in self._handshakes.items()],
            "shed": [[code, count] for code, count in self._shed.items()],
            "open": is_open,
            "bytes": [["inbound", *inbound], ["outbound", *outbound]],
        }
        self._requests.clear()
        self._handshakes.clear()
        self._shed.clear()
        self._durations = [0] * (len(BUCKETS_S) + 1)
        self._seconds = 0.0
        return found
