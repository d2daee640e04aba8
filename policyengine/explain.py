"""Why a request got its decision: the path through the tiers, the nearest miss and the smallest fix.

A fix is never guessed: the change it names is made on a copy of the policy set (or of the request), and the reference
evaluator has to allow the result before the fix is reported. This module changes nothing.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator

from mesh.problems import Span
from mesh.request import Decision, Effect, NearestMiss, Request
from policyengine import model, reference
from policyengine.attributes import Facts, read
from policyengine.differences import Difference, rule_differences
from policyengine.reading import did_you_mean

_TRIED = 24
"""How many candidates are tried out; those behind them differ in more."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TierStep:
    """What happened in one tier. ``effect`` None: no rule matched, or the tier was not reached."""

    tier: model.Tier
    is_reached: bool
    effect: Effect | None = None
    policy: str = ""
    rule: str = ""
    span: Span | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """A decision with its path. ``ambiguous`` says, by attribute, why a request is refused before any rule."""

    decision: Decision
    steps: tuple[TierStep, ...]
    ambiguous: tuple[tuple[str, str], ...]
    nearest: NearestMiss | None


def explain(policies: model.PolicySet, request: Request, *, snapshot: str) -> Explanation:
    """Decide a request with the reference evaluator and say how it came about."""
    decision = reference.decide(policies, request, snapshot=snapshot)
    facts = _facts(policies, request)
    return Explanation(
        decision=decision,
        steps=tuple(_steps(policies, request, facts)),
        ambiguous=tuple(sorted(facts.ambiguous.items())) if facts is not None else (),
        nearest=nearest_miss(policies, request),
    )


def _facts(policies: model.PolicySet, request: Request) -> Facts | None:
    service = policies.service_for(request.service)
    if service is None:
        return None
    protocol = service.protocol_of(request.port) or request.protocol
    facts = read(request, protocol, policies.headers_for(service.name), service.path_case)
    facts.custom = policies.custom
    return facts


def _steps(policies: model.PolicySet, request: Request, facts: Facts | None) -> Iterator[TierStep]:
    """Tier by tier, what decided there."""
    service = policies.service_for(request.service)
    is_over = service is None or facts is None or bool(facts.ambiguous)
    for tier in model.TIERS:
        if is_over or service is None or facts is None:
            yield TierStep(tier=tier, is_reached=False)
            continue
        effect, match = None, ("", "")
        for candidate in (Effect.DENY, Effect.PASS, Effect.ALLOW):
            found = reference.matches(policies, service, facts, tier, candidate)
            if found:
                effect, match = candidate, min(found)
                break
        rule = _find(policies, *match)
        span = rule.span if rule is not None else None
        yield TierStep(tier=tier, is_reached=True, effect=effect, policy=match[0], rule=match[1], span=span)
        is_over = effect in {Effect.DENY, Effect.ALLOW}


def nearest_miss(policies: model.PolicySet, request: Request) -> NearestMiss | None:
    """The smallest change that would allow what the rules deny; None when they allow it.

    1. What no rule can change comes first: the service, the caller's identity, an ambiguous request, the port.
    2. A deny or pass that decides is nearest: the caller is taken out of it.
    3. Otherwise the allows are ordered by what they lack, and the first whose change works is the nearest.
    4. Otherwise a deny and an allow together; otherwise a new rule.
    """
    decision = reference.decide(policies, request, snapshot="")
    if decision.policy_effect is Effect.ALLOW:
        return None
    # (1)
    service, facts = policies.service_for(request.service), _facts(policies, request)
    if service is None or facts is None:
        return _outside(("service",), f"add a Service `{request.service}`{_service_hint(policies, request)}")
    if (outside := _unruled(service, facts)) is not None:
        return outside
    # (2)
    blocking = [found for found in (_carve_out(policies, service, facts),) if found is not None]
    for block in blocking:
        if _allows(policies, request, [block]):
            return _miss([block])
    # (3)
    candidates = list(_candidates(policies, service, facts))
    for candidate in candidates:
        if _allows(policies, request, candidate):
            return _miss(candidate)
    # (4)
    for block, candidate in itertools.product(blocking, candidates):
        if _allows(policies, request, [*candidate, block]):
            return _miss([*candidate, block])
    return _new_rule(policies, service, facts, request)


def _service_hint(policies: model.PolicySet, request: Request) -> str:
    return did_you_mean(request.service, (service.name for service in policies.services))


def _outside(differs: tuple[str, ...], fix: str) -> NearestMiss:
    """A miss that no rule is part of."""
    return NearestMiss(policy="", rule="", differs=differs, fix=fix)


def _unruled(service: model.Service, facts: Facts) -> NearestMiss | None:
    """What refuses a request whatever the rules say."""
    if facts.source is None:
        return _outside(("source",), "connect with an SVID whose single URI SAN is a workload's SPIFFE ID")
    if facts.ambiguous:
        reasons = "; ".join(reason for _, reason in sorted(facts.ambiguous.items()))
        return _outside(tuple(sorted(facts.ambiguous)), f"send a request that can be read in one way only: {reasons}")
    if service.protocol_of(facts.request.port) is None:
        ports = ", ".join(str(port.port) for port in service.ports)
        fix = f"call a port that `{service.name}` declares ({ports}), or declare port {facts.request.port}"
        return _outside(("port",), fix)
    return None


def _carve_out(policies: model.PolicySet, service: model.Service, facts: Facts) -> Difference | None:
    """Taking the caller out of the first deny or pass that matched, where `unless` can say it."""
    for tier in model.TIERS:
        for effect in (Effect.DENY, Effect.PASS):
            found = reference.matches(policies, service, facts, tier, effect)
            if not found:
                continue
            name, identifier = min(found)
            rule = _find(policies, name, identifier)
            if rule is None or (rule.unless is not None and rule.unless.when is not None):
                return None
            caller = model.Principal.parse(str(facts.source))
            members = (*((rule.unless.from_ or ()) if rule.unless else ()), caller)
            return Difference(
                field="unless",
                weight=5,
                policy=name,
                rule=identifier,
                span=rule.span,
                fix=f"add `{caller}` to `unless.from`",
                new_rule=dataclasses.replace(rule, unless=model.Unless(from_=members)),
            )
    return None


def _candidates(policies: model.PolicySet, service: model.Service, facts: Facts) -> Iterator[list[Difference]]:
    """The allows of a service by what they lack, the smallest lack first."""
    found: list[tuple[int, str, str, list[Difference]]] = []
    for policy in policies.policies_for(service.name):
        for rule in policy.rules:
            if rule.effect is Effect.ALLOW:
                lacks = rule_differences(policies, policy.name, rule, facts)
                if lacks:
                    found.append((sum(lack.weight for lack in lacks), policy.name, rule.id, lacks))
    for exception in policies.exceptions:
        if exception.service == service.name and not exception.is_active(reference.time_of(facts.request)):
            lacks = rule_differences(policies, exception.name, exception.as_rule(), facts)
            if not lacks and facts.request.time is not None:
                found.append((2, exception.name, model.EXCEPTION_RULE, [_renewal(exception)]))
    found.sort(key=lambda item: item[:3])
    return (lacks for _, _, _, lacks in found[:_TRIED])


def _renewal(exception: model.ExceptionGrant) -> Difference:
    return Difference(
        field="until",
        weight=2,
        policy=exception.name,
        rule=model.EXCEPTION_RULE,
        span=exception.span,
        fix=f"renew exception `{exception.name}`, which has ended",
        renews=True,
    )


def _allows(policies: model.PolicySet, request: Request, changes: list[Difference]) -> bool:
    """Whether a set of changes makes the rules allow the request (tried, not inferred)."""
    changed, asked = policies, request
    rules: dict[tuple[str, str], model.Rule] = {}
    for change in changes:
        asked = change.on_request(asked)
        if change.renews:
            changed = _renewed(changed, change.policy, request)
        key = (change.policy, change.rule)
        if change.edit is not None:
            rule = rules.get(key) or _find(policies, *key)
            if rule is None:
                return False
            rules[key] = change.edit(rule)
        elif change.new_rule is not None:
            rules[key] = change.new_rule
    for (name, identifier), rule in rules.items():
        changed = _replaced(changed, name, identifier, rule)
    return reference.decide(changed, asked, snapshot="").policy_effect is Effect.ALLOW


def _renewed(policies: model.PolicySet, name: str, request: Request) -> model.PolicySet:
    time = reference.time_of(request)
    if time is None:
        return policies
    until = time.replace(year=time.year + 1, day=1)
    renewed = tuple(
        dataclasses.replace(item, until=until) if item.name == name else item for item in policies.exceptions
    )
    return dataclasses.replace(policies, exceptions=renewed)


def _replaced(policies: model.PolicySet, name: str, identifier: str, rule: model.Rule) -> model.PolicySet:
    """A policy set with one rule changed."""

    def edited(policy: model.Policy) -> model.Policy:
        rules = tuple(rule if found.id == identifier else found for found in policy.rules)
        return dataclasses.replace(policy, rules=rules)

    changed = tuple(edited(found) if found.name == name else found for found in policies.policies)
    return dataclasses.replace(policies, policies=changed)


def _miss(changes: list[Difference]) -> NearestMiss:
    """What is reported: the first change's rule, every field that differs, and what to do."""
    first = changes[0]
    where = f" at {first.span}" if first.span is not None else ""
    steps = []
    for change in changes:
        place = f" in rule `{change.rule}` of policy `{change.policy}`" if change.is_edit else ""
        steps.append(f"{change.fix}{place}")
    return NearestMiss(
        policy=first.policy,
        rule=first.rule,
        differs=tuple(change.field for change in changes),
        fix=", and ".join(dict.fromkeys(steps)) + (where if first.is_edit else ""),
    )


def _new_rule(policies: model.PolicySet, service: model.Service, facts: Facts, request: Request) -> NearestMiss | None:
    """The rule that nobody wrote yet, when it would work."""
    operation = model.Operation(ports=(request.port,))
    rule = model.Rule(id="new", effect=Effect.ALLOW, from_=(model.Principal.parse(str(facts.source)),), to=(operation,))
    for tier in ("app", "baseline"):
        policy = model.Policy(name="new", owner="", service=service.name, tier=tier, rules=(rule,))
        changed = dataclasses.replace(policies, policies=(*policies.policies, policy))
        if reference.decide(changed, request, snapshot="").policy_effect is Effect.ALLOW:
            what = f"{request.method} {request.path}" if request.method and request.path else f"port {request.port}"
            fix = f"add a rule to the {tier} tier that allows `{facts.source}` {what} on `{service.name}`"
            return NearestMiss(policy="", rule="", differs=("rule",), fix=fix)
    return None


def _find(policies: model.PolicySet, name: str, identifier: str) -> model.Rule | None:
    """A rule by its policy and id; an exception stands in as its rule."""
    for policy in policies.policies:
        if policy.name == name:
            return next((rule for rule in policy.rules if rule.id == identifier), None)
    return next((item.as_rule() for item in policies.exceptions if item.name == name), None)
