"""How well a proposal covers what comes next: bounds per session, per hour and per day, and what to expect.

Prequential: every unit is tested against what was known just before it. A unit that holds something new, or something
that the written proposal denies for whatever reason, counts as novel. The count begins anew with each version of the
callers and whenever a rule was taken back. Assumed, and printed beside the numbers: units are exchangeable.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from learner.bounds import chao2, clopper_pearson_bound, time_uniform_bound
from learner.history import Kind

MIN_DAYS = 2
MIN_HOURS = 2
CONFIDENCE = 0.95
_HOUR, _DAY = 60, 1440
Versions = Mapping[str, Sequence[tuple[str, float]]]
"""The versions of each caller, with the moment at which each was first seen; the one that runs comes last."""
ASSUMPTION = "sessions, hours and days to come are like those that were seen (exchangeable)"


@dataclasses.dataclass(frozen=True, slots=True)
class Unit:
    """A kind as the count needs it: what it is an instance of, and whether the written proposal denies it."""

    kind: Kind
    atom: tuple[str, ...]
    is_denied: bool


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Upper bounds for the next session, hour and day to hold something uncovered."""

    session: float
    hour: float
    day: float

    def to_json(self) -> dict[str, float]:
        """The public JSON form."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """What is known of one service's future. Probabilities hold with 95 %, under exchangeable units.

    ``often`` are the bounds that hold at every moment at once, however often somebody looks; ``once`` those for who
    looks one time. The sessions, days and novel ones are those since ``since`` (seconds since 1970); ``quiet_sessions``
    and ``quiet_days`` came after the last novel one.
    """

    sessions: int
    days: int
    often: Bounds
    once: Bounds
    expected_new_per_day: float
    kinds: int
    kinds_at_least: float
    since: float
    novel_sessions: int = 0
    counted_sessions: int = 0
    novel_days: int = 0
    counted_days: int = 0
    quiet_sessions: int = 0
    quiet_days: int = 0
    versions: tuple[tuple[str, float], ...] = ()

    @property
    def session_bound_95(self) -> float:
        """The bound of the next session."""
        return self.often.session

    @property
    def day_bound_95(self) -> float:
        """The bound of the next day."""
        return self.often.day

    @property
    def hour_bound_95(self) -> float:
        """The bound of the next hour."""
        return self.often.hour

    @property
    def more(self) -> int:
        """How many kinds there are at least that were not seen yet (Chao2, a lower bound)."""
        return max(0, math.floor(self.kinds_at_least) - self.kinds)


_UNKNOWN = Bounds(session=1.0, hour=1.0, day=1.0)


@dataclasses.dataclass(slots=True)
class Tally:
    """The sessions of some units by minute, those that were novel, and how many days each atom was seen on.

    Only each caller's current version counts, and ``begin`` (seconds since 1970) is when the last of them began.
    """

    counts: dict[int, int]
    novel: dict[int, int]
    spread: Counter[int]
    begin: float
    versions: dict[str, float]


def tally(units: Iterable[Unit], versions: Versions | None = None) -> Tally:
    """Count some units; ``versions`` are those of their callers, whomever else they call.

    1. The units are the sessions of each caller's current version.
    2. Novel are the first session of an atom, those before it was answered well, and ALL sessions that the proposal
       denies.
    3. What was never answered well is no kind of call that is to be expected: a scanner's guesses predict nothing.
    """
    found = list(units)
    known = versions_of(found) if versions is None else versions
    callers = {unit.kind.source for unit in found}
    # (1)
    current = {source: known[source][-1][0] for source in callers}
    # one caller's rollout begins the count of the service anew: what the others did before says nothing about it
    begin = max((known[name][-1][1] for name in callers if len(known[name]) > 1), default=float("-inf"))
    counts: dict[int, int] = {}
    novel: dict[int, int] = {}
    learned = _learned(found)
    days: defaultdict[tuple[str, ...], set[int]] = defaultdict(set)
    for unit in found:
        kind = unit.kind
        days[unit.atom] |= kind.days()
        if kind.version != current[kind.source]:
            continue
        for minute, number in kind.sessions.items():
            counts[minute] = counts.get(minute, 0) + number
        # (2)
        known_from = learned[unit.atom]
        if not unit.is_denied and kind.first > known_from:
            continue
        for minute, number in kind.sessions.items():
            if unit.is_denied or _until(minute) <= known_from:
                novel[minute] = novel.get(minute, 0) + number
            elif minute * 60 <= known_from:
                novel[minute] = novel.get(minute, 0) + 1
    # (3)
    spread = Counter(len(seen) for atom, seen in days.items() if math.isfinite(learned[atom]))
    return Tally(counts, novel, spread, begin, _running(known[name] for name in callers))


def together(tallies: Iterable[Tally]) -> Tally:
    """The tally of all: of several services, whose atoms differ."""
    found = Tally({}, {}, Counter(), float("-inf"), {})
    for item in tallies:
        for minute, number in item.counts.items():
            found.counts[minute] = found.counts.get(minute, 0) + number
        for minute, number in item.novel.items():
            found.novel[minute] = found.novel.get(minute, 0) + number
        found.spread.update(item.spread)
        found.begin = max(found.begin, item.begin)
        for name, first in item.versions.items():
            found.versions[name] = min(found.versions.get(name, first), first)
    return found


def measure(found: Tally, end: float, *, restart: float = float("-inf"), looks: int = 1) -> Coverage:
    """Measure what was watched of one service until ``end``.

    1. What is counted came since the current versions began, and since a rule was last taken back (``restart``).
    2. The later half is counted; when people look again and again (``looks``), from a doubling start that was fixed
       before, each with its share of the confidence.
    3. Hours and days run from the first session to the end of the watch; one is novel if a session in it is. Fewer than
       two say nothing about the next one: the bound is 1.
    4. New kinds per day: those seen on exactly one day, per day (incidence Good-Turing).
    """
    # (1)
    begin = max(restart, found.begin)
    counts, novel = found.counts, found.novel
    if math.isfinite(begin):
        counts = {minute: number for minute, number in counts.items() if _until(minute) > begin}
        novel = {minute: number for minute, number in novel.items() if minute in counts}
    if not counts:
        return Coverage(
            sessions=0, days=0, often=_UNKNOWN, once=_UNKNOWN, expected_new_per_day=0.0, kinds=0, kinds_at_least=0.0,
            since=begin if math.isfinite(begin) else end,
        )  # fmt: skip
    first = min(counts)
    last = max(*counts, int(end // 60))
    sessions = [(counts[minute], novel.get(minute, 0)) for minute in sorted(counts)]
    hours = _grouped(novel, first, last, _HOUR)
    days = _grouped(novel, first, last, _DAY)
    # (2), (3)
    session_k, session_m = _later_half(sessions)
    day_k, day_m = _later_half(days)
    hour_k, hour_m = _later_half(hours)
    if looks <= 1:
        often = Bounds(
            session=time_uniform_bound(session_k, session_m),
            hour=time_uniform_bound(hour_k, hour_m) if len(hours) >= MIN_HOURS else 1.0,
            day=time_uniform_bound(day_k, day_m) if len(days) >= MIN_DAYS else 1.0,
        )
    else:
        often = Bounds(session=_doubling(sessions, 1), hour=_doubling(hours, MIN_HOURS), day=_doubling(days, MIN_DAYS))
    once = Bounds(
        session=clopper_pearson_bound(session_k, session_m),
        hour=clopper_pearson_bound(hour_k, hour_m) if len(hours) >= MIN_HOURS else 1.0,
        day=clopper_pearson_bound(day_k, day_m) if len(days) >= MIN_DAYS else 1.0,
    )
    # (4)
    kinds = sum(found.spread.values())
    return Coverage(
        sessions=sum(counts.values()),
        days=len(days),
        often=often,
        once=once,
        expected_new_per_day=found.spread[1] / len(days),
        kinds=kinds,
        kinds_at_least=chao2(found.spread[1], found.spread[2], kinds, len(days)),
        since=first * 60.0,
        novel_sessions=session_k,
        counted_sessions=session_m,
        novel_days=day_k,
        counted_days=day_m,
        quiet_sessions=_quiet(sessions),
        quiet_days=_quiet(days),
        versions=tuple(sorted(found.versions.items())),
    )


def _until(minute: int) -> int:
    """When a minute ends, or the hour that it stands for."""
    return minute * 60 + (3600 if minute % 60 == 0 else 60)


def versions_of(units: Iterable[Unit]) -> Versions:
    """The versions of each caller with the moment that each was first seen, the one that runs last.

    That is the newest of those that were seen in the caller's last hour: a version that was rolled back runs no more.
    """
    spans: defaultdict[str, dict[str, tuple[float, float]]] = defaultdict(dict)
    for unit in units:
        kind, mine = unit.kind, spans[unit.kind.source]
        first, last = mine.get(kind.version, (kind.first, kind.last))
        mine[kind.version] = (min(first, kind.first), max(last, kind.last))
    found = {}
    for source, mine in spans.items():
        recent = max(last for _, last in mine.values()) - 3600
        rows = sorted(mine.items(), key=lambda item: (item[1][1] >= recent, item[1][0], item[0]))
        found[source] = [(version, first) for version, (first, _) in rows]
    return found


def _running(versions: Iterable[Sequence[tuple[str, float]]]) -> dict[str, float]:
    """The versions that run last, each with the moment at which it was first seen."""
    found: dict[str, float] = {}
    for rows in versions:
        name, first = rows[-1]
        if name:
            found[name] = min(found.get(name, first), first)
    return found


def _learned(units: Iterable[Unit]) -> Mapping[tuple[str, ...], float]:
    """When each atom was first answered well."""
    found: dict[tuple[str, ...], float] = {}
    for unit in units:
        found[unit.atom] = min(found.get(unit.atom, float("inf")), unit.kind.first_good)
    return found


def _grouped(novel: Mapping[int, int], first: int, last: int, size: int) -> list[tuple[int, int]]:
    """Hours or days as units: one each, and whether it holds a novel session."""
    hit = {minute // size for minute, number in novel.items() if number}
    return [(1, int(place in hit)) for place in range(first // size, last // size + 1)]


def _quiet(rows: list[tuple[int, int]]) -> int:
    """How many units came after the last row with a novel one."""
    quiet = 0
    for number, new in reversed(rows):
        if new:
            break
        quiet += number
    return quiet


def _later_half(rows: list[tuple[int, int]]) -> tuple[int, int]:
    """Novel and all units of the later half, by whole rows; all of them when that half would be less than a quarter."""
    return _from(rows, sum(number for number, _ in rows) // 2)


def _from(rows: list[tuple[int, int]], start: int) -> tuple[int, int]:
    total = sum(number for number, _ in rows)
    before = novel = counted = 0
    for number, new in rows:
        if before >= start:
            counted += number
            novel += min(new, number)
        before += number
    if counted * 4 < total:
        return sum(min(new, number) for number, new in rows), total
    return novel, counted


def _doubling(rows: list[tuple[int, int]], least: int) -> float:
    """The bound that holds at every moment, however often somebody looks: counted from a start that is fixed before.

    The start doubles with the number of units, so that it is known before the units that are counted from it. The
    confidence is shared out among the starts: 1/2, 1/6, 1/12, … of what may go wrong.
    """
    total = sum(number for number, _ in rows)
    if len(rows) < least or not total:
        return 1.0
    doubling = max(2, total.bit_length() - 1)
    start = 2 ** (doubling - 1) if total >= 4 else 0
    turn = doubling - 1
    novel, counted = _from(rows, start)
    return time_uniform_bound(novel, counted, 1.0 - (1.0 - CONFIDENCE) / (turn * (turn + 1)))
