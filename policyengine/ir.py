"""The normal form of a policy set: per called service, its grants in the order in which they decide.

A `Grant` is one rule, or one exception, with groups and services resolved. Sorted by rank, the first grant of a tier
that matches is the one that decides in this tier: deny, then pass, then allow (design D3); equal effects are ordered
by name, so that every evaluator names the same one. This module decides nothing.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Mapping

from mesh.problems import Span
from mesh.request import Effect, Protocol
from policyengine import model

EFFECT_ORDER = {Effect.DENY: 0, Effect.PASS: 1, Effect.ALLOW: 2}
ANYTHING = model.Operation()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """A rule or an exception in normal form. ``operations`` are ORed; ``until`` is the end of an exception.

    ``modules`` are those that a custom rule which it names may be made of.
    """

    rank: int
    tier: model.Tier
    effect: Effect
    policy: str
    rule: str
    callers: model.Principals
    operations: tuple[model.Operation, ...] = (ANYTHING,)
    when: model.Conditions | None = None
    unless_callers: model.Principals | None = None
    unless_when: model.Conditions | None = None
    until: dt.datetime | None = None
    modules: tuple[model.RegoModule, ...] = ()
    source: model.Rule | None = None
    span: Span | None = None

    @property
    def is_conditional(self) -> bool:
        """Whether more than caller and operation matters."""
        fields = (self.when, self.unless_callers, self.unless_when, self.until)
        return any(field is not None for field in fields)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ServiceForm:
    """Everything that decides about one called service."""

    service: model.Service
    protocols: Mapping[int, Protocol]
    headers: frozenset[str]
    grants: tuple[Grant, ...]


def normalise(policies: model.PolicySet, service: model.Service) -> ServiceForm:
    """Bring what a policy set says about a service into normal form."""
    found: list[tuple[model.Tier, str, model.Rule, dt.datetime | None]] = [
        (policy.tier, policy.name, rule, None)
        for policy in policies.policies_for(service.name)
        for rule in policy.rules
    ]
    found += [
        ("app", exception.name, exception.as_rule(), exception.until)
        for exception in policies.exceptions
        if exception.service == service.name
    ]
    found.sort(key=lambda item: (model.TIERS.index(item[0]), EFFECT_ORDER[item[2].effect], item[1], item[2].id))
    make = Grants(policies)
    return ServiceForm(
        service=service,
        protocols={port.port: port.protocol for port in service.ports},
        headers=policies.headers_for(service.name),
        grants=tuple(
            make.grant(tier, policy, rule, until, rank) for rank, (tier, policy, rule, until) in enumerate(found)
        ),
    )


class Grants:
    """Makes grants of the rules of one policy set: principals that were resolved once are known."""

    def __init__(self, policies: model.PolicySet) -> None:
        self._names = model.Names(policies)
        self._modules = policies.rego
        self._expanded: dict[tuple[tuple[str, str], ...], model.Principals] = {}

    def grant(
        self, tier: model.Tier, policy: str, rule: model.Rule, until: dt.datetime | None = None, rank: int = 0
    ) -> Grant:
        """One rule in normal form; ``rank`` is its place where there are others around it."""
        unless = rule.unless
        return Grant(
            rank=rank,
            tier=tier,
            effect=rule.effect,
            policy=policy,
            rule=rule.id,
            callers=self._expand(rule.from_),
            operations=rule.to or (ANYTHING,),
            when=rule.when,
            unless_callers=self._expand(unless.from_) if unless and unless.from_ else None,
            unless_when=unless.when if unless else None,
            until=until,
            modules=self._modules if rule.custom_rules() else (),
            source=rule,
            span=rule.span,
        )

    def _expand(self, principals: tuple[model.Principal, ...]) -> model.Principals:
        # by kind and name, which say it all: hashing parsed patterns takes longer than resolving them
        key = tuple((principal.kind, principal.name) for principal in principals)
        found = self._expanded.get(key)
        if found is None:
            found = self._expanded[key] = self._names.expand(principals)
        return found
