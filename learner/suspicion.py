"""Whom not to learn from, with the reason: scanners, path probers, lone replicas, contacts that never succeeded.

What is suspicious is quarantined: a list for people, with evidence and with what would release it. Nothing is dropped
in silence, and nothing quarantined is proposed. What a service did before it began to scan, and what its other
replicas do, is learned as if nobody had scanned. A patient attacker who uses what a service really uses cannot be told
apart.
"""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping

from learner.history import Edge, History, Key, Kind, moment
from learner.schedules import Schedule

# threshold random walk on first contacts (Jung, Paxson, Berger, Balakrishnan, IEEE S&P 2004)
_SUCCESS_BENIGN, _SUCCESS_SCAN = 0.8, 0.2
_SCAN = math.log(0.99 / 0.01)
_BENIGN = math.log((1 - 0.99) / (1 - 0.01))
_ON_SUCCESS = math.log(_SUCCESS_SCAN / _SUCCESS_BENIGN)
_ON_FAILURE = math.log((1 - _SUCCESS_SCAN) / (1 - _SUCCESS_BENIGN))
MAX_LONE_PROBABILITY = 0.01
NEW_EDGES = 5
NEW_EDGES_WITHIN_S = 12 * 3600
WARM_UP_S = 24 * 3600
BEACON_SESSIONS = 20
BEACON_VARIATION = 0.1
MAX_TURNS_A_SESSION = 1.1
RECURRING_DAYS = 3
MAX_NAMED = 5

_RELEASE = {
    "scan": "another replica that did not scan uses it, or somebody who knows the service confirms it",
    "path probing": "another replica that did not probe uses it, or somebody who knows the service confirms it",
    "one replica alone": "a second replica uses it, or it recurs on three days at the hours of a declared schedule",
    "burst of new edges": "a second replica or a new version uses it, or somebody who knows the service confirms it",
    "never answered": "it is answered well once",
    "denied by the policy in force": "a reviewer allows it in the policy",
    "beacon": "a declared schedule names it and it recurs on three days, or somebody who knows the service confirms it",
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Quarantined:
    """An edge that is not proposed. ``source`` is an identity, or an address for a caller without one."""

    source: str
    destination: str
    port: int
    reason: str
    evidence: str
    release: str

    def to_json(self) -> dict[str, object]:
        """The public JSON form."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Suspicion:
    """What is quarantined, and the kinds that teach nothing."""

    quarantined: tuple[Quarantined, ...]
    excluded: frozenset[Key]


@dataclasses.dataclass(frozen=True, slots=True)
class _Flagged:
    """A replica of a source that behaves like an attacker since a moment."""

    reason: str
    evidence: str
    since: float


Replica = tuple[str, str]


def find_suspicious(history: History, schedules: Iterable[Schedule] = ()) -> Suspicion:
    """Find what not to learn from, in one pass per question.

    1. A replica whose first contacts with (destination, port) fail like a scan's, or whose first requests to different
       paths of a destination fail like a prober's: what it alone did from its first failure on.
    2. An edge that one of several replicas alone uses, often.
    3. A burst of new edges of one replica after the first day of its version.
    4. Calls at even intervals to a peer without an identity that one source alone calls, or to any peer when a single
       replica alone makes them and began after the first day: with nobody to compare it to, (2) is blind.
    5. An edge whose every contact failed, or that the policy in force denies.

    ``schedules`` are what is declared: (2) and (4) spare what recurred on three days at the hours of one of them.
    Another port of the same peer that is called around the clock is not what a nightly job was declared for.
    """
    edges: defaultdict[Edge, list[Kind]] = defaultdict(list)
    for kind in history.kinds.values():
        edges[kind.edge].append(kind)
    found: dict[Edge, tuple[str, str]] = {}
    excluded: set[Key] = set()
    # (1)
    flagged = {**_scanners(edges), **_probers(history.kinds.values())}
    by_source: defaultdict[str, dict[str, _Flagged]] = defaultdict(dict)
    for (source, replica), why in flagged.items():
        by_source[source][replica] = why
    for edge, kinds in edges.items():
        taken = [kind for kind in kinds if _is_tainted(kind, by_source.get(edge[0], {}))]
        excluded.update(kind.key for kind in taken)
        if taken and (len(taken) == len(kinds) or any(kind.good for kind in taken)):
            why = _why(taken, by_source[edge[0]])
            if len(taken) == len(kinds) or all(kind.key in excluded for kind in kinds if kind.good):
                found[edge] = (why.reason, why.evidence)
    # (2), (3), (4), (5)
    declared = tuple(schedules)
    for reasons in (
        _lone_replicas(edges, declared), _bursts(edges), _beacons(edges, declared), _never_answered(edges),
    ):  # fmt: skip
        for edge, reason in reasons.items():
            found.setdefault(edge, reason)
            excluded.update(kind.key for kind in edges[edge])
    rows = tuple(_quarantined(edge, *found[edge]) for edge in sorted(found))
    return Suspicion(quarantined=rows, excluded=frozenset(excluded))


def _quarantined(edge: Edge, reason: str, evidence: str) -> Quarantined:
    source, destination, port = edge
    return Quarantined(
        source=source, destination=destination, port=port, reason=reason, evidence=evidence, release=_RELEASE[reason]
    )


def _is_tainted(kind: Kind, flagged: Mapping[str, _Flagged]) -> bool:
    """Whether flagged replicas alone used a kind, and none of them before its first failure."""
    if not flagged:
        return False
    users = [(name, uses) for name, uses in kind.replicas.items() if uses.good] or list(kind.replicas.items())
    return all(name in flagged and min(uses.first_good, kind.last) >= flagged[name].since for name, uses in users)


def _why(kinds: Iterable[Kind], flagged: Mapping[str, _Flagged]) -> _Flagged:
    names = sorted({name for kind in kinds for name in kind.replicas if name in flagged})
    return flagged[names[0]]


def _walk(outcomes: Iterable[bool]) -> bool:
    """The threshold random walk: whether a sequence of first contacts looks like a scan at some moment."""
    total = 0.0
    for success in outcomes:
        total = max(_BENIGN, total + (_ON_SUCCESS if success else _ON_FAILURE))
        if total >= _SCAN:
            return True
    return False


def _scanners(edges: Mapping[Edge, list[Kind]]) -> dict[Replica, _Flagged]:
    contacts: defaultdict[Replica, list[tuple[float, bool]]] = defaultdict(list)
    for (source, _, _), kinds in edges.items():
        good_by = {name for kind in kinds for name, uses in kind.replicas.items() if uses.good}
        first: dict[str, tuple[float, bool]] = {}
        for kind in kinds:
            for name, uses in kind.replicas.items():
                # what a sibling did with success is no guess; what is known to work is no scan's target
                if not (good_by and name not in good_by):
                    found = (uses.first, name in good_by)
                    first[name] = min(first.get(name, found), found)
        for name, contact in first.items():
            contacts[source, name].append(contact)
    found_: dict[Replica, _Flagged] = {}
    for replica, rows in contacts.items():
        rows.sort()
        if _walk(success for _, success in rows):
            failed = [at for at, success in rows if not success]
            text = f"{len(failed)} of {len(rows)} first contacts failed"
            found_[replica] = _Flagged("scan", text, failed[0])
    return found_


def _probers(kinds: Iterable[Kind]) -> dict[Replica, _Flagged]:
    known: set[tuple[str, int, str, str]] = set()
    asked: defaultdict[tuple[str, str, str], list[tuple[float, bool, int]]] = defaultdict(list)
    requests = [kind for kind in kinds if kind.shape and kind.method]
    for kind in requests:
        if kind.good:
            known.add((kind.destination, kind.port, kind.method, kind.shape))
    for kind in requests:
        is_known = (kind.destination, kind.port, kind.method, kind.shape) in known
        for name, uses in kind.replicas.items():
            place = asked[kind.source, name, kind.destination]
            if uses.good:
                # each identifier is a path of its own
                place.append((uses.first, True, min(uses.good, 1000) if kind.values else 1))
            elif not is_known:
                place.append((uses.first, False, len(uses.tried)))
    found: dict[Replica, _Flagged] = {}
    for (source, name, destination), rows in asked.items():
        rows.sort()
        failed = sum(times for _, success, times in rows if not success)
        total = sum(times for _, _, times in rows)
        if failed * 2 > total and _walk(success for _, success, times in rows for _ in range(min(times, 8))):
            text = f"{failed} of {total} first requests to different paths of {destination} failed"
            found[source, name] = _Flagged("path probing", text, next(at for at, success, _ in rows if not success))
    return found


def _spans(edges: Mapping[Edge, list[Kind]]) -> dict[str, dict[str, tuple[float, float]]]:
    """When each replica of a source was seen."""
    found: defaultdict[str, dict[str, tuple[float, float]]] = defaultdict(dict)
    for edge, kinds in edges.items():
        mine = found[edge[0]]
        for kind in kinds:
            for name, uses in kind.replicas.items():
                if name:
                    begin, end = mine.get(name, (uses.first, uses.last))
                    mine[name] = (min(begin, uses.first), max(end, uses.last))
    return found


def _is_declared(edge: Edge, kinds: Iterable[Kind], schedules: Iterable[Schedule]) -> bool:
    """Whether an edge recurred on three days as a schedule says: it began at no more hours of the day than that has.

    Which time zone a schedule means is not known, and a change to summer time moves it by an hour once.
    """
    mine = [item for item in schedules if item.speaks_of(edge[0], edge[1])]
    if not mine:
        return False
    hours = {minute // 60 for kind in kinds for minute in kind.sessions}
    most = max(item.hours_a_day for item in mine)
    # what goes on into the next hour is one run; a job of every hour has no beginnings to count
    begun = hours if most >= 24 else {hour for hour in hours if hour - 1 not in hours}
    return len({hour // 24 for hour in begun}) >= RECURRING_DAYS and len({hour % 24 for hour in begun}) <= 2 * most


def _lone_replicas(edges: Mapping[Edge, list[Kind]], schedules: tuple[Schedule, ...]) -> dict[Edge, tuple[str, str]]:
    spans = _spans(edges)
    found = {}
    for edge, kinds in edges.items():
        names = {name for kind in kinds for name in kind.replicas if name}
        if len(names) != 1 or not all(kind.has_source for kind in kinds):
            continue
        (name,) = names
        rows = [uses for kind in kinds for found_name, uses in kind.replicas.items() if found_name]
        begin, end = min(uses.first for uses in rows), max(uses.last for uses in rows)
        # those that were there while the edge was used; a replica of another week had no chance to
        count = sum(first <= end and last >= begin for first, last in spans[edge[0]].values())
        uses_ = sum(uses.turns for uses in rows)
        if count < 2:
            continue
        probability = math.exp(max((1 - uses_) * math.log(count), -700.0))
        if probability < MAX_LONE_PROBABILITY and not _is_declared(edge, kinds, schedules):
            text = f"{uses_} uses, all by replica {name} of {count}: chance {probability:.2g}"
            found[edge] = ("one replica alone", text)
    return found


def _begun(edges: Mapping[Edge, list[Kind]]) -> dict[tuple[str, str], float]:
    """When each version of a source began; the first version of each, when the watch began."""
    begun: dict[tuple[str, str], float] = {}
    for kinds in edges.values():
        for kind in kinds:
            key = (kind.source, kind.version)
            begun[key] = min(begun.get(key, kind.first), kind.first)
    # who was not seen before does not get a day of its own: a compromised service that was quiet would begin with it
    start = min(begun.values(), default=0.0)
    oldest: dict[str, str] = {}
    for (source, version), first in sorted(begun.items(), key=lambda item: item[1]):
        oldest.setdefault(source, version)
        if oldest[source] == version:
            begun[source, version] = min(first, start)
    return begun


def _bursts(edges: Mapping[Edge, list[Kind]]) -> dict[Edge, tuple[str, str]]:
    begun = _begun(edges)
    news: defaultdict[Replica, list[tuple[float, Edge]]] = defaultdict(list)
    for edge, kinds in edges.items():
        users = {name for kind in kinds for name in kind.replicas}
        first = min(kinds, key=lambda kind: kind.first)
        if len(users) == 1 and first.has_source and first.first >= begun[first.source, first.version] + WARM_UP_S:
            news[edge[0], next(iter(users))].append((first.first, edge))
    found: dict[Edge, tuple[str, str]] = {}
    for rows in news.values():
        rows.sort()
        for index in range(len(rows) - NEW_EDGES + 1):
            begin = rows[index][0]
            if rows[index + NEW_EDGES - 1][0] - begin <= NEW_EDGES_WITHIN_S:
                within = [edge for at, edge in rows[index:] if at - begin <= NEW_EDGES_WITHIN_S]
                text = f"{len(within)} new edges within 12 h, from {moment(begin):%F %T}"
                for edge in within:
                    found.setdefault(edge, ("burst of new edges", text))
    return found


def _is_new_and_lone(kinds: list[Kind], begun: Mapping[tuple[str, str], float]) -> bool:
    """Whether one replica alone made single calls that began after the first day of its version."""
    first = min(kinds, key=lambda kind: kind.first)
    if not first.has_source or first.first < begun[first.source, first.version] + WARM_UP_S:
        return False
    if len({name for kind in kinds for name in kind.replicas}) > 1:
        return False
    # a busy call begins a session every hour, as evenly as a clock: that says nothing
    turns = sum(uses.turns for kind in kinds for uses in kind.replicas.values())
    return turns <= MAX_TURNS_A_SESSION * sum(kind.gaps[0] + 1 for kind in kinds)


def _beacons(edges: Mapping[Edge, list[Kind]], schedules: tuple[Schedule, ...]) -> dict[Edge, tuple[str, str]]:
    begun = _begun(edges)
    callers: defaultdict[str, set[str]] = defaultdict(set)
    for source, destination, _ in edges:
        callers[destination].add(source)
    found = {}
    for edge, kinds in edges.items():
        gaps = [sum(column) for column in zip(*(kind.gaps for kind in kinds), strict=True)]
        if gaps[0] + 1 < BEACON_SESSIONS:
            continue
        is_outside = len(callers[edge[1]]) == 1 and not any(kind.has_destination for kind in kinds)
        if not is_outside and not _is_new_and_lone(kinds, begun):
            continue
        mean = gaps[1] / gaps[0]
        variation = math.sqrt(max(0.0, gaps[2] / gaps[0] - mean * mean)) / mean
        if variation < BEACON_VARIATION and not _is_declared(edge, kinds, schedules):
            alone = "nobody else calls it" if is_outside else "one replica alone calls, not from the beginning"
            text = f"{gaps[0] + 1:.0f} calls every {mean:.0f} s, varying by {variation:.0%}, and {alone}"
            found[edge] = ("beacon", text)
    return found


def _never_answered(edges: Mapping[Edge, list[Kind]]) -> dict[Edge, tuple[str, str]]:
    found = {}
    for edge, kinds in edges.items():
        if not any(kind.good for kind in kinds):
            reason = "denied by the policy in force" if any(kind.denied for kind in kinds) else "never answered"
            count = sum(kind.connections for kind in kinds)
            found[edge] = (reason, f"{count} contacts, none of them answered well")
    return found
