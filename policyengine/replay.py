"""The impact of a change on recorded traffic: which flows it changes, exactly, and for which nobody can tell.

A flow is decided under both versions as if it happened now. What flows do not record (a header, a token, a Host, an
hour of the day, for some sensors a path) may have been anything: a flow is uncertain when that decides whether the
change concerns it, and never guessed. Equal flows are decided once (`Counted`).
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import itertools
from collections.abc import Collection, Iterable
from typing import Literal

from mesh.flow import Flow
from mesh.request import Effect, Request
from policyengine.atoms import TooLarge
from policyengine.attributes import identity_of
from policyengine.canonical import Ambiguous, PathCase, canonical_path
from policyengine.circumstances import TIME, Stretch, Variable
from policyengine.decide import Index
from policyengine.diagram import CONDITIONS, METHOD, PATH, Diagram, Leaf, Tree, build
from policyengine.lookup import method_class, path_class, region_of
from policyengine.model import PolicySet, Service

Outcome = Literal["same", "newly_allowed", "newly_denied", "uncertain"]


@dataclasses.dataclass(frozen=True, slots=True)
class Counted:
    """So many flows that a decision cannot tell apart, and one of them."""

    flow: Flow
    count: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FlowChange:
    """A recorded flow that the change decides differently, with the rules that did and would decide it.

    Of an uncertain one nobody can say which rules.
    """

    flow: Flow
    outcome: Outcome
    before: str
    after: str
    count: int = 1

    def to_json(self) -> dict[str, object]:
        """The JSON object of the change."""
        return {"flow": self.flow.to_json(), "outcome": self.outcome, "before": self.before, "after": self.after}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Impact:
    """How many flows stay and change, and the list of those that do not stay for sure."""

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
    flows: Iterable[Flow | Counted],
    now: dt.datetime,
    *,
    changed: Collection[str] | None = None,
) -> Impact:
    """Decide every flow under both versions.

    1. A flow to a service whose rules did not change is the same. ``changed`` names the others, if that is known.
    2. A flow without an attributed caller or destination is uncertain.
    3. It is uncertain when what it does not record makes a difference to the change: the same to EVERY request that it
       may have been, or newly allowed, or newly denied, is certain.
    """
    sides = _Sides(old, new, now)
    counts: dict[Outcome, int] = {"same": 0, "newly_allowed": 0, "newly_denied": 0, "uncertain": 0}
    changes: dict[tuple[object, ...], FlowChange] = {}
    seen: dict[tuple[object, ...], tuple[Outcome, str, str]] = {}
    for item in flows:
        flow, count = (item.flow, item.count) if isinstance(item, Counted) else (item, 1)
        called = (flow.destination, flow.destination_port, flow.protocol, flow.method, flow.path)
        key = (flow.source, flow.source_ip, *called)
        if key not in seen:
            seen[key] = sides.outcome(flow, changed)
        outcome, before, after = seen[key]
        counts[outcome] += count
        if outcome != "same":
            known = changes.get(key)
            total = count if known is None else known.count + count
            first = flow if known is None else known.flow
            changes[key] = FlowChange(flow=first, outcome=outcome, before=before, after=after, count=total)
    return Impact(**counts, changes=tuple(changes.values()))


Effects = tuple[Effect, Effect]


class _Sides:
    """Both versions, with the diagrams of the services that were asked about."""

    def __init__(self, old: PolicySet, new: PolicySet, now: dt.datetime) -> None:
        self._versions = (old, new)
        self._indices = (Index(old, "old"), Index(new, "new"))
        self._now = now
        self._services: dict[str, tuple[Service | None, Service | None]] = {}
        self._diagrams: dict[tuple[str, int], Diagram] = {}
        self._known: dict[tuple[object, ...], frozenset[tuple[Effect, ...]]] = {}

    def outcome(self, flow: Flow, changed: Collection[str] | None) -> tuple[Outcome, str, str]:
        """What the change does to a flow, and what decides it before and after."""
        # (2)
        if flow.destination is None:
            return "uncertain", "", ""
        services = self._of(flow.destination)
        # (1)
        names = {service.name for service in services if service is not None}
        if not names:
            return "same", "", ""
        if changed is not None and not names & set(changed):
            return "same", "", ""
        # (2)
        if flow.source is None:
            return "uncertain", "", ""
        # (3)
        try:
            found = {self._meaning(effects) for effects in self._effects(flow, services)}
        except TooLarge:
            return "uncertain", "", ""
        if len(found) != 1:
            return "uncertain", "", ""
        (outcome,) = found
        if outcome == "same":
            return "same", "", ""
        before, after = (index.decide(request_of(flow, self._now)) for index in self._indices)
        return outcome, *(f"{d.policy}/{d.rule}" if d.rule else d.code for d in (before, after))  # type: ignore[return-value]

    def _of(self, destination: str) -> tuple[Service | None, Service | None]:
        if destination not in self._services:
            old, new = self._versions
            self._services[destination] = (old.service_for(destination), new.service_for(destination))
        return self._services[destination]

    @staticmethod
    def _meaning(effects: Effects) -> Outcome:
        if effects[0] is effects[1]:
            return "same"
        return "newly_allowed" if effects[1] is Effect.ALLOW else "newly_denied"

    def _effects(self, flow: Flow, services: tuple[Service | None, Service | None]) -> Iterable[Effects]:
        """What both versions may say: together of one service, each by itself where it has another name."""
        old, new = services
        if old is None or new is None or old.name == new.name:
            service = old or new
            return () if service is None else self._possible(flow, service, (0, 1))  # type: ignore[return-value]
        before = self._possible(flow, old, (0,))
        after = self._possible(flow, new, (1,))
        return [(one[0], other[0]) for one, other in itertools.product(before, after)]

    def _possible(self, flow: Flow, service: Service, versions: tuple[int, ...]) -> frozenset[tuple[Effect, ...]]:
        """What versions may say of the requests that a flow may have been."""
        assert flow.source is not None
        cases = {
            found.path_case for version in versions if (found := self._versions[version].service_for(service.name))
        }
        source, path = identity_of(flow.source), _path_of(flow, cases)
        diagram = self._diagram(service.name, versions)
        region = None if source is None else region_of(diagram, source)
        axes = None if region is None else next((a for a in region.ports if a.port == flow.destination_port), None)
        if region is None or axes is None or isinstance(path, Ambiguous):
            # outside of the diagram no rule looks at what is not recorded
            asked = request_of(flow, self._now)
            return frozenset({tuple(self._indices[version].decide(asked).effect for version in versions)})
        classes: dict[int, int | None] = {}
        if axes.protocol != "tcp":
            classes[METHOD] = None if flow.method is None else method_class(axes, flow.method)
            classes[PATH] = None if path is None else path_class(axes, path)
        key = (id(region), axes.port, *classes.values())
        if key not in self._known:
            builder = diagram.builder(region)
            self._known[key] = _reached(builder.tree(axes), classes, builder.variables)
        return self._known[key]

    def _diagram(self, name: str, versions: tuple[int, ...]) -> Diagram:
        key = (name, len(versions) + versions[0])
        if key not in self._diagrams:
            self._diagrams[key] = build(name, [self._versions[version] for version in versions], self._now)
        return self._diagrams[key]


def _path_of(flow: Flow, cases: Collection[PathCase]) -> tuple[str, ...] | Ambiguous | None:
    """The path of a flow as versions read it; where they differ about its case, with its letters as they came."""
    if flow.protocol not in {"http", "grpc"} or flow.path is None:
        return None
    found = canonical_path(flow.path, next(iter(cases)) if len(cases) == 1 else "sensitive")
    return found if isinstance(found, Ambiguous) else found.segments


def _reached(
    tree: Tree, classes: dict[int, int | None], variables: tuple[Variable, ...]
) -> frozenset[tuple[Effect, ...]]:
    """The effects of all leaves that are left open: None is any class, and so is what nobody recorded."""
    found: set[tuple[Effect, ...]] = set()
    seen: set[int] = set()
    waiting = [tree]
    while waiting:
        below = waiting.pop()
        if id(below) in seen:
            continue
        seen.add(id(below))
        if isinstance(below, Leaf):
            found.add(tuple(verdict.effect for verdict in below.verdicts))
            continue
        index = classes.get(below.dimension)
        allowed = None if index is None else frozenset((index,))
        if below.dimension >= CONDITIONS:
            allowed = _current(variables[below.dimension - CONDITIONS])
        waiting.extend(child for own, child in below.arms if allowed is None or own & allowed)
    return frozenset(found)


def _current(variable: Variable) -> frozenset[int] | None:
    """The classes of moments in the present stretch, at any hour; None for what is no moment."""
    if variable.attribute != TIME:
        return None
    return frozenset(
        index
        for index, value in enumerate(variable.values)
        if value.said and isinstance(value.said[0], Stretch) and value.said[0].place == 0
    )


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
