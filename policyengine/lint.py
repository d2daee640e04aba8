"""What works in a policy tree and will bite: rules without effect, denies that hang on the caller, open doors.

Errors are the loader's business. Every lint here is sure of what it says: a rule is called shadowed only where another
one decides every request that it matches, unknown attributes included. This module changes nothing.
"""

from __future__ import annotations

import datetime as dt
import pathlib
from collections.abc import Iterator, Mapping

from mesh.clock import format_time
from mesh.problems import Diagnostic, Severity, Span
from mesh.request import Effect, Mode
from mesh.spiffe import SpiffePattern
from policyengine import model
from policyengine.canonical import HostPattern, PathPattern
from policyengine.ir import Grant, normalise
from policyengine.loader import load_tree


def lint_tree(tree: pathlib.Path | str, now: dt.datetime) -> list[Diagnostic]:
    """All findings about a policy tree: the loader's, and the lints where it has no error."""
    policies, found = load_tree(tree)
    if any(item.severity is Severity.ERROR for item in found):
        return found
    found = [*found, *lint(policies, now)]
    return sorted(found, key=lambda item: (str(item.span.file), item.span.line) if item.span else ("", 0))


def lint(policies: model.PolicySet, now: dt.datetime) -> list[Diagnostic]:
    """The lints of a policy set."""
    return [
        *_owners(policies),
        *(finding for service in policies.services for finding in _service(policies, service, now)),
        *(
            finding
            for policy in policies.policies
            for rule in policy.rules
            for finding in _rule(policies, policy, rule)
        ),
    ]


def _finding(code: str, span: Span | None, facts: Mapping[str, object]) -> Diagnostic:
    return Diagnostic(code=code, span=span, facts=dict(facts))


def _owners(policies: model.PolicySet) -> Iterator[Diagnostic]:
    """Services and policies without an owner: nobody could approve a change."""
    owned: tuple[tuple[str, tuple[model.Service | model.Policy, ...]], ...] = (
        ("service", policies.services),
        ("policy", policies.policies),
    )
    for kind, items in owned:
        for item in items:
            if not item.owner:
                yield _finding("LM2100", item.span, {"kind": kind, "name": item.name})


def _service(policies: model.PolicySet, service: model.Service, now: dt.datetime) -> Iterator[Diagnostic]:
    """What is wrong with a service as a whole."""
    form = normalise(policies, service)
    if not any(grant.effect is Effect.ALLOW for grant in form.grants):
        yield _finding("LM2101", service.span, {"service": service.name})
    if service.mode is Mode.OBSERVE and service.is_observed(now):
        assert service.until is not None, "a service that observes has an end"
        yield _finding("LM2109", service.span, {"service": service.name, "until": format_time(service.until)})
    yield from _shadowed(form.grants)


def _rule(policies: model.PolicySet, policy: model.Policy, rule: model.Rule) -> Iterator[Diagnostic]:
    """What is wrong with a rule by itself."""
    facts: dict[str, object] = {"rule": rule.id, "policy": policy.name}
    callers = policies.expand(rule.from_)
    if callers.is_empty:
        yield _finding("LM2102" if rule.effect is Effect.ALLOW else "LM2103", rule.span, facts)
    if rule.effect is Effect.DENY and rule.when is not None:
        reads = _left_out(rule.when)
        if reads:
            yield _finding("LM2105", rule.span, {**facts, "reads": reads})
    if rule.effect is Effect.PASS and policy.tier == "baseline":
        yield _finding("LM2107", rule.span, facts)
    if rule.effect is Effect.ALLOW:
        wide = ["any"] if callers.is_any else [str(p) for p in callers.patterns if p.subtree and not p.id.path]
        if wide:
            yield _finding("LM2108", rule.span, {**facts, "who": wide[0]})
        if policy.tier == "guardrail":
            yield _finding("LM2110", rule.span, facts)


def _left_out(when: model.Conditions) -> str:
    """What a condition reads that the caller can leave out."""
    names = ["a token"] if when.claims is not None else []
    names += [f"the header `{name}`" for name, _ in when.headers or ()]
    return " and ".join(names)


def _shadowed(grants: tuple[Grant, ...]) -> Iterator[Diagnostic]:
    """Grants that never decide, because one other grant decides all that they match.

    1. The other one is unconditional and ranks before: in the same tier, or in an earlier one as a deny, or as an allow
       of a tier where nothing passes.
    2. It covers caller and operation.
    3. An unknown attribute keeps an allow from matching: an allow shadows a deny or
       pass only where it reads no request.
    """
    # (1)
    strong = [grant for grant in grants if not grant.is_conditional and not grant.callers.incomplete]
    passing = {grant.tier for grant in grants if grant.effect is Effect.PASS}
    wide = [grant for grant in strong if grant.callers.is_any or any(p.subtree for p in grant.callers.patterns)]
    exact: dict[SpiffePattern, list[Grant]] = {}
    for grant in strong:
        for pattern in grant.callers.patterns:
            exact.setdefault(pattern, []).append(grant)
    for grant in grants:
        # whoever covers a grant covers its first caller: by naming it, or by a wider pattern
        named = exact.get(grant.callers.patterns[0], []) if grant.callers.patterns else []
        for other in sorted({found.rank: found for found in (*wide, *named)}.values(), key=_rank) if named else wide:
            if other.rank >= grant.rank:
                break
            same_tier = other.tier == grant.tier
            if not same_tier and (
                other.effect is Effect.PASS or (other.effect is Effect.ALLOW and other.tier in passing)
            ):
                continue
            # (3)
            is_blind = any(entry.reads_request for entry in other.operations)
            if other.effect is Effect.ALLOW and grant.effect is not Effect.ALLOW and is_blind:
                continue
            # (2)
            if _covers(other, grant):
                facts = {"rule": grant.rule, "policy": grant.policy, "by": f"{other.policy}/{other.rule}"}
                is_same = same_tier and other.effect is grant.effect and not grant.is_conditional
                code = "LM2106" if is_same and _covers(grant, other) else "LM2104"
                yield _finding(code, grant.span, facts)
                break


def _rank(grant: Grant) -> int:
    return grant.rank


def _covers(wide: Grant, narrow: Grant) -> bool:
    """Whether one grant's callers and operations include the other's."""
    if narrow.callers.incomplete or narrow.callers.is_empty:
        return False
    if not wide.callers.is_any:
        if narrow.callers.is_any:
            return False
        for pattern in narrow.callers.patterns:
            if not any(_holds_pattern(outer, pattern) for outer in wide.callers.patterns):
                return False
    return all(any(_holds_operation(outer, inner) for outer in wide.operations) for inner in narrow.operations)


def _holds_pattern(outer: SpiffePattern, inner: SpiffePattern) -> bool:
    if inner.subtree:
        return outer.subtree and (outer.id == inner.id or outer.matches(inner.id))
    return outer.matches(inner.id)


def _holds_operation(outer: model.Operation, inner: model.Operation) -> bool:
    """Whether every field of an operation includes the other's."""
    if outer.ports is not None and (inner.ports is None or not set(inner.ports) <= set(outer.ports)):
        return False
    if outer.methods is not None and (inner.methods is None or not set(inner.methods) <= set(outer.methods)):
        return False
    if outer.hosts is not None and (
        inner.hosts is None or not all(any(_holds_host(o, i) for o in outer.hosts) for i in inner.hosts)
    ):
        return False
    return outer.paths is None or (
        inner.paths is not None and all(any(_holds_path(o, i) for o in outer.paths) for i in inner.paths)
    )


def _holds_host(outer: HostPattern, inner: HostPattern) -> bool:
    return outer == inner or (not inner.wildcard and outer.matches(inner.name))


def _holds_path(outer: PathPattern, inner: PathPattern) -> bool:
    """Whether every path of one pattern is one of the other's; says no where it is not sure."""
    count = len(outer.segments)
    if outer.subtree:
        enough = len(inner.segments) > count or (inner.subtree and len(inner.segments) == count)
        if not enough:
            return False
    elif inner.subtree or len(inner.segments) != count:
        return False
    for wide, narrow in zip(outer.segments, inner.segments, strict=False):
        if wide == narrow:
            continue
        if wide.type == "any" and (narrow.type != "literal" or narrow.literal):
            continue
        if narrow.type == "literal" and wide.matches(narrow.literal):
            continue
        return False
    return True
