"""Moments as records have them: the text of one, and the ten letters that a ULID begins with.

Many records are made in one second, and share all but the last digits. This module reads no clock.
"""

from __future__ import annotations

import datetime as dt

from mesh.clock import format_time
from mesh.ulid import PAIRS, time_letters

_UTC = dt.UTC
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=_UTC)
_SECOND = dt.timedelta(seconds=1)
_THREE = tuple(f"{number:03d}" for number in range(1000))
_FRACTION = len("000000Z")
_LOW = len(PAIRS) - 1


class Moments:
    """Writes moments, and remembers what those of the second that it wrote last share."""

    def __init__(self) -> None:
        self._begin = self._end = _EPOCH
        self._text = ""
        # of the second's first millisecond: its lowest ten bits, and the letters above them before and after these
        # ten bits ran over
        self._low, self._high, self._next = 0, "", ""

    def write(self, now: dt.datetime) -> tuple[str, str]:
        """The letters that a ULID of a moment begins with, and the moment as `format_time` writes it.

        Raises ValueError for a moment outside 1970 to 9999.
        """
        if now.tzinfo is not _UTC:
            now = now.astimezone(_UTC)
        if not self._begin <= now < self._end:
            self._turn(now)
        microsecond = now.microsecond
        millisecond = microsecond // 1000
        low = self._low + millisecond
        letters = self._high + PAIRS[low] if low <= _LOW else self._next + PAIRS[low & _LOW]
        return letters, f"{self._text}{_THREE[millisecond]}{_THREE[microsecond - 1000 * millisecond]}Z"

    def _turn(self, now: dt.datetime) -> None:
        begin = now.replace(microsecond=0)
        milliseconds = (begin - _EPOCH) // _SECOND * 1000
        self._high, self._next = time_letters(milliseconds)[:-2], time_letters(milliseconds + len(PAIRS))[:-2]
        self._low, self._text = milliseconds & _LOW, format_time(begin)[:-_FRACTION]
        # the last second that there is has no end
        self._begin, self._end = begin, begin + min(_SECOND, dt.datetime.max.replace(tzinfo=_UTC) - begin)
