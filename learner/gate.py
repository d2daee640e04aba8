"""Whether a service is ready to be enforced: green, amber or red, with the reasons and with what would make it green.

Green asks for evidence, not for time on a clock. Red is what nobody can speak about yet. This module enforces nothing.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Literal

from learner.bounds import clopper_pearson_bound, time_uniform_bound
from learner.coverage import Coverage

MAX_SESSION = 1e-3
MAX_DAY = 0.2
MIN_SESSIONS = 100
RED_SESSION = 0.05

Colour = Literal["green", "amber", "red"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """The verdict on a service."""

    colour: Colour
    reasons: tuple[str, ...]
    to_green: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        """The public JSON form."""
        return {"colour": self.colour, "reasons": list(self.reasons), "what_would_make_it_green": list(self.to_green)}


def judge(coverage: Coverage, looks: int, schedules: Sequence[str], *, has_second_sensor: bool) -> Gate:
    """Judge a service.

    1. Red: nothing was watched, less than two days were, or the next session is uncovered with more than 5 %.
    2. Green: the next session is uncovered with at most 0.1 %, the next day holds something uncovered with at most
       20 %, no declared schedule is unseen, a second kind of sensor was compared, and the callers' current versions
       were seen in at least 100 sessions.
    3. Amber: everything else.

    Who looks once is judged by the exact bound, who looks again and again by the one that holds at every moment.
    """
    bounds = coverage.once if looks <= 1 else coverage.often
    reasons: list[str] = []
    to_green: list[str] = []
    if coverage.sessions < MIN_SESSIONS:
        reasons.append(f"{coverage.sessions} sessions of the current versions were seen; {MIN_SESSIONS} are needed")
        to_green.append(f"{MIN_SESSIONS - coverage.sessions} more sessions")
    if bounds.session > MAX_SESSION:
        reasons.append(f"the next session is uncovered with up to {bounds.session:.2%}; {MAX_SESSION:.1%} is the limit")
        to_green.append(_sessions(coverage, looks))
    if coverage.days < 2:
        reasons.append("less than two days were watched")
    if bounds.day > MAX_DAY:
        if coverage.days >= 2:
            text = f"the next day holds something uncovered with up to {bounds.day:.0%}; {MAX_DAY:.0%} is the limit"
            reasons.append(text)
        to_green.append(_days(coverage, looks))
    for text in schedules:
        reasons.append(text)
        to_green.append("one run of each declared schedule seen, or its declaration taken back")
    if not has_second_sensor:
        reasons.append("one kind of sensor alone watched: what it cannot see, nobody knows")
        to_green.append("flows of a second kind of sensor for the same time")
    is_red = not coverage.sessions or coverage.days < 2 or bounds.session > RED_SESSION
    colour: Colour = "red" if is_red else "amber" if reasons else "green"
    return Gate(colour=colour, reasons=tuple(reasons), to_green=tuple(dict.fromkeys(to_green)))


@functools.cache
def _needed(limit: float, looks: int) -> int:
    """How many quiet units in a row give a bound of at most ``limit``."""
    low, high = 1, 1
    bound = clopper_pearson_bound if looks <= 1 else time_uniform_bound
    while bound(0, high) > limit:
        high *= 2
    while low < high:
        middle = (low + high) // 2
        if bound(0, middle) > limit:
            low = middle + 1
        else:
            high = middle
    return high


def _more(total: int, quiet: int, needed: int) -> int:
    """How many quiet units more make the later half hold ``needed`` quiet ones and nothing else."""
    loud = total - quiet
    return max(2 * max(needed, loud) - total, needed - quiet, 1)


def _sessions(coverage: Coverage, looks: int) -> str:
    more = _more(coverage.sessions, coverage.quiet_sessions, _needed(MAX_SESSION, looks))
    return f"about {more:,} more sessions without anything new"


def _days(coverage: Coverage, looks: int) -> str:
    more = _more(coverage.days, coverage.quiet_days, _needed(MAX_DAY, looks))
    return f"about {more} more days without anything new"
