"""Why a request got its decision: the path through the tiers, the deciding rule, the nearest miss and the smallest fix.

Decided is by the reference evaluator; what would have to change is found by `policyengine.fixes`. This module changes
nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from mesh.problems import Span
from mesh.request import Decision, Effect, NearestMiss, Request
from policyengine import model, reference
from policyengine.attributes import Facts
from policyengine.fixes import Fix, about, facts_of, smallest_fix, with_opening

_SHOWN = 100
"""How many matching rules of a tier are listed."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Matched:
    """A rule that matched, and where it stands."""

    effect: Effect
    policy: str
    rule: str
    span: Span | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TierStep:
    """What happened in one tier. ``effect`` None: no rule matched, or the tier was not reached.

    ``matched`` are all rules that matched there, the one that counted first.
    """

    tier: model.Tier
    is_reached: bool
    effect: Effect | None = None
    policy: str = ""
    rule: str = ""
    span: Span | None = None
    matched: tuple[Matched, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """A decision with its path. ``ambiguous`` says, by attribute, why a request is refused before any rule.

    ``span`` is where the deciding rule stands, None where no rule decided or its file is not known.
    """

    decision: Decision
    steps: tuple[TierStep, ...]
    ambiguous: tuple[tuple[str, str], ...]
    fix: Fix | None
    span: Span | None = None

    @property
    def nearest(self) -> NearestMiss | None:
        """The nearest miss, as decisions carry it."""
        return self.fix.miss if self.fix is not None else None


def explain(policies: model.PolicySet, request: Request, *, snapshot: str) -> Explanation:
    """Decide a request with the reference evaluator and say how it came about."""
    facts = facts_of(policies, request)
    mine = policies if facts is None else about(policies, facts)
    decision = reference.decide(mine, request, snapshot=snapshot)
    fix = smallest_fix(policies, request)
    return Explanation(
        decision=decision,
        steps=tuple(_steps(mine, request, facts)),
        ambiguous=tuple(sorted(facts.ambiguous.items())) if facts is not None else (),
        fix=None if fix is None else with_opening(policies, request, fix),
        span=span_of(policies, decision.policy, decision.rule) if decision.rule else None,
    )


def nearest_miss(policies: model.PolicySet, request: Request) -> NearestMiss | None:
    """The smallest change that would allow what the rules deny; None when they allow it."""
    found = smallest_fix(policies, request)
    return found.miss if found is not None else None


def _steps(policies: model.PolicySet, request: Request, facts: Facts | None) -> Iterator[TierStep]:
    """Tier by tier, what matched and what decided there."""
    service = policies.service_for(request.service)
    is_over = service is None or facts is None or bool(facts.ambiguous)
    for tier in model.TIERS:
        if is_over or service is None or facts is None:
            yield TierStep(tier=tier, is_reached=False)
            continue
        matched = [
            Matched(effect=effect, policy=policy, rule=rule, span=span_of(policies, policy, rule))
            for effect in (Effect.DENY, Effect.PASS, Effect.ALLOW)
            for policy, rule in sorted(reference.matches(policies, service, facts, tier, effect))[:_SHOWN]
        ]
        if not matched:
            yield TierStep(tier=tier, is_reached=True)
            continue
        first = matched[0]
        yield TierStep(
            tier=tier,
            is_reached=True,
            effect=first.effect,
            policy=first.policy,
            rule=first.rule,
            span=first.span,
            matched=tuple(matched),
        )
        is_over = first.effect in {Effect.DENY, Effect.ALLOW}


def span_of(policies: model.PolicySet, name: str, identifier: str) -> Span | None:
    """Where a rule stands; an exception stands in as its rule."""
    for policy in policies.policies:
        if policy.name == name:
            return next((rule.span for rule in policy.rules if rule.id == identifier), None)
    return next((item.span for item in policies.exceptions if item.name == name), None)
