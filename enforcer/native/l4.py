"""Joins two streams: whatever one receives the other sends, each direction with its own end and back-pressure.

At this tier nobody looks at the bytes. The decision was made before the two were joined; whoever made it closes
the pair when it no longer holds.
"""

from __future__ import annotations

from collections.abc import Callable

from enforcer.native.stream import Stream


class _Half:
    """Reads one stream for the other."""

    __slots__ = ("_has_ended", "_pair", "_side", "_source", "_target")

    def __init__(self, pair: Splice, source: Stream, target: Stream, side: int) -> None:
        self._pair, self._source, self._target, self._side = pair, source, target, side
        self._has_ended = False

    def received(self, data: bytes) -> None:
        self._pair.moved[self._side] += len(data)
        self._target.write(data)

    def ended(self) -> None:
        if not self._has_ended:
            self._has_ended = True
            self._target.write_eof()
            self._pair.half_ended()

    def lost(self) -> None:
        self._pair.lost()

    def writable(self, *, ready: bool) -> None:
        if ready:
            self._target.resume()
        else:
            self._target.pause()


class Splice:
    """Two joined streams. ``done`` hears once when both are gone.

    A direction that ends is ended on the other side; when both have ended, both streams are closed. A stream that
    is lost before that takes the other with it, so that neither program waits for a peer that is gone. ``moved`` says
    how many bytes came from the left, and from the right.
    """

    __slots__ = ("_done", "_ends", "_left", "_right", "moved")

    def __init__(self, left: Stream, right: Stream, done: Callable[[Splice], None]) -> None:
        self._left, self._right = left, right
        self._done: Callable[[Splice], None] | None = done
        self._ends = 0
        self.moved = [0, 0]
        left.sink = _Half(self, left, right, 0)
        right.sink = _Half(self, right, left, 1)

    def half_ended(self) -> None:
        """Count an ended direction; the second one closes both streams."""
        self._ends += 1
        if self._ends == 2:
            self._left.close()
            self._right.close()

    def lost(self) -> None:
        """Let go of both streams once one of them is lost."""
        done, self._done = self._done, None
        if done is None:
            return
        if self._ends < 2:
            self.abort()
        done(self)

    def abort(self) -> None:
        """Close both streams at once."""
        self._left.abort()
        self._right.abort()
