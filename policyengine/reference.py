"""The reference evaluator: design D3 in code, slow and obvious.

It reads every rule for every request and shares nothing with the index but the reading of attributes
(`policyengine.attributes`) and the canonical form. The index, and every compiler, must agree with it. It is not for
the path of a request.
"""

from __future__ import annotations

import datetime as dt

from mesh.request import Decision, Effect, Mode, Request
from policyengine import model
from policyengine.attributes import ABSENT, Facts, Truth, all_of, any_of, holds, read

ALLOWED_BY_RULE = "LM2300"
DENIED_BY_RULE = "LM2301"
DEFAULT_DENY = "LM2302"
NO_IDENTITY = "LM2303"
AMBIGUOUS = "LM2304"
UNKNOWN_SERVICE = "LM2305"
UNDECLARED_PORT = "LM2306"

Match = tuple[str, str]
"""Policy and rule."""


def decide(policies: model.PolicySet, request: Request, *, snapshot: str) -> Decision:
    """Decide a request (design D3).

    1. A service that is not in the policy set is denied.
    2. An ambiguous request is refused before any rule. Under `observe` it goes through, unless ANY deny of the
       guardrail tier could match it.
    3. Tiers in order; inside one, deny beats pass beats allow. Deny and allow end it; pass, or no match, goes on.
    4. No match anywhere: deny.
    5. Under `observe`, denies of the app and baseline tiers and the default deny are overridden; a deny of the
       guardrail tier and a caller without a verified identity are not.
    """
    # (1)
    service = policies.service_for(request.service)
    if service is None:
        return _deny(snapshot, UNKNOWN_SERVICE, Mode.ENFORCE)
    protocol = service.protocol_of(request.port)
    facts = read(request, protocol or request.protocol, policies.headers_for(service.name), service.path_case)
    facts.custom = policies.custom
    observed = service.is_observed(time_of(request))
    mode = Mode.OBSERVE if observed else Mode.ENFORCE
    # (2)
    if facts.ambiguous:
        if not observed or facts.source is None:
            return _deny(snapshot, AMBIGUOUS, mode)
        denying = matches(policies, service, facts, "guardrail", Effect.DENY)
        if denying:
            return _deny(snapshot, AMBIGUOUS, mode, "guardrail", min(denying))
        return _deny(snapshot, AMBIGUOUS, mode, effect=Effect.ALLOW)
    # (3)
    for tier in model.TIERS:
        decision = _decide_tier(policies, service, facts, tier, snapshot)
        if decision is not None:
            return decision
    # (4), (5)
    if facts.source is None:
        return _deny(snapshot, NO_IDENTITY, mode)
    code = UNDECLARED_PORT if protocol is None else DEFAULT_DENY
    return _deny(snapshot, code, mode, effect=Effect.ALLOW if observed else Effect.DENY)


def _decide_tier(
    policies: model.PolicySet, service: model.Service, facts: Facts, tier: model.Tier, snapshot: str
) -> Decision | None:
    """What a tier decides (steps 3 and 5 of `decide`); None when it passes or nothing matches."""
    observed = service.is_observed(time_of(facts.request))
    mode = Mode.OBSERVE if observed else Mode.ENFORCE
    denying = matches(policies, service, facts, tier, Effect.DENY)
    if denying:
        # (5)
        overridden = observed and tier != "guardrail" and facts.source is not None
        effect = Effect.ALLOW if overridden else Effect.DENY
        return _deny(snapshot, DENIED_BY_RULE, mode, tier, min(denying), effect=effect)
    if matches(policies, service, facts, tier, Effect.PASS):
        return None
    allowing = matches(policies, service, facts, tier, Effect.ALLOW)
    if not allowing:
        return None
    policy, rule = min(allowing)
    return Decision(
        effect=Effect.ALLOW,
        policy_effect=Effect.ALLOW,
        mode=mode,
        snapshot=snapshot,
        tier=tier,
        policy=policy,
        rule=rule,
        code=ALLOWED_BY_RULE,
    )


def time_of(request: Request) -> dt.datetime | None:
    """The time of a request; None when it is unknown."""
    time = request.time
    return None if "time" in request.unknown or time is None or time.tzinfo is None else time


def _deny(
    snapshot: str,
    code: str,
    mode: Mode,
    tier: str = "",
    match: Match = ("", ""),
    *,
    effect: Effect = Effect.DENY,
) -> Decision:
    """What the rules deny; ``effect`` is what happens."""
    policy, rule = match
    return Decision(
        effect=effect, policy_effect=Effect.DENY, mode=mode, snapshot=snapshot, tier=tier, policy=policy,
        rule=rule, code=code,
    )  # fmt: skip


def matches(
    policies: model.PolicySet, service: model.Service, facts: Facts, tier: model.Tier, effect: Effect
) -> list[Match]:
    """All rules of a tier with an effect that match. An exception is an allow of the app tier with an end."""
    found = [
        (policy.name, rule.id)
        for policy in policies.policies_for(service.name)
        if policy.tier == tier
        for rule in policy.rules
        if rule.effect is effect and applies(policies, service, rule, facts)
    ]
    if tier == "app" and effect is Effect.ALLOW:
        found += [
            (exception.name, model.EXCEPTION_RULE)
            for exception in policies.exceptions
            if exception.service == service.name
            and exception.is_active(time_of(facts.request))
            and applies(policies, service, exception.as_rule(), facts)
        ]
    return found


def applies(policies: model.PolicySet, service: model.Service, rule: model.Rule, facts: Facts) -> bool:
    """Whether a rule matches a request.

    1. `from`, `to` and `when` are ANDed. What is unknown makes an allow not match, a deny and a pass match.
    2. A deny or pass applies unless `unless` is definitely true, an allow only if it is definitely false.
    3. An allow holds on declared ports only.
    """
    # (1)
    truth = all_of(
        caller_matches(policies, rule, facts),
        True if rule.to is None else any_of(*(operation_matches(entry, facts) for entry in rule.to)),
        True if rule.when is None else holds(rule.when, facts),
    )
    # (2)
    exempt: Truth = False
    if rule.unless is not None:
        exempt = all_of(
            True if rule.unless.from_ is None else is_among(policies, rule.unless.from_, facts),
            True if rule.unless.when is None else holds(rule.unless.when, facts),
        )
    if rule.effect is Effect.ALLOW:
        # (3)
        return truth is True and exempt is False and service.protocol_of(facts.request.port) is not None
    return truth is not False and exempt is not True


def caller_matches(policies: model.PolicySet, rule: model.Rule, facts: Facts) -> Truth:
    """`from`: a caller without a verified identity matches no allow (and no pass) and every deny."""
    if facts.source is None:
        return rule.effect is Effect.DENY
    return is_among(policies, rule.from_, facts)


def is_among(policies: model.PolicySet, principals: tuple[model.Principal, ...], facts: Facts) -> Truth:
    """Whether the caller is one of the principals; a caller without identity is none of them, `any` included."""
    if facts.source is None:
        return False
    meant = policies.expand(principals)
    if meant.contains(facts.source):
        return True
    return None if meant.incomplete else False


def operation_matches(operation: model.Operation, facts: Facts) -> Truth:
    """One entry of `to`: fields are ANDed, the values of one field ORed."""
    truths: list[Truth] = []
    if operation.ports is not None:
        truths.append(facts.request.port in operation.ports)
    if operation.methods is not None:
        truths.append(None if facts.method is None else facts.method in operation.methods)
    if operation.hosts is not None:
        host = facts.host
        truths.append(None if host is None else host != ABSENT and any(p.matches(host) for p in operation.hosts))
    if operation.paths is not None:
        path = facts.path
        truths.append(None if path is None else any(p.matches(path) for p in operation.paths))
    return all_of(*truths)
