"""What a change of policy newly allows: the rows of its plan, which are those of the decision diagram, and how much.

Every row is complete and its witness was replayed, as in every plan. This module tries nothing out.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Collection, Iterator

from mesh.spiffe import SpiffePattern
from policyengine.analysis import plan
from policyengine.breadth import callers_breadth, operation_breadth, together
from policyengine.canonical import PathPattern
from policyengine.model import Operation, PolicySet, Principals, Rule
from policyengine.regions import ANY_CASE, OTHER
from policyengine.rows import Row

_PER_CONDITION = 4.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """What is newly allowed; ``is_complete`` only if the rows are all."""

    rows: tuple[Row, ...] = ()
    is_complete: bool = True

    @property
    def breadth(self) -> float:
        """How much that is, on the scale of `policyengine.breadth`."""
        return together(map(_breadth, self.rows))


def opened(before: PolicySet, after: PolicySet, now: dt.datetime) -> Opening:
    """What a change newly allows from a moment on."""
    found = plan(*_around(before, after), (), now)
    return Opening(rows=found.newly_allowed, is_complete=found.is_complete)


_Place = tuple[int, str, str, str]
"""A rule, by identity, and where it stands: service, tier, policy."""


def _around(before: PolicySet, after: PolicySet) -> tuple[PolicySet, PolicySet]:
    """Both versions without what cannot matter where a few rules changed: those about callers of none of them.

    Whoever changes rules leaves the others as they are: a rule that stands in both is the same object.
    """
    bare = [dataclasses.replace(side, policies=(), exceptions=(), invariants=()) for side in (before, after)]
    held = [dict(_placed(side)) for side in (before, after)]
    changed = [
        rule.from_ for place, rule in (*held[0].items(), *held[1].items()) if (place in held[0]) != (place in held[1])
    ]
    changed += [item.from_ for side in (before, after) for item in side.exceptions]
    callers = [before.expand(principals) for principals in changed]
    if bare[0] != bare[1] or any(meant.is_any or meant.incomplete for meant in callers):
        return _without(before, ()), _without(after, ())
    patterns = {pattern for meant in callers for pattern in meant.patterns}
    apart = {place for place, rule in held[0].items() if place in held[1] and not _meets(before, rule, patterns)}
    return _without(before, apart), _without(after, apart)


def _placed(policies: PolicySet) -> Iterator[tuple[_Place, Rule]]:
    for policy in policies.policies:
        for rule in policy.rules:
            yield (id(rule), policy.service, policy.tier, policy.name), rule


def _meets(policies: PolicySet, rule: Rule, patterns: Collection[SpiffePattern]) -> bool:
    """Whether a rule may speak of a caller of some patterns."""
    meant = policies.expand(rule.from_)
    if meant.is_any or meant.incomplete:
        return True
    return any(pattern.overlaps(other) for pattern in meant.patterns for other in patterns)


def _without(policies: PolicySet, apart: Collection[_Place]) -> PolicySet:
    """A policy set without some rules, and without invariants, which nobody asks about here."""
    kept: dict[str, list[Rule]] = {}
    for place, rule in _placed(policies):
        if place not in apart:
            kept.setdefault(place[3], []).append(rule)
    left = tuple(
        dataclasses.replace(policy, rules=tuple(kept[policy.name]))
        for policy in policies.policies
        if policy.name in kept
    )
    return dataclasses.replace(policies, policies=left, invariants=())


def _breadth(row: Row) -> float:
    """How much a row holds; conditions take some of it away, whatever they are."""
    sources = list(row.sources)
    is_any = sources == ["any"]
    callers = Principals(is_any=is_any, patterns=() if is_any else tuple(map(SpiffePattern.parse, sources)))
    operation = Operation(
        ports=(row.port,),
        methods=None if OTHER in row.methods or not row.methods else row.methods,
        paths=tuple(PathPattern.parse(text.removeprefix(ANY_CASE)) for text in row.paths) or None,
    )
    return (
        callers_breadth(callers) + operation_breadth(operation) - _PER_CONDITION * len(row.when.keys() - {"source_in"})
    )
