"""Whom not to learn from, with the reason: scanners, path probers, lone replicas, contacts that never succeeded.

A suspicious source or edge is quarantined: a list for people, with evidence. Nothing is dropped in silence, and
nothing quarantined is proposed. A patient attacker who uses what a service really uses cannot be told apart.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from mesh.flow import Flow, Verdict

# threshold random walk on first contacts (Jung, Paxson, Berger, Balakrishnan, IEEE S&P 2004)
_SUCCESS_BENIGN, _SUCCESS_SCAN = 0.8, 0.2
_SCAN = math.log(0.99 / 0.01)
_BENIGN = math.log((1 - 0.99) / (1 - 0.01))
_ON_SUCCESS = math.log(_SUCCESS_SCAN / _SUCCESS_BENIGN)
_ON_FAILURE = math.log((1 - _SUCCESS_SCAN) / (1 - _SUCCESS_BENIGN))
_PROBE_STATUSES = frozenset({400, 401, 403, 404, 405, 410, 414, 501})
MAX_LONE_PROBABILITY = 0.01
NEW_EDGES = 5
NEW_EDGES_WITHIN = dt.timedelta(hours=12)
WARM_UP = dt.timedelta(hours=24)
MAX_TARGETS = 1_000

Edge = tuple[str, str, int]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Quarantined:
    """An edge that is not proposed. ``source`` is an identity, or an address for a caller without one."""

    source: str
    destination: str
    port: int
    reason: str
    evidence: str

    def to_json(self) -> dict[str, object]:
        """The public JSON form."""
        return dataclasses.asdict(self)


def edge_of(flow: Flow) -> Edge:
    """Who called whom on which port; addresses stand in for missing identities."""
    source = flow.source or flow.source_ip or "unknown"
    return source, flow.destination or flow.destination_ip or "unknown", flow.destination_port


def is_success(flow: Flow) -> bool:
    """Whether a contact was answered well: not refused, not denied, not an error of the caller's."""
    if flow.established is False or flow.verdict is Verdict.DENIED:
        return False
    return flow.status is None or flow.status not in _PROBE_STATUSES


def find_suspicious(flows: Sequence[Flow]) -> tuple[Quarantined, ...]:
    """Find what not to learn from, in one pass per question.

    1. A source whose first contacts with (destination, port) fail like a scan's: all its edges.
    2. A source whose first requests to different paths of a destination fail like a prober's: all its edges.
    3. An edge that one of several replicas alone uses, often.
    4. A burst of new edges of one replica after the first day.
    5. An edge whose every contact failed, or that the policy in force denies.
    """
    ordered = sorted(flows, key=lambda flow: flow.start)
    found: dict[Edge, Quarantined] = {}
    edges = sorted({edge_of(flow) for flow in ordered})
    # (1), (2)
    for source, (reason, evidence) in {**_scanners(ordered), **_probers(ordered)}.items():
        for edge in edges:
            if edge[0] == source:
                found.setdefault(edge, _quarantine(edge, reason, evidence))
    # (3), (4), (5)
    for kind in (_lone_replicas(ordered), _bursts(ordered), _never_answered(ordered)):
        for edge, (reason, evidence) in kind.items():
            found.setdefault(edge, _quarantine(edge, reason, evidence))
    return tuple(found[edge] for edge in sorted(found))


def _quarantine(edge: Edge, reason: str, evidence: str) -> Quarantined:
    return Quarantined(source=edge[0], destination=edge[1], port=edge[2], reason=reason, evidence=evidence)


def _walk(outcomes: Iterable[bool]) -> bool:
    """The threshold random walk: whether a sequence of first contacts looks like a scan at some moment."""
    total = 0.0
    for success in outcomes:
        total = max(_BENIGN, total + (_ON_SUCCESS if success else _ON_FAILURE))
        if total >= _SCAN:
            return True
    return False


def _scanners(flows: Sequence[Flow]) -> Mapping[str, tuple[str, str]]:
    known = {(*edge_of(flow)[1:], flow.source) for flow in flows if flow.source and is_success(flow)}
    contacts: defaultdict[str, dict[tuple[str, int, str | None], bool]] = defaultdict(dict)
    for flow in flows:
        source, destination, port = edge_of(flow)
        seen = contacts[source]
        if len(seen) < MAX_TARGETS:
            # a sibling's success speaks for the edge: its first contact is no guess
            is_known = (destination, port, flow.source) in known
            seen.setdefault((destination, port, flow.replica), is_success(flow) or is_known)
    found = {}
    for source, seen in contacts.items():
        if _walk(seen.values()):
            failed = sum(not success for success in seen.values())
            found[source] = ("scan", f"{failed} of {len(seen)} first contacts failed")
    return found


def _probers(flows: Sequence[Flow]) -> Mapping[str, tuple[str, str]]:
    requests: defaultdict[tuple[str, str], dict[tuple[str, str], bool]] = defaultdict(dict)
    for flow in flows:
        if flow.path is not None and flow.method is not None:
            source, destination, _ = edge_of(flow)
            seen = requests[source, destination]
            if len(seen) < MAX_TARGETS:
                seen.setdefault((flow.method, flow.path), is_success(flow))
    found = {}
    for (source, destination), seen in requests.items():
        failed = sum(not success for success in seen.values())
        if _walk(seen.values()) and failed * 2 > len(seen):
            text = f"{failed} of {len(seen)} first requests to different paths of {destination} failed"
            found[source] = ("path probing", text)
    return found


def _lone_replicas(flows: Sequence[Flow]) -> Mapping[Edge, tuple[str, str]]:
    replicas: defaultdict[str, set[str]] = defaultdict(set)
    uses: defaultdict[Edge, list[str]] = defaultdict(list)
    for flow in flows:
        if flow.replica is not None and flow.source is not None:
            replicas[flow.source].add(flow.replica)
            uses[edge_of(flow)].append(flow.replica)
    found = {}
    for edge, names in uses.items():
        count = len(replicas[edge[0]])
        if count > 1 and len(set(names)) == 1:
            probability = count ** (1 - len(names))
            if probability < MAX_LONE_PROBABILITY:
                text = f"{len(names)} uses, all by replica {names[0]} of {count}: chance {probability:.2g}"
                found[edge] = ("one replica alone", text)
    return found


def _bursts(flows: Sequence[Flow]) -> Mapping[Edge, tuple[str, str]]:
    if not flows:
        return {}
    begin = flows[0].start + WARM_UP
    first: dict[tuple[str, str | None, str, int], dt.datetime] = {}
    for flow in flows:
        source, destination, port = edge_of(flow)
        first.setdefault((source, flow.replica, destination, port), flow.start)
    news: defaultdict[tuple[str, str | None], list[tuple[dt.datetime, Edge]]] = defaultdict(list)
    for (source, replica, destination, port), moment in first.items():
        if moment >= begin:
            news[source, replica].append((moment, (source, destination, port)))
    found: dict[Edge, tuple[str, str]] = {}
    for rows in news.values():
        rows.sort(key=lambda row: row[0])
        for index in range(len(rows) - NEW_EDGES + 1):
            if rows[index + NEW_EDGES - 1][0] - rows[index][0] <= NEW_EDGES_WITHIN:
                within = [row for row in rows[index:] if row[0] - rows[index][0] <= NEW_EDGES_WITHIN]
                for _, edge in within:
                    found[edge] = (
                        "burst of new edges",
                        f"{len(within)} new edges within 12 h, from {rows[index][0]:%F %T}",
                    )
    return found


def _never_answered(flows: Sequence[Flow]) -> Mapping[Edge, tuple[str, str]]:
    good: defaultdict[Edge, int] = defaultdict(int)
    bad: defaultdict[Edge, int] = defaultdict(int)
    denied: set[Edge] = set()
    for flow in flows:
        edge = edge_of(flow)
        if is_success(flow):
            good[edge] += flow.connections
        else:
            bad[edge] += flow.connections
            if flow.verdict is Verdict.DENIED:
                denied.add(edge)
    return {
        edge: (
            "denied by the policy in force" if edge in denied else "never answered",
            f"{count} contacts, none of them answered well",
        )
        for edge, count in bad.items()
        if not good[edge]
    }
