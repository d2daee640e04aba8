"""Whose approval a change needs: the owners of the called services that it touches, as the release before names them.

Read from the release that is active, so that a change cannot name its own judges (design D4). Touched means that
anything which decides about the service differs; what a change does to access is `policyengine.analysis`'s answer.
"""

from __future__ import annotations

import dataclasses

from policyengine.model import (
    ExceptionGrant,
    Invariant,
    Policy,
    PolicySet,
    Principal,
    Principals,
    RegoModule,
    Rule,
    Service,
)
from policyengine.snapshot import Snapshot

_Slice = tuple[
    Service | None,
    tuple[Policy, ...],
    tuple[ExceptionGrant, ...],
    tuple[Invariant, ...],
    tuple[tuple[Principal, Principals], ...],
    tuple[RegoModule, ...],
]


def touched_services(before: Snapshot, after: Snapshot) -> frozenset[str]:
    """The services of the earlier release that the later one changes, by name.

    1. Identity rules, federation, issuers and the trust domain decide who anybody is: a change touches EVERY service.
    2. A service is touched when ANYTHING that decides about it differs: the service itself, its policies, exceptions
       and invariants, whom a group or service that they name resolves to, or, if they name a custom rule, the modules.
    3. It is touched when a new or changed service claims identities of its own.
    """
    names = frozenset(service.name for service in before.policies.services)
    # (1)
    if _who_is_who(before) != _who_is_who(after):
        return names
    # (2)
    olds, news = slices(before.policies), slices(after.policies)
    touched = {name for name in names if olds[name] != news.get(name)}
    # (3)
    earlier = {service.name: service for service in before.policies.services}
    claims = [service for service in after.policies.services if service != earlier.get(service.name)]
    for claimer in claims:
        for service in before.policies.services:
            if service.name != claimer.name and _overlap(service, claimer):
                touched.add(service.name)
    return frozenset(touched)


def owners_required(before: Snapshot, after: Snapshot) -> dict[str, tuple[str, ...]]:
    """The owners who must be among the approvers, each with the touched services that make it so."""
    required: dict[str, list[str]] = {}
    touched = touched_services(before, after)
    for service in before.policies.services:
        if service.name in touched and service.owner:
            required.setdefault(service.owner, []).append(service.name)
    return {owner: tuple(sorted(names)) for owner, names in sorted(required.items())}


def slices(policies: PolicySet) -> dict[str, _Slice]:
    """Everything that decides about each called service: equal slices decide alike."""
    services = {service.name: service for service in policies.services}
    by_policy: dict[str, list[Policy]] = {}
    by_exception: dict[str, list[ExceptionGrant]] = {}
    by_invariant: dict[str, list[Invariant]] = {}
    for policy in policies.policies:
        by_policy.setdefault(policy.service, []).append(policy)
    for grant in policies.exceptions:
        by_exception.setdefault(grant.service, []).append(grant)
    for invariant in policies.invariants:
        by_invariant.setdefault(invariant.service, []).append(invariant)
    resolved: dict[Principal, Principals] = {}
    found: dict[str, _Slice] = {}
    for name in services.keys() | by_policy.keys() | by_exception.keys() | by_invariant.keys():
        own = tuple(_ordered(policy) for policy in sorted(by_policy.get(name, []), key=lambda item: item.name))
        grants = tuple(sorted(by_exception.get(name, []), key=lambda item: item.name))
        forbidden = tuple(sorted(by_invariant.get(name, []), key=lambda item: item.name))
        named = {principal for policy in own for rule in policy.rules for principal in _named(rule)}
        named |= {principal for grant in grants for principal in grant.from_}
        named |= {principal for invariant in forbidden for principal in invariant.from_}
        indirect = sorted(principal for principal in named if principal.kind in {"group", "service"})
        for principal in indirect:
            if principal not in resolved:
                resolved[principal] = policies.expand((principal,))
        found[name] = (
            services.get(name),
            own,
            grants,
            forbidden,
            tuple((principal, resolved[principal]) for principal in indirect),
            # a custom rule may be made of any module of the tree
            policies.rego if any(rule.custom_rules() for policy in own for rule in policy.rules) else (),
        )
    return found


def _ordered(policy: Policy) -> Policy:
    """The policy with its rules in the order of snapshots: order decides nothing inside a tier."""
    rules = tuple(sorted(policy.rules, key=lambda rule: rule.id))
    return policy if rules == policy.rules else dataclasses.replace(policy, rules=rules)


def _named(rule: Rule) -> tuple[Principal, ...]:
    excepted = rule.unless.from_ if rule.unless and rule.unless.from_ else ()
    return rule.from_ + excepted


def _who_is_who(snapshot: Snapshot) -> tuple[object, ...]:
    issuers = frozenset(snapshot.policies.issuers)
    return (snapshot.trust_domain, snapshot.identity_rules, snapshot.federation, snapshot.jwt_issuers, issuers)


def _overlap(one: Service, other: Service) -> bool:
    return any(mine.overlaps(theirs) for mine in one.identities for theirs in other.identities)
