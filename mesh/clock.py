"""Where the time comes from: one protocol, the system's clock, and a clock that tests move by hand.

Core functions take ``now`` as an argument; only rims hold a `Clock`. This module never sleeps.
"""

from __future__ import annotations

import datetime as dt
import functools
import re
import time
from typing import Protocol

# RFC 3339 §5.6; Python alone would also read weeks, basic forms and any separator
_TIMESTAMP = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,9})?(?:[Zz]|[+-][0-9]{2}:[0-9]{2})\Z"
)


class Clock(Protocol):
    """A source of the present moment, always aware and in UTC."""

    def now(self) -> dt.datetime:
        """Return the present moment in UTC."""
        ...


class SystemClock:
    """The wall clock of this machine (wall, not monotonic: a suspended laptop must see expiry)."""

    def now(self) -> dt.datetime:
        """Return the present moment in UTC."""
        return dt.datetime.fromtimestamp(time.time(), tz=dt.UTC)  # noqa: TID251  the one door


class ManualClock:
    """A clock that stands still until it is told to move."""

    def __init__(self, start: dt.datetime) -> None:
        if start.tzinfo is None:
            raise ValueError("a clock starts at an aware time")
        self._now = start.astimezone(dt.UTC)

    def now(self) -> dt.datetime:
        """Return the moment the clock was last set to."""
        return self._now

    def advance(self, by: dt.timedelta) -> None:
        """Move the clock, forwards or (a negative step) backwards."""
        self._now += by


def parse_time(text: str) -> dt.datetime:
    """Read an RFC 3339 timestamp with an offset and return it in UTC.

    Raises ValueError when the text has no offset or is no timestamp, or is a moment before the year 1 or after 9999.
    """
    if not _TIMESTAMP.match(text):
        raise ValueError("a timestamp needs a date, a time and an offset (RFC 3339)")
    try:
        return dt.datetime.fromisoformat(text.upper()).astimezone(dt.UTC)
    except OverflowError as err:
        raise ValueError("a timestamp is of the years 1 to 9999 in UTC") from err


# a batch of records says the same moments over and over
@functools.lru_cache(maxsize=256)
def format_time(moment: dt.datetime) -> str:
    """Write a moment as RFC 3339 in UTC with microseconds and a final ``Z``."""
    return moment.astimezone(dt.UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"
