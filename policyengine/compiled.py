"""What is compiled of a service's rules for its index, from nothing or rule by rule from what was compiled before.

A `Compiled` holds the grants of one part (`policyengine.parts`) and the classes of their callers. When the part of the
next policy set has most of its objects, only the grants of rules that are other objects, and of those that name a group
or a service which is another one, go and come (`Compiled.after`): a changed rule costs its own time, whatever else
stands in its policy. It decides nothing.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from policyengine import model
from policyengine.callers import Callers
from policyengine.ir import Grant, Grants, normalise
from policyengine.parts import Named, Part, middles, names_in

_FEW = 64
_SHARE = 4  # a grant that goes or comes takes several times as long as one that is compiled among all
_MOST_EDITS = 100_000
Key = tuple[str, str]
"""Policy and rule; of an exception, its name and what its rule is called."""


class _Item(NamedTuple):
    """What a grant is made of."""

    tier: model.Tier
    policy: str
    rule: model.Rule
    until: dt.datetime | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Compiled:
    """One service: its part, its grants in no order, the headers that they read, and the classes of callers.

    ``grants`` is None where two of them share a place: such a set has findings, and nothing is compiled after it.
    ``edits`` counts the grants that came and went since it was compiled from nothing.
    """

    part: Part
    grants: tuple[Grant, ...] | None
    headers: frozenset[str]
    callers: Callers
    edits: int = 0

    @classmethod
    def of(cls, policies: model.PolicySet, part: Part) -> Compiled:
        """Compile a part of a policy set from nothing."""
        form = normalise(_about(policies, part), part.service)
        is_unique = len(_by_place(form.grants)) == len(form.grants) and _is_unique(part)
        return cls(
            part=part,
            grants=form.grants if is_unique else None,
            headers=form.headers,
            callers=Callers(form.grants),
        )

    def after(self, policies: model.PolicySet, part: Part) -> Compiled:
        """Compile a part of the same service, keeping what is the same.

        1. What stands where it stood, is the same object and names nothing that changed keeps its grant.
        2. Everything else that was there goes, and everything else that is there comes.
        3. Where many go and come, or have gone and come so far, the part is compiled from nothing.
        """
        if self.part.is_same(part):
            return dataclasses.replace(self, part=part)
        if self.grants is None or self.part.rego != part.rego or not _is_unique(part):
            return Compiled.of(policies, part)
        # (1)
        leaving, coming = _apart(self.part, part)
        # (3)
        count = len(leaving) + len(coming)
        edits = self.edits + count
        if (count > _FEW and count * _SHARE > len(self.grants)) or edits > _MOST_EDITS:
            return Compiled.of(policies, part)
        # (2)
        about = _about(policies, part)
        grants, make = _by_place(self.grants), Grants(about)
        gone = [grants.pop(key) for key in leaving]
        come = [make.grant(item.tier, item.policy, item.rule, item.until) for item in coming]
        grants.update(((grant.policy, grant.rule), grant) for grant in come)
        if len(grants) != len(self.grants) - len(gone) + len(come):
            return Compiled.of(policies, part)
        return Compiled(
            part=part,
            grants=tuple(grants.values()),
            headers=about.headers_for(part.service.name),
            callers=self.callers.edited(gone, come),
            edits=edits,
        )


def _by_place(grants: Iterable[Grant]) -> dict[Key, Grant]:
    """Grants by where they stand; made when it is asked for, because a sidecar keeps what it holds for each caller."""
    return {(grant.policy, grant.rule): grant for grant in grants}


def _about(policies: model.PolicySet, part: Part) -> model.PolicySet:
    """The policy set with what is about the service alone."""
    return dataclasses.replace(policies, policies=part.policies, exceptions=part.exceptions)


def _is_unique(part: Part) -> bool:
    """Whether no two policies or exceptions have one name."""
    names = [*(item.name for item in part.policies), *(item.name for item in part.exceptions)]
    return len(names) == len(set(names))


def _apart(before: Part, after: Part) -> tuple[list[Key], list[_Item]]:
    """What goes and what comes between two parts of a service."""
    moved = _moved(before.named, after.named)
    leaving: list[Key] = []
    coming: list[_Item] = []
    policies = {item.name: item for item in before.policies}
    for policy in after.policies:
        held = policies.pop(policy.name, None)
        ours: Sequence[model.Rule] = () if held is None else held.rules
        theirs: Sequence[model.Rule] = policy.rules
        kept: frozenset[int] = frozenset()
        if held is not None and held.tier == policy.tier:
            # names may have moved under any rule; without that, what stands at both ends is as it was
            ours, theirs, _ = (held.rules, policy.rules, 0) if moved else middles(held.rules, policy.rules)
            kept = _kept(ours, theirs, moved)
        leaving += ((policy.name, rule.id) for rule in ours if id(rule) not in kept)
        coming += (_Item(policy.tier, policy.name, rule, None) for rule in theirs if id(rule) not in kept)
    leaving += ((held.name, rule.id) for held in policies.values() for rule in held.rules)
    exceptions = {item.name: item for item in before.exceptions}
    for exception in after.exceptions:
        known = exceptions.pop(exception.name, None)
        if known is exception and not any(name in moved for name in names_in(exception.from_)):
            continue
        if known is not None:
            leaving.append((known.name, model.EXCEPTION_RULE))
        coming.append(_Item("app", exception.name, exception.as_rule(), exception.until))
    leaving += ((item.name, model.EXCEPTION_RULE) for item in exceptions.values())
    return leaving, coming


def _kept(before: Iterable[model.Rule], after: Sequence[model.Rule], moved: frozenset[Key]) -> frozenset[int]:
    """The rules, by their `id`, that stand in both versions of a policy and name nothing that changed."""
    both = frozenset(map(id, after)).intersection(map(id, before))
    if not moved:
        return both
    return both.difference(id(rule) for rule in after if any(name in moved for name in _names_of(rule)))


def _names_of(rule: model.Rule) -> Iterator[Key]:
    yield from names_in(rule.from_)
    if rule.unless is not None:
        yield from names_in(rule.unless.from_ or ())


def _moved(before: Mapping[Key, Named], after: Mapping[Key, Named]) -> frozenset[Key]:
    """The groups and services of both that are others now, and the groups that lead to one of them."""
    moved = {key for key, found in after.items() if key in before and not _is_alike(before[key], found)}
    waiting = bool(moved)
    while waiting:
        waiting = False
        for key, found in after.items():
            if key not in moved and isinstance(found, model.Group) and not moved.isdisjoint(names_in(found.members)):
                moved.add(key)
                waiting = True
    return frozenset(moved)


def _is_alike(one: Named, other: Named) -> bool:
    """Whether a name stands for the same callers."""
    if isinstance(one, model.Service) and isinstance(other, model.Service):
        return one.identities == other.identities
    return one is other
