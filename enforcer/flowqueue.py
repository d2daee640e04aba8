"""Flows that wait to be pushed, oldest first: so many at most, and small, since a host that is cut off has many.

Rows are JSON texts, which resemble each other: what waits behind the next few portions is compressed, to a tenth and
less. Pure.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Iterable

PORTION = 1_000
_LEVEL = 1


class FlowQueue:
    """Rows without line feeds; the oldest go when there are more than ``most``."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._next: deque[bytes] = deque()
        self._packed: deque[bytes] = deque()
        self._newest: list[bytes] = []
        self._count = 0

    def __len__(self) -> int:
        """How many wait."""
        return self._count

    @property
    def packed_bytes(self) -> int:
        """How many bytes those that are compressed take."""
        return sum(map(len, self._packed))

    def extend(self, rows: Iterable[bytes]) -> None:
        """Put rows behind all others."""
        for row in rows:
            self._newest.append(row)
            self._count += 1
            if len(self._newest) == PORTION:
                self._packed.append(zlib.compress(b"\n".join(self._newest), _LEVEL))
                self._newest = []
        for _ in range(self._count - self._most):
            self._pop()

    def take(self, most: int) -> list[bytes]:
        """Take the oldest away, so many at most."""
        return [self._pop() for _ in range(min(most, self._count))]

    def _pop(self) -> bytes:
        if not self._next and self._packed:
            self._next.extend(zlib.decompress(self._packed.popleft()).split(b"\n"))
        elif not self._next:
            self._next.extend(self._newest)
            self._newest = []
        self._count -= 1
        return self._next.popleft()
