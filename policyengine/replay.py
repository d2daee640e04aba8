"""The impact of a change on recorded traffic: which flows it changes, exactly, and for which nobody can tell.

A flow is decided under both versions as if it happened now. Where a rule that could decide it looks at something that
flows do not record (a header, a token, a Host, for some sensors a path), it is uncertain, never guessed.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Collection, Iterable
from typing import Literal

from mesh.flow import Flow
from mesh.request import Decision, Effect, Request
from policyengine.attributes import identity_of
from policyengine.canonical import Ambiguous, canonical_path
from policyengine.decide import Index
from policyengine.ir import ServiceForm, normalise
from policyengine.model import Conditions, Operation, PolicySet, Service

Outcome = Literal["same", "newly_allowed", "newly_denied", "uncertain"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FlowChange:
    """A recorded flow that the change decides differently, with the rules that did and would decide it."""

    flow: Flow
    outcome: Outcome
    before: str
    after: str

    def to_json(self) -> dict[str, object]:
        """The JSON object of the change."""
        return {"flow": self.flow.to_json(), "outcome": self.outcome, "before": self.before, "after": self.after}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Impact:
    """How many flows stay and change, and the list of those that change."""

    same: int = 0
    newly_allowed: int = 0
    newly_denied: int = 0
    uncertain: int = 0
    changes: tuple[FlowChange, ...] = ()

    def to_json(self) -> dict[str, object]:
        """The public JSON object: the counts."""
        return {
            "same": self.same,
            "newly_allowed": self.newly_allowed,
            "newly_denied": self.newly_denied,
            "uncertain": self.uncertain,
        }


def impact_of(
    old: PolicySet,
    new: PolicySet,
    flows: Iterable[Flow],
    now: dt.datetime,
    *,
    changed: Collection[str] | None = None,
) -> Impact:
    """Decide every flow under both versions.

    1. A flow to a service whose rules did not change is the same. ``changed`` names the others, if that is known.
    2. A flow without an attributed caller or destination is uncertain.
    3. It is uncertain when, in either version, SOME grant that could apply looks at what the flow does not record.
    4. Otherwise both versions decide it.
    """
    sides = (_Side(old, "old"), _Side(new, "new"))
    counts: dict[Outcome, int] = {"same": 0, "newly_allowed": 0, "newly_denied": 0, "uncertain": 0}
    changes: list[FlowChange] = []
    seen: dict[tuple[object, ...], tuple[Outcome, str, str]] = {}
    for flow in flows:
        called = (flow.destination, flow.destination_port, flow.protocol, flow.method, flow.path)
        key = (flow.source, flow.source_ip, *called)
        if key not in seen:
            seen[key] = _outcome(sides, flow, now, changed)
        outcome, before, after = seen[key]
        counts[outcome] += 1
        if outcome in {"newly_allowed", "newly_denied"}:
            changes.append(FlowChange(flow=flow, outcome=outcome, before=before, after=after))
    return Impact(**counts, changes=tuple(changes))


class _Side:
    """One version, with the forms of its services."""

    def __init__(self, policies: PolicySet, name: str) -> None:
        self.index = Index(policies, name)
        self._policies = policies
        self._forms: dict[str, ServiceForm | None] = {}

    def form(self, destination: str) -> ServiceForm | None:
        """The form of the service that a SPIFFE ID belongs to."""
        if destination not in self._forms:
            service = self._policies.service_for(destination)
            self._forms[destination] = None if service is None else normalise(self._policies, service)
        return self._forms[destination]


def _outcome(
    sides: tuple[_Side, _Side], flow: Flow, now: dt.datetime, changed: Collection[str] | None
) -> tuple[Outcome, str, str]:
    # (2)
    if flow.destination is None:
        return "uncertain", "", ""
    forms = [side.form(flow.destination) for side in sides]
    # (1)
    names = {form.service.name for form in forms if form is not None}
    if changed is not None and not names & set(changed):
        return "same", "", ""
    # (2)
    if flow.source is None:
        return "uncertain", "", ""
    request = request_of(flow, now)
    # (3)
    if any(form is not None and _is_open(form, request) for form in forms):
        return "uncertain", "", ""
    # (4)
    before, after = (side.index.decide(request) for side in sides)
    outcome: Outcome = "same"
    if before.effect is not after.effect:
        outcome = "newly_allowed" if after.effect is Effect.ALLOW else "newly_denied"
    return outcome, _named(before), _named(after)


def request_of(flow: Flow, now: dt.datetime) -> Request:
    """The request that a flow recorded, at the given time."""
    assert flow.destination is not None
    has_request = flow.protocol in {"http", "grpc"}
    return Request(
        service=flow.destination,
        port=flow.destination_port,
        protocol="grpc" if flow.protocol == "grpc" else "http" if has_request else "tcp",
        source=flow.source,
        method=flow.method if has_request else None,
        path=flow.path if has_request else None,
        peer_ip=flow.source_ip,
        time=now,
        unknown=frozenset({"host", "claims", "forwarded_ip"}),
    )


def _is_open(form: ServiceForm, request: Request) -> bool:
    """Whether some grant that could apply looks at what the request does not say."""
    source = identity_of(request.source)
    if source is None:
        return False  # nobody's deny: no attribute can change that
    protocol = form.protocols.get(request.port)
    return any(
        _could_apply(operation, request, protocol, form.service)
        and (_looks_further(grant.when) or _looks_further(grant.unless_when) or _is_unsaid(operation, request))
        for grant in form.grants
        if grant.callers.contains(source) or grant.callers.incomplete
        for operation in grant.operations
    )


def _could_apply(operation: Operation, request: Request, protocol: str | None, service: Service) -> bool:
    """Whether the operation could match, as far as the flow says."""
    if operation.ports is not None and request.port not in operation.ports:
        return False
    if protocol == "tcp":
        return True
    if operation.methods is not None and request.method is not None and request.method not in operation.methods:
        return False
    if operation.paths is None or request.path is None:
        return True
    path = canonical_path(request.path, service.path_case)
    if isinstance(path, Ambiguous):
        return False  # refused before any rule, whatever else it says
    return any(pattern.matches(path.segments) for pattern in operation.paths)


def _is_unsaid(operation: Operation, request: Request) -> bool:
    return (
        operation.hosts is not None
        or (operation.methods is not None and request.method is None)
        or (operation.paths is not None and request.path is None)
    )


def _looks_further(conditions: Conditions | None) -> bool:
    """Whether a condition is about more than the present moment: a flow says nothing certain about it."""
    return conditions is not None


def _named(decision: Decision) -> str:
    return f"{decision.policy}/{decision.rule}" if decision.rule else decision.code
