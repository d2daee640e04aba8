"""Who can reach a service, what one identity can reach through others, and what a rollout opens in between.

Reachability is over requests that some rule lets through, whatever they have to bring. A service that is reached can go
on with its own identities: that is the blast radius of whoever got hold of one. During a rollout some sidecars decide
by the old version and some by the new one; each decision is one of the two, but a way through several services may
take one hop of each. `rollout` finds every service that can be reached so, and in neither version alone.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Collection, Iterable, Mapping, Sequence

from mesh.request import Effect
from mesh.spiffe import SpiffePattern
from policyengine.analysis import allowed_rows
from policyengine.atoms import Callers, caller_classes
from policyengine.belief import unbelieved
from policyengine.diagram import Builder, leaves
from policyengine.ir import ANYTHING, Grant
from policyengine.model import PolicySet, Principals
from policyengine.regions import form_of, regions_of_forms
from policyengine.rows import Row
from policyengine.secondlook import Replayer


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """A service that can be reached, through which others, and by which requests to it."""

    service: str
    via: tuple[str, ...]
    access: tuple[Row, ...]

    def to_json(self) -> dict[str, object]:
        """The public JSON object."""
        return {
            "service": self.service,
            "hops": len(self.via) + 1,
            "via": list(self.via),
            "access": [row.to_json() for row in self.access],
        }


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """A way to a service through others, and the access to the first of those."""

    via: tuple[str, ...]
    access: tuple[Row, ...]

    def to_json(self) -> dict[str, object]:
        """The public JSON object."""
        return {"via": list(self.via), "access": [row.to_json() for row in self.access]}


def who_reaches(
    policies: PolicySet, service: str, callers: Principals, outside: Principals | None, now: dt.datetime
) -> tuple[Row, ...]:
    """All access to a service that callers have by themselves; ``outside`` are left out.

    Raises TooLarge.
    """
    return _access(policies, service, callers, outside, Replayer(policies, policies), now)


def _access(
    policies: PolicySet,
    service: str,
    callers: Principals,
    outside: Principals | None,
    replayer: Replayer,
    now: dt.datetime,
) -> tuple[Row, ...]:
    watched = dataclasses.replace(_watch(callers), unless_callers=outside)
    found = allowed_rows(policies, service, watched, now)
    return tuple(replayer.replayed(row, Effect.ALLOW, Effect.ALLOW) for row in found)


def ways_through(
    policies: PolicySet, service: str, callers: Principals, outside: Principals | None, now: dt.datetime
) -> tuple[Way, ...]:
    """The ways of callers to a service through others, which call it with identities of their own.

    ``outside`` are left out as callers, not on the way: whoever asks if anything outside of a group reaches a service
    means those too that a member of the group lets in. Of the ways through one first service the shortest is named.

    Raises TooLarge.
    """
    before: dict[str, set[str]] = {}
    for caller, called in _graph(policies, now).next.items():
        for name in called:
            before.setdefault(name, set()).add(caller)
    ways: dict[str, tuple[str, ...]] = {service: ()}
    waiting = [service]
    for name in waiting:
        for caller in sorted(before.get(name, ())):
            if caller not in ways:
                ways[caller] = (caller, *ways[name])
                waiting.append(caller)
    replayer = Replayer(policies, policies)
    found = (
        Way(via=ways[name], access=_access(policies, name, callers, outside, replayer, now)) for name in waiting[1:]
    )
    return tuple(way for way in found if way.access)


def blast_radius(policies: PolicySet, callers: Principals, now: dt.datetime) -> tuple[Reached, ...]:
    """Every service that callers can reach, directly or through services that they reach; the fewest hops of each.

    Raises TooLarge.
    """
    found: dict[str, Reached] = {}
    frontier: list[tuple[tuple[str, ...], Principals]] = [((), callers)]
    replayer = Replayer(policies, policies)
    while frontier:
        following: list[tuple[tuple[str, ...], Principals]] = []
        for via, who in frontier:
            for service in policies.services:
                if service.name in found or service.name in via:
                    continue
                rows = allowed_rows(policies, service.name, _watch(who), now)
                if rows:
                    access = tuple(replayer.replayed(row, Effect.ALLOW, Effect.ALLOW) for row in rows)
                    found[service.name] = Reached(service=service.name, via=via, access=access)
                    own = Principals(is_any=False, patterns=service.identities)
                    following.append(((*via, service.name), own))
        frontier = following
    return tuple(found.values())


def _watch(callers: Principals) -> Grant:
    return Grant(
        rank=0, tier="guardrail", effect=Effect.ALLOW, policy="", rule="", callers=callers, operations=(ANYTHING,)
    )


# ---------------------------------------------------------------------- rollouts


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """A way that exists only while both versions are in force: each hop with the versions that allow it."""

    source: str
    hops: tuple[tuple[str, tuple[str, ...]], ...]

    def to_json(self) -> dict[str, object]:
        """The public JSON object."""
        hops = [{"service": service, "allowed_by": list(versions)} for service, versions in self.hops]
        return {"source": self.source, "service": self.hops[-1][0], "hops": hops}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Graph:
    """Who may call whom in one version: by service, the classes of callers that something is allowed to."""

    allowed: Mapping[str, frozenset[str]]
    known: Mapping[str, frozenset[str]]
    next: Mapping[str, frozenset[str]]

    def first(self, callers: Callers) -> frozenset[str]:
        """The services that a class of callers may call."""
        texts = (*callers.inside, "any")
        return frozenset(name for name in self.allowed if self._is_allowed(name, texts))

    def _is_allowed(self, service: str, texts: Sequence[str]) -> bool:
        narrowest = next(text for text in texts if text in self.known[service])
        return narrowest in self.allowed[service]


def rollout(old: PolicySet, new: PolicySet, now: dt.datetime) -> tuple[Chain, ...]:
    """What can be reached while old and new are mixed, and in neither of them alone.

    1. ONE request is decided by one sidecar, by the old or the new version: it is allowed by the union of both.
    2. A way of several hops is made of such decisions. Callers fall into classes by ALL patterns of both versions; for
       EVERY class, what is reached over the hops of both, less what is reached over those of either, is reported.
       A hop that takes a token is one of the versions that declare its issuer.

    Raises TooLarge.
    """
    patterns = [*_patterns(old), *_patterns(new)]
    graphs = {"old": _graph(old, now), "new": _graph(new, now)}
    known: dict[tuple[frozenset[str], frozenset[str]], list[tuple[tuple[str, tuple[str, ...]], ...]]] = {}
    found: list[Chain] = []
    for callers in caller_classes(patterns):
        firsts = (graphs["old"].first(callers), graphs["new"].first(callers))
        if firsts not in known:
            known[firsts] = _only_mixed(graphs, dict(zip(graphs, firsts, strict=True)))
        found += [Chain(source=callers.name, hops=hops) for hops in known[firsts]]
    return tuple(found)


def _only_mixed(
    graphs: Mapping[str, _Graph], firsts: Mapping[str, frozenset[str]]
) -> list[tuple[tuple[str, tuple[str, ...]], ...]]:
    """The shortest ways of a class of callers to what it reaches over the hops of both versions only."""
    alone: set[str] = set()
    for name, graph in graphs.items():
        alone |= _ways(firsts[name], [graph]).keys()
    both = _ways(frozenset().union(*firsts.values()), list(graphs.values()))
    found = []
    for service in sorted(both.keys() - alone):
        hops = []
        before: str | None = None
        for hop in both[service]:
            allowing = tuple(
                name
                for name, graph in graphs.items()
                if hop in (firsts[name] if before is None else graph.next.get(before, frozenset()))
            )
            hops.append((hop, allowing))
            before = hop
        found.append(tuple(hops))
    return found


def _ways(first: Collection[str], graphs: Sequence[_Graph]) -> dict[str, tuple[str, ...]]:
    """By service, the shortest way to it over the hops of some versions."""
    found: dict[str, tuple[str, ...]] = {service: (service,) for service in sorted(first)}
    waiting = list(found)
    for service in waiting:
        for other in sorted({name for graph in graphs for name in graph.next.get(service, ())}):
            if other not in found:
                found[other] = (*found[service], other)
                waiting.append(other)
    return found


def _patterns(policies: PolicySet) -> Iterable[SpiffePattern]:
    for service in policies.services:
        yield from service.identities
        form = form_of(policies, service.name)
        for grant in () if form is None else form.grants:
            yield from grant.callers.patterns
            if grant.unless_callers is not None:
                yield from grant.unless_callers.patterns


def _graph(policies: PolicySet, now: dt.datetime) -> _Graph:
    """The graph of one version: it believes no token of an issuer that it does not declare.

    Raises TooLarge.
    """
    beliefs = unbelieved(policies)
    identities = {service.name: tuple(map(str, service.identities)) for service in policies.services}
    beside = tuple({str(pattern): pattern for service in policies.services for pattern in service.identities}.values())
    allowed: dict[str, frozenset[str]] = {}
    known: dict[str, frozenset[str]] = {}
    following: dict[str, set[str]] = {}
    for service in policies.services:
        names: set[str] = set()
        every: set[str] = set()
        for region in regions_of_forms(service.name, (form_of(policies, service.name),), beside, beliefs):
            builder = Builder(region, now)
            trees = (builder.tree(axes) for axes in region.ports)
            is_allowed = any(leaf.verdicts[0].effect is Effect.ALLOW for tree in trees for leaf in leaves(tree))
            for callers in region.callers:
                every.add(callers.name)
                if is_allowed:
                    names.add(callers.name)
                    texts = set(callers.inside)
                    for other, own in identities.items():
                        if texts & set(own):
                            following.setdefault(other, set()).add(service.name)
        allowed[service.name], known[service.name] = frozenset(names), frozenset(every)
    return _Graph(allowed=allowed, known=known, next={name: frozenset(found) for name, found in following.items()})
