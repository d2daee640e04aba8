"""From flows to a proposal: who calls whom, how, with which evidence, and what may break (design D9).

Pure: flows in, a proposal and its risk out. The written tree is judged by the policy engine, not by this module.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from learner.coverage import Coverage, measure
from learner.paths import Templates, learn_templates
from learner.proposal import Grant, ProposedRule, ProposedService
from learner.sessions import Atom, Session, split_sessions
from learner.suspicion import Edge, Quarantined, edge_of, find_suspicious, is_success
from mesh.clock import format_time
from mesh.flow import Flow
from mesh.request import Request
from mesh.spiffe import SpiffeId, SpiffeIdError
from policyengine.decide import Index
from policyengine.loader import load_text
from policyengine.model import PolicySet

MAX_EXAMPLES = 3


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ServiceReport:
    """What is known of one proposed service; ``open`` says what is not."""

    service: str
    identity: str
    coverage: Coverage
    open: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        """The public JSON form."""
        return {
            "service": self.service,
            "identity": self.identity,
            "sessions": self.coverage.sessions,
            "days": self.coverage.days,
            "session_bound_95": self.coverage.session_bound_95,
            "day_bound_95": self.coverage.day_bound_95,
            "expected_new_per_day": self.coverage.expected_new_per_day,
            "open": list(self.open),
        }


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """A policy tree with its evidence and its risk."""

    services: tuple[ProposedService, ...]
    reports: tuple[ServiceReport, ...]
    quarantined: tuple[Quarantined, ...]
    blind_spots: tuple[dict[str, object], ...]
    unattributed: int

    @property
    def rules(self) -> int:
        """How many rules it has."""
        return sum(len(service.rules) for service in self.services)

    def to_json(self) -> dict[str, object]:
        """The public JSON form."""
        return {
            "rules": self.rules,
            "services": [report.to_json() for report in self.reports],
            "blind_spots": list(self.blind_spots),
            "quarantined": [item.to_json() for item in self.quarantined],
            "unattributed": self.unattributed,
        }


def propose(flows: Sequence[Flow], schedules: Sequence[Mapping[str, str]] = ()) -> Proposal:
    """Propose a policy tree.

    1. What is suspicious is quarantined, with its reason; what has no identity on a side is counted.
    2. From the rest, only contacts that were answered well teach anything.
    3. Paths become templates per destination, port and method; rules are per caller, with the methods and templates
       that this caller used, never a cross product.
    4. The written tree is read back by the policy engine and decides EVERY flow, quarantined ones included: what it
       denies counts against the bounds, whatever the reason.
    """
    # (1)
    quarantined = find_suspicious(flows)
    outside = {(item.source, item.destination, item.port) for item in quarantined}
    unattributed = sum(flow.connections for flow in flows if _ids(flow) is None)
    # (2)
    good = [flow for flow in flows if _ids(flow) and edge_of(flow) not in outside and is_success(flow)]
    # (3)
    templates = _templates(good)
    services = _services(good, templates)
    # (4)
    policies = written(services)
    index = Index(policies, "proposal")
    denied = _Denied(index)
    reports = _reports(flows, services, templates, denied, schedules)
    return Proposal(
        services=services,
        reports=reports,
        quarantined=quarantined,
        blind_spots=_blind_spots(good),
        unattributed=unattributed,
    )


def written(services: Sequence[ProposedService]) -> PolicySet:
    """The proposal as the policy engine reads it.

    Raises AssertionError when its own text does not load: that is a bug of the writer.
    """
    text = "---\n".join(service.to_yaml() for service in services)
    policies, findings = load_text(text, "proposal")
    errors = [str(item) for item in findings if item.severity == "error"]
    if errors:
        raise AssertionError(f"the proposal does not load: {errors[:3]}")
    return policies


def _ids(flow: Flow) -> tuple[SpiffeId, SpiffeId] | None:
    """Both identities of a flow; None when one is missing or no workload's."""
    if flow.source is None or flow.destination is None:
        return None
    try:
        found = SpiffeId.parse(flow.source), SpiffeId.parse(flow.destination)
    except SpiffeIdError:
        return None
    return found if all(item.path for item in found) else None


_Key = tuple[str, int, str]


def _templates(flows: Sequence[Flow]) -> dict[_Key, Templates]:
    paths: defaultdict[_Key, list[str]] = defaultdict(list)
    for flow in flows:
        if flow.path is not None and flow.protocol == "http":
            # what is frequent stays frequent, and no single row can outvote all others
            paths[_key(flow)] += [flow.path] * min(flow.connections, 1000)
    return {key: learn_templates(found) for key, found in paths.items()}


def _key(flow: Flow) -> _Key:
    return str(flow.destination), flow.destination_port, flow.method or ""


def _template(flow: Flow, templates: Mapping[_Key, Templates]) -> str | None:
    """The template of a flow's path; gRPC methods are templates already."""
    if flow.path is None:
        return None
    if flow.protocol == "grpc":
        return flow.path
    found = templates.get(_key(flow))
    return found.template(flow.path) if found is not None else None


def _services(flows: Sequence[Flow], templates: Mapping[_Key, Templates]) -> tuple[ProposedService, ...]:
    by_destination: defaultdict[str, list[Flow]] = defaultdict(list)
    for flow in flows:
        if flow.protocol != "udp":
            by_destination[str(flow.destination)].append(flow)
    names = service_names(by_destination)
    return tuple(
        _service(names[identity], identity, found, templates) for identity, found in sorted(by_destination.items())
    )


def service_names(identities: Sequence[str] | Mapping[str, object]) -> dict[str, str]:
    """Name services after the last segment of their identity, with what comes before where that is not enough."""
    names: dict[str, str] = {}
    segments = {identity: SpiffeId.parse(identity).segments for identity in identities}
    last = Counter(found[-1].lower() for found in segments.values())
    for identity in sorted(segments):
        parts = segments[identity]
        name = _name(parts[-1])
        if last[parts[-1].lower()] > 1:
            namespace = parts[1] if len(parts) > 2 and parts[0] == "ns" else "-".join(parts[:-1]) or "root"
            name = _name(f"{namespace}-{parts[-1]}")
        candidate, number = name, 2
        while candidate in names.values():
            candidate, number = f"{name}-{number}", number + 1
        names[identity] = candidate
    return names


def _name(text: str) -> str:
    """A name as policies allow it: lower case, digits, dots and dashes, not at the ends."""
    found = "".join(c if c.isalnum() or c in "-." else "-" for c in text.lower()).strip("-.")
    return found or "service"


def _owner(identity: str) -> str:
    parts = SpiffeId.parse(identity).segments
    return f"team-{_name(parts[1])}" if len(parts) > 2 and parts[0] == "ns" else "unowned"


def _service(name: str, identity: str, flows: Sequence[Flow], templates: Mapping[_Key, Templates]) -> ProposedService:
    protocols: dict[int, str] = {}
    for flow in flows:
        seen = protocols.get(flow.destination_port)
        # a port where requests were seen is parsed; the same port's plain connections are its transport
        if seen is None or seen == "tcp":
            protocols[flow.destination_port] = flow.protocol if flow.protocol != "udp" else "tcp"
    by_caller: defaultdict[str, list[Flow]] = defaultdict(list)
    for flow in flows:
        if flow.protocol == protocols[flow.destination_port]:
            by_caller[str(flow.source)].append(flow)
    callers = service_names(by_caller)
    rules = tuple(
        ProposedRule(
            id=f"from-{callers[caller]}",
            caller=caller,
            grants=_grants(found, templates),
            evidence=_evidence(found),
        )
        for caller, found in sorted(by_caller.items())
        if _grants(found, templates)
    )
    return ProposedService(
        name=name, owner=_owner(identity), identity=identity, ports=tuple(sorted(protocols.items())), rules=rules
    )


def _grants(flows: Sequence[Flow], templates: Mapping[_Key, Templates]) -> tuple[Grant, ...]:
    """What one caller did on each port, and nothing that only another caller did."""
    operations: defaultdict[int, defaultdict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    plain: set[int] = set()
    for flow in flows:
        template = _template(flow, templates)
        if flow.protocol == "tcp":
            plain.add(flow.destination_port)
        elif template is not None:
            operations[flow.destination_port][flow.method or "POST"].add(template)
    grants = [Grant(port=port) for port in sorted(plain)]
    grants += [
        Grant(port=port, operations=tuple((method, tuple(sorted(paths))) for method, paths in sorted(found.items())))
        for port, found in sorted(operations.items())
    ]
    return tuple(grants)


def _evidence(flows: Sequence[Flow]) -> dict[str, object]:
    first, last = min(flow.start for flow in flows), max(flow.end or flow.start for flow in flows)
    examples = sorted({f"{flow.method} {flow.path}" for flow in flows if flow.path is not None})[:MAX_EXAMPLES]
    return {
        "n": sum(flow.connections for flow in flows),
        "first": format_time(first),
        "last": format_time(last),
        "days": len({flow.start.date() for flow in flows}),
        "replicas": sorted({flow.replica for flow in flows if flow.replica is not None}),
        "versions": sorted({flow.version for flow in flows if flow.version is not None}),
        "sensors": sorted({flow.sensor for flow in flows if flow.sensor is not None}),
        "examples": examples,
    }


class _Denied:
    """Whether the written proposal denies a flow; decided once per kind of request."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._known: dict[tuple[object, ...], bool] = {}

    def __call__(self, flow: Flow) -> bool:
        key = (flow.source, flow.destination, flow.destination_port, flow.protocol, flow.method, flow.path)
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = self._decide(flow)
        return found

    def _decide(self, flow: Flow) -> bool:
        if flow.destination is None or flow.protocol == "udp":
            return True
        request = Request(
            service=flow.destination,
            port=flow.destination_port,
            protocol=flow.protocol,
            source=flow.source,
            method=flow.method,
            path=flow.path,
        )
        return not self._index.decide(request).is_allowed


def _reports(
    flows: Sequence[Flow],
    services: Sequence[ProposedService],
    templates: Mapping[_Key, Templates],
    denied: _Denied,
    schedules: Sequence[Mapping[str, str]],
) -> tuple[ServiceReport, ...]:
    def atom_of(flow: Flow) -> Atom:
        source, destination, port = edge_of(flow)
        return source, destination, port, flow.method or flow.protocol, _template(flow, templates) or flow.path or ""

    sessions: defaultdict[str, list[Session]] = defaultdict(list)
    for session in split_sessions(flows, atom_of, denied):
        sessions[session.atom[1]].append(session)
    reports = []
    for service in services:
        coverage = measure(sessions[service.identity])
        reports.append(
            ServiceReport(
                service=service.name,
                identity=service.identity,
                coverage=coverage,
                open=_open_items(service, coverage, templates, schedules, flows),
            )
        )
    return tuple(reports)


def _open_items(
    service: ProposedService,
    coverage: Coverage,
    templates: Mapping[_Key, Templates],
    schedules: Sequence[Mapping[str, str]],
    flows: Sequence[Flow],
) -> tuple[str, ...]:
    """What nobody can know from these flows."""
    found = []
    if coverage.days < 2:
        found.append("less than two days were watched: nothing is known about the next day")
    more = coverage.kinds_at_least - len({grant for rule in service.rules for grant in rule.grants})
    if coverage.days >= 2 and more >= 1:
        found.append(f"at least {more:.0f} kinds of calls were not seen yet (Chao2)")
    for (destination, port, method), known in sorted(templates.items()):
        if destination == service.identity:
            found += [
                f"{method} {template} on port {port} takes any text in place of {', '.join(fold.examples)}"
                for template, folds in sorted(known.folds.items())
                for fold in folds
                if not fold.type
            ]
    seen = {(flow.source, flow.destination) for flow in flows}
    found += [
        f"{row.get('spiffe_id')} is scheduled to call ({row.get('cron')}) and was not seen"
        for row in schedules
        if row.get("destination") == service.identity and (row.get("spiffe_id"), row.get("destination")) not in seen
    ]
    return tuple(found)


def _blind_spots(flows: Sequence[Flow]) -> tuple[dict[str, object], ...]:
    """Edges that one kind of sensor saw and another, which watched the same time, did not."""
    kinds: defaultdict[str, set[Edge]] = defaultdict(set)
    for flow in flows:
        if flow.sensor is not None:
            kinds[flow.sensor.partition(":")[0]].add(edge_of(flow))
    found: list[dict[str, object]] = []
    for edge in sorted(set().union(*kinds.values())) if len(kinds) > 1 else []:
        seen = sorted(name for name, edges in kinds.items() if edge in edges)
        missed = sorted(set(kinds) - set(seen))
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


def watched(flows: Sequence[Flow]) -> dt.timedelta:
    """How long was watched, from the first flow to the last."""
    if not flows:
        return dt.timedelta()
    return max(flow.end or flow.start for flow in flows) - min(flow.start for flow in flows)
