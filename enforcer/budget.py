"""What one user may ask of the Workload API: so many streams at once, so many messages per time. Pure."""

from __future__ import annotations

import dataclasses
from collections import Counter

MAX_STREAMS = 256
BURST = 1000.0
MESSAGES_PER_S = 200.0
_MAX_USERS = 4096


@dataclasses.dataclass(slots=True)
class _Bucket:
    tokens: float
    at: float


class Budget:
    """Streams and messages of every user, by uid. ``now`` is any clock that never goes back, in seconds."""

    def __init__(self) -> None:
        self._streams: Counter[int] = Counter()
        self._buckets: dict[int, _Bucket] = {}

    def take_stream(self, uid: int) -> bool:
        """Begin a stream; False when the user holds all that a user may."""
        if self._streams[uid] >= MAX_STREAMS:
            return False
        self._streams[uid] += 1
        return True

    def give_stream(self, uid: int) -> None:
        """A stream ended."""
        self._streams[uid] -= 1
        if self._streams[uid] <= 0:
            del self._streams[uid]

    def take_message(self, uid: int, now: float) -> bool:
        """Take a message; False when the user sent too many of late."""
        found = self._buckets.get(uid)
        if found is None:
            if len(self._buckets) >= _MAX_USERS:
                self._forget_full(now)
            found = self._buckets[uid] = _Bucket(BURST, now)
        found.tokens = min(BURST, found.tokens + (now - found.at) * MESSAGES_PER_S)
        found.at = now
        if found.tokens < 1:
            return False
        found.tokens -= 1
        return True

    def _forget_full(self, now: float) -> None:
        # a full bucket says no more than none
        for uid, found in list(self._buckets.items()):
            if found.tokens + (now - found.at) * MESSAGES_PER_S >= BURST:
                del self._buckets[uid]
