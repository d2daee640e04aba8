"""What a caller may ask of the Workload API: so many streams at once, so many messages per time. Pure.

A caller is a process, and what a process may is a half of what its user may: one that asks too much leaves the other
processes of its user served, and a user who starts many leaves other users served.
"""

from __future__ import annotations

import dataclasses
from collections import Counter

MAX_STREAMS = 256
BURST = 1000.0
MESSAGES_PER_S = 200.0
SHARE = 0.5
_MAX_KNOWN = 4096
# a process, or a user by uid
_Holder = int | tuple[int, int]


@dataclasses.dataclass(slots=True)
class _Bucket:
    tokens: float
    at: float
    share: float

    def fill(self, now: float) -> float:
        self.tokens = min(BURST * self.share, self.tokens + (now - self.at) * MESSAGES_PER_S * self.share)
        self.at = now
        return self.tokens


class Budget:
    """Streams and messages of every process and of every user.

    ``process`` is its number and its start time; ``now`` is any clock that never goes back, in seconds.
    """

    def __init__(self) -> None:
        self._streams: Counter[_Holder] = Counter()
        self._buckets: dict[_Holder, _Bucket] = {}

    def take_stream(self, uid: int, process: tuple[int, int]) -> bool:
        """Begin a stream; False when the process, or its user, holds all that it may."""
        if self._streams[process] >= MAX_STREAMS * SHARE or self._streams[uid] >= MAX_STREAMS:
            return False
        self._streams.update((uid, process))
        return True

    def give_stream(self, uid: int, process: tuple[int, int]) -> None:
        """A stream ended."""
        for holder in (uid, process):
            self._streams[holder] -= 1
            if self._streams[holder] <= 0:
                del self._streams[holder]

    def take_message(self, uid: int, process: tuple[int, int], now: float) -> bool:
        """Take a message; False when the process, or its user, sent too many of late."""
        buckets = [self._bucket(process, SHARE, now), self._bucket(uid, 1.0, now)]
        # what the one refuses is not taken from the other
        if min(found.fill(now) for found in buckets) < 1:
            return False
        for found in buckets:
            found.tokens -= 1
        return True

    def _bucket(self, holder: _Holder, share: float, now: float) -> _Bucket:
        found = self._buckets.get(holder)
        if found is None:
            if len(self._buckets) >= _MAX_KNOWN:
                self._forget_full(now)
            found = self._buckets[holder] = _Bucket(BURST * share, now, share)
        return found

    def _forget_full(self, now: float) -> None:
        # a full bucket says no more than none
        for holder, found in list(self._buckets.items()):
            if found.fill(now) >= BURST * found.share:
                del self._buckets[holder]
