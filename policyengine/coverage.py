"""What policy tests reach: which rules decided something, and which conditions were both true and not.

A condition is reached only where everything before it in its rule held (caller, operation, `when` field by field, then
`unless`), so that a test of somebody else's request does not count for it. What is unknown counts as not true, because
that is the side on which a rule has to be safe. This module decides nothing that enforcers decide.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from mesh.problems import Span
from policyengine import model, reference
from policyengine.attributes import Facts, Truth, any_of, holds, read
from policyengine.ir import Grant, normalise
from policyengine.suite import Outcome

Test = Callable[[Facts], Truth]


@dataclasses.dataclass(slots=True, eq=False)
class Branch:
    """One condition of a rule, and how often it came out each way."""

    name: str
    true: int = 0
    false: int = 0

    @property
    def missing(self) -> tuple[str, ...]:
        """The ways in which it never came out."""
        return tuple(way for way, count in (("true", self.true), ("false", self.false)) if not count)


@dataclasses.dataclass(slots=True, eq=False)
class RuleCoverage:
    """One rule: how many decisions it made, and its conditions."""

    service: str
    tier: str
    policy: str
    rule: str
    span: Span | None
    branches: tuple[Branch, ...]
    decided: int = 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """All rules of a policy set."""

    rules: tuple[RuleCoverage, ...]

    @property
    def total(self) -> int:
        """How many things could be reached: each rule as the deciding one, each condition both ways."""
        return len(self.rules) + 2 * sum(len(rule.branches) for rule in self.rules)

    @property
    def reached(self) -> int:
        """How many were."""
        branches = [branch for rule in self.rules for branch in rule.branches]
        return sum(rule.decided > 0 for rule in self.rules) + sum(2 - len(branch.missing) for branch in branches)

    @property
    def percent(self) -> float:
        """How much was reached, of 100, rounded down to a tenth; 100 where there is nothing to reach."""
        return 100.0 if not self.total else self.reached * 1000 // self.total / 10


def coverage_of(policies: model.PolicySet, outcomes: Iterable[Outcome]) -> Coverage:
    """What outcomes reach of the rules of a policy set."""
    found: dict[tuple[str, str], RuleCoverage] = {}
    tested: dict[str, list[tuple[RuleCoverage, tuple[tuple[Branch | None, Test], ...]]]] = {}
    for service in policies.services:
        tested[service.name] = []
        for grant in normalise(policies, service).grants:
            parts = tuple(_parts(policies, grant))
            rule = RuleCoverage(
                service.name, grant.tier, grant.policy, grant.rule, grant.span,
                tuple(branch for branch, _ in parts if branch is not None),
            )  # fmt: skip
            found[grant.policy, grant.rule] = rule
            tested[service.name].append((rule, parts))
    for outcome in outcomes:
        decided = found.get((outcome.decision.policy, outcome.decision.rule))
        if decided is not None:
            decided.decided += 1
        called = policies.service_for(outcome.request.service)
        if called is None:
            continue
        request = outcome.request
        facts = read(request, called.protocol_of(request.port) or request.protocol, policies.headers_for(called.name))
        facts.custom = policies.custom
        if not facts.ambiguous:  # no rule is asked then
            for _, parts in tested[called.name]:
                _walk(parts, facts)
    return Coverage(rules=tuple(found.values()))


def _walk(parts: Iterable[tuple[Branch | None, Test]], facts: Facts) -> None:
    """Count the conditions of one rule for one request, up to the first that does not hold."""
    for branch, test in parts:
        holds_here = test(facts) is True
        if branch is not None:
            branch.true += holds_here
            branch.false += not holds_here
        if not holds_here:
            return


def _parts(policies: model.PolicySet, grant: Grant) -> Iterator[tuple[Branch | None, Test]]:
    """The conditions of a grant in the order in which they are reached; `from: [any]` can only be true."""
    rule = grant.source
    assert rule is not None, "a grant of a policy set has its rule"
    is_open = any(principal.kind == "any" for principal in rule.from_)
    yield None if is_open else Branch("from"), lambda facts: reference.caller_matches(policies, rule, facts)
    if rule.to is not None:
        operations = rule.to
        yield Branch("to"), lambda facts: any_of(*(reference.operation_matches(entry, facts) for entry in operations))
    if grant.until is not None:
        until = grant.until
        yield Branch("until"), lambda facts: (reference.time_of(facts.request) or until) < until
    yield from _conditions("when", rule.when)
    if rule.unless is not None:
        if rule.unless.from_ is not None:
            exempt = rule.unless.from_
            yield Branch("unless.from"), lambda facts: reference.is_among(policies, exempt, facts)
        yield from _conditions("unless.when", rule.unless.when)


def _conditions(name: str, when: model.Conditions | None) -> Iterator[tuple[Branch, Test]]:
    """The fields of a condition, each by itself; headers one by one."""
    for field in dataclasses.fields(when) if when is not None else ():
        value = getattr(when, field.name)
        if value is None:
            continue
        singles: list[tuple[str, Any]] = [(field.name, value)]
        if field.name == "headers":
            singles = [(f"headers.{item[0]}", (item,)) for item in value]
        for title, single in singles:
            alone = model.Conditions(**{field.name: single})
            yield Branch(f"{name}.{title}"), _test(alone)


def _test(alone: model.Conditions) -> Test:
    return lambda facts: holds(alone, facts)
