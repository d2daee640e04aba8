"""The public JSON of an explanation: the object of a decision, and beside it where, by which way, and what would help.

What `limen.decisions` gives stays as it is; the keys here are added. Rules of a snapshot have no files: a tree that
holds the same rules lends them its places. This module decides nothing.
"""

from __future__ import annotations

import dataclasses

from limen.decisions import decision_to_json
from mesh.problems import Span
from mesh.request import Decision
from policyengine.explain import Explanation, TierStep
from policyengine.fixes import Fix
from policyengine.model import PolicySet
from policyengine.wire import rule_to_json

Json = dict[str, object]


def explanation_to_json(found: Explanation, *, candidate: Decision | None = None) -> Json:
    """The JSON object of an explanation."""
    out = decision_to_json(found.decision, nearest=found.nearest, candidate=candidate)
    if found.fix is not None and isinstance(out["nearest"], dict):
        opening = found.fix.opening
        out["nearest"] = {
            **out["nearest"],
            **place(found.fix.span),
            "changes": _changes(found.fix),
            "opens": [] if opening is None else [row.to_json() for row in opening.rows],
            "complete": opening is not None and opening.is_complete,
        }
    return {
        **out,
        **place(found.span),
        "path": [_step(step) for step in found.steps],
        "ambiguous": dict(found.ambiguous),
    }


def place(span: Span | None) -> Json:
    """Where something stands, as keys."""
    if span is None:
        return {"file": None, "line": None, "column": None}
    return {"file": span.file, "line": span.line, "column": span.column}


def _step(step: TierStep) -> Json:
    return {
        "tier": step.tier,
        "reached": step.is_reached,
        "effect": None if step.effect is None else str(step.effect),
        "policy": step.policy,
        "rule": step.rule,
        **place(step.span),
        "matched": [
            {"effect": str(item.effect), "policy": item.policy, "rule": item.rule, **place(item.span)}
            for item in step.matched
        ],
    }


def _changes(fix: Fix) -> list[Json]:
    """What to change: a rule, or the request."""
    if fix.addition is not None:
        new = {"policy": "", "rule": "", **place(None), "field": "rule", "fix": fix.miss.fix}
        return [{"changes": "policy", **new, "tier": fix.addition[0], "add": rule_to_json(fix.addition[1])}]
    return [
        {
            "changes": "policy" if change.is_edit or change.renews else "request",
            "policy": change.policy,
            "rule": change.rule,
            **place(change.span),
            "field": change.field,
            "fix": change.fix,
        }
        for change in fix.changes
    ]


def located(policies: PolicySet, files: PolicySet | None) -> PolicySet:
    """A policy set whose rules and exceptions have the places that they have in a tree, by policy and rule."""
    if files is None:
        return policies
    spans = {(policy.name, rule.id): rule.span for policy in files.policies for rule in policy.rules}
    ends = {exception.name: exception.span for exception in files.exceptions}
    return dataclasses.replace(
        policies,
        policies=tuple(
            dataclasses.replace(
                policy,
                rules=tuple(
                    dataclasses.replace(rule, span=spans.get((policy.name, rule.id), rule.span))
                    for rule in policy.rules
                ),
            )
            for policy in policies.policies
        ),
        exceptions=tuple(
            dataclasses.replace(exception, span=ends.get(exception.name, exception.span))
            for exception in policies.exceptions
        ),
    )
