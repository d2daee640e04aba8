"""How far this host's clock is from the server's, and the server's time by this clock.

A sample is the server's time in an answer against the middle of the call; half the call's length is how wrong it can
be. What is decided by the server's time is when to renew: certificates begin and end by it. Peers are verified by the
host's own clock: somebody who steers the server's answers must not be able to make an expired certificate good.
"""

from __future__ import annotations

import datetime as dt

from mesh.clock import Clock, format_time
from mesh.problems import Problem, Unavailable

_ZERO = dt.timedelta()
# a slower answer says nothing that an older one did not say better
MAX_CALL = dt.timedelta(seconds=5)


class ServerClock:
    """The server's time, as far as its answers told. ``skew`` is positive when this host's clock is fast."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.skew = _ZERO
        self.error = _ZERO
        self.is_known = False

    def now(self) -> dt.datetime:
        """The present moment at the server."""
        return self._clock.now() - self.skew

    def local(self) -> dt.datetime:
        """The present moment by this host's clock."""
        return self._clock.now()

    def misfit(self, begins: dt.datetime, ends: dt.datetime) -> Problem | None:
        """What to say of an SVID that was just issued and does not hold by this host's clock: both times."""
        here = self.local()
        if begins <= here < ends:
            return None
        return Unavailable(
            "LM3446",
            begin=format_time(begins),
            end=format_time(ends),
            here=format_time(here),
            server=format_time(self.now()),
        )

    def heard(self, server: dt.datetime, before: dt.datetime, after: dt.datetime) -> None:
        """Take an answer's time; the call began and ended at these moments by this host's clock.

        A call during which the clock was set, or that was slow, says nothing.
        """
        if not _ZERO <= after - before <= MAX_CALL:
            return
        self.skew = before + (after - before) / 2 - server
        self.error = (after - before) / 2
        self.is_known = True
