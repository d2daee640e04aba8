"""What a proposal may break, and what nobody can know: bounds, open items, blind spots, excess, suggestions.

A session that the written proposal would deny counts as novel whatever the reason. This module proposes nothing.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from learner.coverage import ASSUMPTION, Coverage, Unit, measure, tally, together, versions_of
from learner.gate import Gate, judge
from learner.history import BEYOND, Edge, History, Kind, moment
from learner.proposal import ProposedService
from learner.schedules import Schedule
from learner.suspicion import Quarantined
from mesh.clock import format_time

if TYPE_CHECKING:
    from learner.judge import Judge
    from learner.propose import Lesson

MAX_LISTED = 1_000
MAX_COMPARED = 400
ALIKE = 0.9


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """How it was watched: declared schedules, how often people look, when rules were taken back, what was lost.

    ``restarts`` gives, by identity of the called service, when a rule of it was last taken back (seconds since 1970);
    ``identities`` are those that are known to exist; ``losses`` say what a source sampled, lost or skipped.
    """

    schedules: tuple[Schedule, ...] = ()
    looks: int = 1
    restarts: Mapping[str, float] = dataclasses.field(default_factory=dict)
    identities: frozenset[str] = frozenset()
    losses: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ServiceReport:
    """What is known of one proposed service; ``open`` says what is not."""

    service: str
    identity: str
    coverage: Coverage
    open: tuple[str, ...]
    gate: Gate

    def to_json(self) -> dict[str, object]:
        """The public JSON form."""
        return {
            "service": self.service,
            "identity": self.identity,
            **_numbers(self.coverage),
            "open": list(self.open),
            "gate": self.gate.to_json(),
        }


def _numbers(coverage: Coverage) -> dict[str, object]:
    return {
        "sessions": coverage.sessions,
        "days": coverage.days,
        "session_bound_95": coverage.session_bound_95,
        "day_bound_95": coverage.day_bound_95,
        "expected_new_per_day": coverage.expected_new_per_day,
        "hour_bound_95": coverage.hour_bound_95,
        "looking_once_95": coverage.once.to_json(),
        "novel_sessions": coverage.novel_sessions,
        "counted_sessions": coverage.counted_sessions,
        "novel_days": coverage.novel_days,
        "counted_days": coverage.counted_days,
        "at_least_more": coverage.more,
        "since": format_time(moment(coverage.since)),
        "versions": [name for name, _ in coverage.versions],
    }


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """A policy tree with its evidence and its risk."""

    services: tuple[ProposedService, ...]
    reports: tuple[ServiceReport, ...]
    quarantined: tuple[Quarantined, ...]
    blind_spots: tuple[dict[str, object], ...]
    unattributed: int
    total: Coverage
    open: tuple[str, ...] = ()
    edges_in_all: float | None = None
    egress: tuple[dict[str, object], ...] = ()
    strangers: tuple[dict[str, object], ...] = ()
    excess: tuple[dict[str, object], ...] = ()
    suggestions: tuple[dict[str, object], ...] = ()
    losses: tuple[str, ...] = ()
    units: tuple[Unit, ...] = dataclasses.field(default=(), repr=False)
    extra: Mapping[str, object] = dataclasses.field(default_factory=dict)

    @property
    def rules(self) -> int:
        """How many rules it has."""
        return sum(len(service.rules) for service in self.services)

    @property
    def worst(self) -> ServiceReport | None:
        """The service of which least is known."""
        return max(
            self.reports, key=lambda item: (item.coverage.session_bound_95, item.coverage.day_bound_95), default=None
        )

    def to_json(self) -> dict[str, object]:
        """The public JSON form: the contract's fields, and more beside them."""
        return {
            "rules": self.rules,
            "services": [report.to_json() for report in self.reports],
            "blind_spots": list(self.blind_spots),
            "quarantined": [item.to_json() for item in self.quarantined],
            "unattributed": self.unattributed,
            "all": _numbers(self.total),
            "assumption": ASSUMPTION,
            "worst": None if self.worst is None else self.worst.service,
            "gate": _overall(self.reports),
            "open": list(self.open),
            "edges_in_all": self.edges_in_all,
            "unattributed_peers": list(self.strangers),
            "egress": list(self.egress),
            "excess": list(self.excess),
            "suggestions": list(self.suggestions),
            "losses": list(self.losses),
            **self.extra,
        }


def _overall(reports: Sequence[ServiceReport]) -> str:
    colours = {report.gate.colour for report in reports}
    return next((name for name in ("red", "amber", "green") if name in colours), "red")


def assess(
    history: History, watch: Watch, lesson: Lesson, services: Sequence[ProposedService], judge_: Judge
) -> Proposal:
    """Say what a proposal may break."""
    units = [Unit(kind, _atom(kind, lesson), judge_.denies(kind)) for kind in history.kinds.values()]
    by_service: defaultdict[str, list[Unit]] = defaultdict(list)
    for service in services:
        by_service[service.identity] = []
    for unit in units:
        by_service[unit.kind.destination].append(unit)
    versions = versions_of(units)
    tallies = {destination: tally(mine, versions) for destination, mine in by_service.items()}
    sensors = _sensors(lesson.kinds)
    reports = []
    for service in services:
        mine = by_service[service.identity]
        restart = watch.restarts.get(service.identity, float("-inf"))
        coverage = measure(tallies[service.identity], history.last, restart=restart, looks=watch.looks)
        late = _unseen(service, watch.schedules, mine)
        found = _open_items(service, coverage, lesson, mine)
        is_compared = len(sensors) > 1 and any(service.identity == edge[1] for edge in set.union(*sensors.values()))
        gate = judge(coverage, watch.looks, late, has_second_sensor=is_compared)
        reports.append(
            ServiceReport(
                service=service.name, identity=service.identity, coverage=coverage, open=(*found, *late), gate=gate
            )
        )
    last_restart = max(watch.restarts.values(), default=float("-inf"))
    return Proposal(
        services=tuple(services),
        reports=tuple(reports),
        quarantined=lesson.suspicion.quarantined,
        blind_spots=_blind_spots(sensors),
        unattributed=history.unattributed,
        total=measure(together(tallies.values()), history.last, restart=last_restart, looks=watch.looks),
        open=(*_seen_by_one(sensors), *_general_items(history, watch, services)),
        edges_in_all=_chapman(sensors),
        egress=_egress(history, lesson),
        strangers=_strangers(history),
        excess=_wide(services, lesson),
        suggestions=_suggestions(services),
        losses=watch.losses,
        units=tuple(units),
    )


def _atom(kind: Kind, lesson: Lesson) -> tuple[str, ...]:
    template = lesson.template(kind) or kind.shape
    return kind.source, kind.destination, str(kind.port), kind.method or kind.protocol, template


def _unseen(service: ProposedService, schedules: Iterable[Schedule], units: Iterable[Unit]) -> tuple[str, ...]:
    """The declared schedules about a service of which no call was seen."""
    callers = {unit.kind.source for unit in units}
    return tuple(
        f"{item.spiffe_id} is scheduled to call ({item.cron}) and was not seen"
        for item in schedules
        if item.destination == service.identity
        and not any(item.speaks_of(caller, service.identity) for caller in callers)
    )


def _open_items(service: ProposedService, coverage: Coverage, lesson: Lesson, units: Sequence[Unit]) -> tuple[str, ...]:
    """What nobody can know from what was watched, or what somebody should look at."""
    found = []
    if coverage.days < 2:
        found.append("less than two days were watched: nothing is known about the next day")
    if coverage.days >= 2 and coverage.more >= 1:
        found.append(f"at least {coverage.more} kinds of calls were not seen yet (Chao2)")
    for (destination, port, method), known in sorted(lesson.templates.items()):
        if destination == service.identity:
            found += [
                f"{method} {template} on port {port} takes any text in place of {', '.join(fold.examples)}"
                for template, folds in sorted(known.folds.items())
                for fold in folds
                if not fold.type
            ]
    plain = sorted({unit.kind.port for unit in units if unit.kind.protocol == "udp" and unit.kind.good})
    found += [f"UDP on port {port} was seen, and no rule speaks of UDP" for port in plain]
    failed = sum(1 for unit in units if not unit.kind.good and unit.kind.protocol in {"http", "grpc"})
    if failed:
        found.append(f"{failed} kinds of requests were never answered well, and are not proposed")
    if any(unit.kind.shape == BEYOND for unit in units):
        found.append("a source did more different things than are told apart: the rest counts as uncovered")
    return tuple(found)


def _general_items(history: History, watch: Watch, services: Sequence[ProposedService]) -> tuple[str, ...]:
    """What is open and belongs to no one service."""
    calls = {(kind.source, kind.destination) for kind in history.kinds.values()}
    known = {service.identity for service in services}
    found = [
        f"{item.origin or item.spiffe_id} is scheduled ({item.cron}) and nothing of `{item.spiffe_id}` was seen"
        for item in watch.schedules
        if item.destination not in known and not any(item.speaks_of(*call) for call in calls)
    ]
    seen = {side for call in calls for side in call}
    found += [
        f"{identity} had no traffic: what it needs is unknown"
        for identity in sorted(watch.identities - seen)[:MAX_LISTED]
    ]
    return (*found, *watch.losses)


def _sensors(kinds: Iterable[Kind]) -> dict[str, set[Edge]]:
    """The edges that each kind of sensor saw."""
    found: defaultdict[str, set[Edge]] = defaultdict(set)
    for kind in kinds:
        for sensor in kind.sensors:
            found[sensor.partition(":")[0]].add(kind.edge)
    return found


def _blind_spots(sensors: Mapping[str, set[Edge]]) -> tuple[dict[str, object], ...]:
    """Edges that one kind of sensor saw and another, which watched the same time, did not."""
    found: list[dict[str, object]] = []
    for edge in sorted(set().union(*sensors.values())) if len(sensors) > 1 else []:
        seen = sorted(name for name, edges in sensors.items() if edge in edges)
        missed = sorted(set(sensors) - set(seen))
        if missed:
            found.append(
                {
                    "source": edge[0],
                    "destination": edge[1],
                    "port": edge[2],
                    "seen_by": ", ".join(seen),
                    "not_seen_by": ", ".join(missed),
                }
            )
    return tuple(found)


def _seen_by_one(sensors: Mapping[str, set[Edge]]) -> tuple[str, ...]:
    """The open item about edges that one kind of sensor alone saw; none where only one watched."""
    seen = set().union(*sensors.values())
    alone = sum(1 for edge in seen if sum(edge in edges for edges in sensors.values()) == 1)
    in_all = _chapman(sensors)
    if in_all is None or not alone:
        return ()
    return (f"{alone} of {len(seen)} edges were seen by one kind of sensor alone: about {in_all:.1f} in all (Chapman)",)


def _chapman(sensors: Mapping[str, set[Edge]]) -> float | None:
    """How many edges there are in all, from the two kinds of sensors that saw most (Chapman's estimate)."""
    if len(sensors) < 2:
        return None
    first, second = sorted(sensors.values(), key=len, reverse=True)[:2]
    return (len(first) + 1) * (len(second) + 1) / (len(first & second) + 1) - 1


def _egress(history: History, lesson: Lesson) -> tuple[dict[str, object], ...]:
    """Calls to peers without an identity, by name where one is known: a list for whoever writes the egress rules."""
    rows: defaultdict[Edge, list[Kind]] = defaultdict(list)
    reasons = {(item.source, item.destination, item.port): item.reason for item in lesson.suspicion.quarantined}
    for kind in history.kinds.values():
        if kind.has_source and not kind.has_destination and kind.good:
            rows[kind.edge].append(kind)
    return tuple(
        {
            "source": edge[0],
            "name": edge[1],
            "port": edge[2],
            "protocol": kinds[0].protocol,
            "sessions": sum(sum(kind.sessions.values()) for kind in kinds),
            "days": len(set().union(*(kind.days() for kind in kinds))),
            "quarantined": reasons.get(edge),
            "exempt": _exempt(edge, kinds[0]) if edge not in reasons else None,
        }
        for edge, kinds in sorted(rows.items())[:MAX_LISTED]
    )


def _exempt(edge: Edge, kind: Kind) -> str | None:
    """What `limen run --egress` takes for a name that TLS asked for; everything else is left to people."""
    from learner.egress import is_name  # noqa: PLC0415  it speaks in proposals

    return f"dns:{edge[1].lower()}:{edge[2]}" if kind.protocol == "tcp" and is_name(edge[1]) else None


def _strangers(history: History) -> tuple[dict[str, object], ...]:
    """What could not be attributed: a list, not a wildcard."""
    rows: defaultdict[Edge, int] = defaultdict(int)
    for kind in history.kinds.values():
        if not kind.is_attributed:
            rows[kind.edge] += kind.connections
    most = sorted(rows.items(), key=lambda item: (-item[1], item[0]))[:MAX_LISTED]
    return tuple(
        {"source": edge[0], "destination": edge[1], "port": edge[2], "connections": count} for edge, count in most
    )


def _wide(services: Sequence[ProposedService], lesson: Lesson) -> tuple[dict[str, object], ...]:
    """What is allowed and was never used: templates that take any text. Who has seen how many values of it."""
    by_identity = {service.identity: service.name for service in services}
    return tuple(
        {
            "service": by_identity[destination],
            "port": port,
            "method": method,
            "path": template,
            "seen": [fold.distinct for fold in folds if not fold.type],
            "why": "any text is allowed where so many different words were seen that more are to be expected",
        }
        for (destination, port, method), known in sorted(lesson.templates.items())
        if destination in by_identity
        for template, folds in sorted(known.folds.items())
        if any(not fold.type for fold in folds)
    )


def _suggestions(services: Sequence[ProposedService]) -> tuple[dict[str, object], ...]:
    """Callers that do nearly the same: candidates for a group. A suggestion; nothing is merged."""
    does: defaultdict[str, set[tuple[object, ...]]] = defaultdict(set)
    for service in services:
        for rule in service.rules:
            for grant in rule.grants:
                operations = [(method, path) for method, paths in grant.operations for path in paths] or [("", "")]
                does[rule.caller].update((service.name, grant.port, *operation) for operation in operations)
    names = sorted(does)[:MAX_COMPARED]
    found: list[dict[str, object]] = []
    for place, one in enumerate(names):
        for other in names[place + 1 :]:
            together = len(does[one] & does[other])
            alike = together / len(does[one] | does[other])
            if alike >= ALIKE:
                found.append({"callers": [one, other], "alike": round(alike, 4), "in_common": together})
    return tuple(sorted(found, key=lambda row: (-float(str(row["alike"])), str(row["callers"])))[:MAX_LISTED])
