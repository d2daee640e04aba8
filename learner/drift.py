"""Where policies and traffic have parted: new access, access that vanished, and access that was never used.

A rule is judged by how often it is known to be used: one that is used monthly is not unused after two weeks, and the
report says until when to wait. Unused allows are tightened after a stated time. Nothing is applied by itself.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from learner.history import History, Kind, moment
from learner.judge import Judge
from learner.propose import Lesson
from learner.revise import Tightening
from learner.schedules import Schedule
from mesh.clock import format_time, parse_time
from mesh.request import Effect
from mesh.spiffe import SpiffeId
from policyengine.canonical import Ambiguous, canonical_path
from policyengine.ir import Grant
from policyengine.model import Operation

DAY_S = 86_400.0
UNUSED_AFTER_DAYS = 30
PATIENCE = 2.0
"""A rule is missed after so many times the longest pause that is known of it."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class New:
    """Access that was used, and that the policies do not allow."""

    source: str
    destination: str
    service: str
    port: int
    method: str
    path: str
    sessions: int
    first: str
    last: str
    reason: str

    def to_json(self) -> dict[str, object]:
        """The public JSON form."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Old:
    """A rule, or paths of it, that was not used; ``last`` is empty when nobody knows of any use.

    ``period_days`` is the longest pause between uses that is known; ``tighten_after`` the moment from which on it is
    tightened, ``is_due`` whether that has come.
    """

    policy: str
    rule: str
    service: str
    sources: tuple[str, ...]
    paths: tuple[str, ...]
    last: str
    period_days: int
    quiet_days: int
    tighten_after: str
    is_due: bool
    reason: str

    def to_json(self) -> dict[str, object]:
        """The public JSON form."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """The report. Only ``new``, ``vanished`` and ``never_used`` are drift; ``waiting`` is too early to say."""

    watched_days: float
    first: str
    last: str
    new: tuple[New, ...]
    vanished: tuple[Old, ...]
    never_used: tuple[Old, ...]
    waiting: tuple[Old, ...]
    suspicious: tuple[New, ...]
    uncertain: tuple[New, ...]

    @property
    def has_findings(self) -> bool:
        """Whether policies and traffic have parted."""
        return bool(self.new or self.vanished or self.never_used or self.suspicious)

    def tightenings(self) -> Iterator[Tightening]:
        """What is to be tightened by now."""
        for item in (*self.vanished, *self.never_used):
            if item.is_due:
                yield Tightening(item.policy, item.rule, item.service, item.reason, item.paths or None)

    def to_json(self) -> dict[str, object]:
        """The public JSON form."""
        return {
            "drift": self.has_findings,
            "watched": {"first": self.first, "last": self.last, "days": round(self.watched_days, 3)},
            **{
                name: [item.to_json() for item in getattr(self, name)]
                for name in ("new", "vanished", "never_used", "waiting", "suspicious", "uncertain")
            },
        }


LISTS = ("new", "suspicious", "uncertain", "vanished", "never_used", "waiting")
"""The lists of a report, drift or not."""


def counts_of(found: Drift) -> dict[str, int]:
    """How much of each there is."""
    return {name: len(getattr(found, name)) for name in LISTS}


def find_drift(
    history: History,
    lesson: Lesson,
    judge: Judge,
    schedules: Sequence[Schedule] = (),
    unused_after_days: int = UNUSED_AFTER_DAYS,
) -> Drift:
    """Compare a tree with what was watched.

    1. New: answered well, not quarantined, and not allowed. What is quarantined is listed apart, with the reason; so is
       what hangs on conditions that no flow records.
    2. Every allow, and each path of it, is looked for among what was answered well.
    3. Used once and silent for longer than twice the longest pause that is known of it: vanished.
    4. Never used, as far as rule and traffic know: never used, unless a schedule of the caller explains the silence.
    5. Tightened is what was watched in silence for the stated time, and for twice the known pause.
    """
    # (1)
    new, suspicious, uncertain = _news(history, lesson, judge)
    # (2), (3), (4), (5)
    look = _Look(history, schedules, unused_after_days)
    olds: dict[str, list[Old]] = {"vanished": [], "never": [], "waiting": []}
    for service, grant, paths, used in _allows(history, judge):
        verdict = look.at(grant, service, paths, used)
        if verdict is not None:
            olds[verdict[0]].append(verdict[1])
    return Drift(
        watched_days=look.watched_s / DAY_S,
        first=format_time(moment(history.first)),
        last=format_time(moment(history.last)),
        new=tuple(new),
        vanished=tuple(olds["vanished"]),
        never_used=tuple(olds["never"]),
        waiting=tuple(olds["waiting"]),
        suspicious=tuple(suspicious),
        uncertain=tuple(uncertain),
    )


def _news(history: History, lesson: Lesson, judge: Judge) -> tuple[list[New], list[New], list[New]]:
    """What was answered well and is not allowed: new, suspicious, and hanging on conditions (step 1)."""
    good = {kind.key for kind in lesson.kinds}
    new: list[New] = []
    suspicious: list[New] = []
    uncertain: list[New] = []
    reasons = {(item.source, item.destination, item.port): item.reason for item in lesson.suspicion.quarantined}
    for rows in _alike(history, lesson):
        kind = rows[0]
        found = judge(kind)
        if found.is_allowed or kind.protocol == "udp":
            continue
        if found.is_uncertain:
            uncertain.append(_new(rows, lesson, judge, "a condition decides, and no flow records it"))
        elif any(row.key in good for row in rows):
            why = "no rule allows it" if not found.rule else f"rule {found.policy}/{found.rule} denies it"
            new.append(_new(rows, lesson, judge, why))
        elif kind.is_attributed:
            suspicious.append(_new(rows, lesson, judge, reasons.get(kind.edge, "path probing")))
    return new, suspicious, uncertain


def _allows(history: History, judge: Judge) -> Iterator[tuple[str, Grant, tuple[str, ...], list[Kind]]]:
    """Every allow of the tree with its uses, and the paths of those that are used which are not (step 2)."""
    by_service: defaultdict[str, list[Kind]] = defaultdict(list)
    for kind in history.kinds.values():
        if kind.good and kind.is_attributed:
            named = judge.policies.service_for(kind.destination)
            if named is not None:
                by_service[named.name].append(kind)
    for service in judge.policies.services:
        form = judge.form(service.name)
        for grant in form.grants:
            if grant.effect is Effect.ALLOW and grant.source is not None and grant.until is None:
                for paths, used in _uses(grant, by_service[service.name], service.path_case == "insensitive"):
                    yield service.name, grant, paths, used


class _Look:
    """One look at the rules: what was watched, and how long silence has to last."""

    def __init__(self, history: History, schedules: Sequence[Schedule], unused_after_days: int) -> None:
        self._first, self._last = history.first, history.last
        self.watched_s = max(0.0, history.last - history.first)
        self._schedules = schedules
        self._after_s = unused_after_days * DAY_S

    def at(self, grant: Grant, service: str, paths: tuple[str, ...], used: Sequence[Kind]) -> tuple[str, Old] | None:
        """What silence says about a grant or some of its paths (steps 3 to 5); None for what is in use."""
        evidence = _evidence(grant)
        known_last = _seconds(evidence.get("last")) if not paths or used else None
        last = max((kind.last_good for kind in used), default=known_last)
        period = self._period(grant, evidence, paths, used)
        quiet = min(self.watched_s, self._last - last) if last is not None else self.watched_s
        patience = PATIENCE * period * DAY_S
        due_at = (self._first if last is None else max(self._first, last)) + max(self._after_s, patience)
        is_due = quiet >= max(self._after_s, patience)

        def old(reason: str) -> Old:
            return Old(
                policy=grant.policy,
                rule=grant.rule,
                service=service,
                sources=tuple(str(pattern) for pattern in grant.callers.patterns) or ("any",),
                paths=paths,
                last="" if last is None else format_time(moment(last)),
                period_days=period,
                quiet_days=int(quiet // DAY_S),
                tighten_after=format_time(moment(due_at)),
                is_due=is_due,
                reason=reason,
            )

        is_quiet_long = period > 0 and quiet >= max(patience, DAY_S)
        if used and not (is_quiet_long or is_due):
            return None
        days = f"{quiet / DAY_S:.0f} days"
        if last is not None and (is_quiet_long or is_due):
            return "vanished", old(f"last used {moment(last):%F}, and silent for {days}")
        if last is not None or (period > 0 and not is_due):
            text = f"used about every {period} days" if period else "used once, so how often is not known"
            return "waiting", old(f"{text}; {days} of silence say nothing yet: look again after {moment(due_at):%F}")
        return "never", old(f"no use is known, and none was seen in {days}")

    def _period(
        self, grant: Grant, evidence: Mapping[str, object], paths: tuple[str, ...], used: Sequence[Kind]
    ) -> int:
        """The longest pause between two uses that is known: by evidence, by what was seen, and by schedules."""
        found = [0]
        days = sorted(set().union(*(kind.days() for kind in used)))
        found += [later - day for day, later in itertools.pairwise(days)]
        if paths:
            evidence = {}  # it speaks of the whole rule
        gap, count = evidence.get("longest_gap_days"), evidence.get("days")
        first, last = _seconds(evidence.get("first")), _seconds(evidence.get("last"))
        if isinstance(gap, int):
            found.append(gap)
        if isinstance(count, int) and count > 1 and first is not None and last is not None:
            found.append(round((last - first) / DAY_S / (count - 1)))
        callers = [str(pattern) for pattern in grant.callers.patterns]
        found += [
            item.period_days
            for item in self._schedules
            for caller in callers
            if item.speaks_of(caller, item.destination)
        ]
        return max(found)


def _alike(history: History, lesson: Lesson) -> Iterator[list[Kind]]:
    """What was answered well, one list for each atom, versions of the caller together."""
    rows: defaultdict[tuple[str, ...], list[Kind]] = defaultdict(list)
    for kind in history.kinds.values():
        if kind.good:
            template = lesson.template(kind) or kind.shape
            rows[kind.source, kind.destination, str(kind.port), kind.protocol, kind.method, template].append(kind)
    for _, found in sorted(rows.items()):
        yield found


def _new(rows: Sequence[Kind], lesson: Lesson, judge: Judge, reason: str) -> New:
    kind = rows[0]
    service = judge.policies.service_for(kind.destination) if kind.has_destination else None
    return New(
        source=kind.source,
        destination=kind.destination,
        service="" if service is None else service.name,
        port=kind.port,
        method=kind.method,
        path=lesson.template(kind) or kind.path,
        sessions=sum(sum(row.sessions.values()) for row in rows),
        first=format_time(moment(min(row.first_good for row in rows))),
        last=format_time(moment(max(row.last_good for row in rows))),
        reason=reason,
    )


def _uses(grant: Grant, kinds: Iterable[Kind], ignores_case: bool) -> Iterator[tuple[tuple[str, ...], list[Kind]]]:  # noqa: FBT001
    """The uses of a whole grant, and, where it is used, the paths of it that are not."""
    mine = [kind for kind in kinds if grant.callers.contains(SpiffeId.parse(kind.source))]
    used: list[Kind] = []
    idle: list[str] = []
    for operation in grant.operations:
        fitting = [kind for kind in mine if _fits(operation, kind)]
        for path in operation.paths or ():
            hits = [kind for kind in fitting if _matches(path, kind, ignores_case)]
            used += hits
            if not hits:
                idle.append(str(path))
        if operation.paths is None:
            used += fitting
    yield (), used
    still = {str(path) for operation in grant.operations for path in operation.paths or ()} - set(idle)
    if used and (gone := tuple(path for path in dict.fromkeys(idle) if path not in still)):
        yield gone, []


def _fits(operation: Operation, kind: Kind) -> bool:
    if operation.ports is not None and kind.port not in operation.ports:
        return False
    return operation.methods is None or kind.method in operation.methods


def _matches(path: object, kind: Kind, ignores_case: bool) -> bool:  # noqa: FBT001
    found = canonical_path(kind.path, "insensitive" if ignores_case else "sensitive")
    return not isinstance(found, Ambiguous) and bool(path.matches(found.segments))  # type: ignore[attr-defined]


def _evidence(grant: Grant) -> dict[str, object]:
    if grant.source is None or not grant.source.evidence:
        return {}
    found = json.loads(grant.source.evidence)
    return found if isinstance(found, dict) else {}


def _seconds(value: object) -> float | None:
    try:
        return parse_time(value).timestamp() if isinstance(value, str) else None
    except ValueError:
        return None
