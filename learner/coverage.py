"""How well a proposal covers what comes next: bounds per session and per day, and what to expect (prequential).

Every unit is tested against what was known just before it. A unit that holds something new, or something that the
written proposal denies for whatever reason, counts as novel. The second half of the units is counted.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections import Counter, defaultdict
from collections.abc import Sequence

from learner.bounds import chao2, time_uniform_bound
from learner.sessions import Atom, Session

MIN_DAYS = 2


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """What is known of one service's future. Probabilities hold with 95 %, under exchangeable units."""

    sessions: int
    days: int
    session_bound_95: float
    day_bound_95: float
    expected_new_per_day: float
    kinds_at_least: float


def measure(sessions: Sequence[Session]) -> Coverage:
    """Measure the sessions of one service, in time order.

    1. Each session is novel if its atom was not seen before, or the proposal denies it; the last half is counted.
    2. Days are UTC dates that were watched from the first to the last; a day is novel if a session in it is. Fewer
       than two days say nothing about the next one: the bound is 1.
    3. New kinds per day: those seen on exactly one day, per day (incidence Good-Turing).
    """
    if not sessions:
        return Coverage(
            sessions=0, days=0, session_bound_95=1.0, day_bound_95=1.0, expected_new_per_day=0.0, kinds_at_least=0.0
        )
    # (1)
    seen: set[Atom] = set()
    novel = []
    for session in sessions:
        novel.append(session.is_denied or session.atom not in seen)
        seen.add(session.atom)
    half = len(novel) // 2
    counted = novel[half:]
    # (2)
    first, last = sessions[0].start.date(), sessions[-1].start.date()
    span = (last - first).days + 1
    novel_days: set[dt.date] = {session.start.date() for session, new in zip(sessions, novel, strict=True) if new}
    days = [first + dt.timedelta(days=number) for number in range(span)]
    counted_days = days[len(days) // 2 :]
    day_bound = 1.0
    if span >= MIN_DAYS:
        day_bound = time_uniform_bound(sum(day in novel_days for day in counted_days), len(counted_days))
    # (3)
    on_days: defaultdict[Atom, set[dt.date]] = defaultdict(set)
    for session in sessions:
        on_days[session.atom].add(session.start.date())
    spread = Counter(len(found) for found in on_days.values())
    return Coverage(
        sessions=len(sessions),
        days=span,
        session_bound_95=time_uniform_bound(sum(counted), len(counted)),
        day_bound_95=day_bound,
        expected_new_per_day=spread[1] / span,
        kinds_at_least=chao2(spread[1], spread[2], len(on_days), span),
    )
