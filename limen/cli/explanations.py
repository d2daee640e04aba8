"""How explanations are shown to people, and how a recorded decision is explained.

Headers and tokens are not recorded, so that a recorded decision is followed as far as its record says; where the rules
alone would come to something else, that is said.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import cast

from limen.cli import context, render
from limen.decisions import DecisionError, decision_from_json
from limen.explained import explanation_to_json, located
from limen.recorded import find_decision, snapshot_policies
from mesh.clock import parse_time
from mesh.problems import Diagnostic, catalogue
from mesh.request import Decision, Effect, Protocol, Request
from policyengine.explain import Explanation, TierStep, explain
from policyengine.loader import load_tree
from policyengine.model import PolicySet
from policyengine.opening import Opening
from policyengine.rows import Row

_DENIED = "× denied "  # noqa: RUF001  the field's check marks
_BY_POLICY = "LM23"
"""The codes of what policies decide; every other refusal never came to them."""
_ROWS = 3
UNRECORDED = frozenset({"claims", "headers", "forwarded_ip"})
_DECISION = ("decision", "policy_decision", "mode", "snapshot", "tier", "policy", "rule", "code")
Json = Mapping[str, object]


def show(explained: Explanation, question: str, requests: Sequence[Row] | None = None) -> None:
    """Write the answer for people: who decided, the path, the nearest miss and its fix.

    ``requests`` are what the caller may ask where a question named no request; what to change is another question then.
    """
    decision = explained.decision
    mark = "√ allowed" if decision.is_allowed else _DENIED
    render.line(f"{mark}  {question}")
    if decision.rule:
        render.line(f"  by       {_rule(decision.policy, decision.rule, explained)}, tier {decision.tier}")
    else:
        render.line(f"  by       {_reasons(explained)}  {decision.code}")
    if decision.effect is Effect.ALLOW and decision.policy_effect is Effect.DENY:
        render.line("  mode     observe: the rules deny this, and it goes through until the service is enforced")
    path = [_step(step) for step in explained.steps if step.is_reached]
    if path:
        render.line(f"  path     {' → '.join(path)}")
    if requests is not None:
        render.line("  note     this port reads requests, and the question names none: give METHOD and PATH")
        render.line(f"  allowed  {_opens(Opening(rows=tuple(requests))) or 'no request of this caller'}")
        return
    fix = explained.fix
    if fix is not None:
        if fix.miss.rule:
            differs = ", ".join(fix.miss.differs)
            where = f" ({fix.span.file}:{fix.span.line})" if fix.span is not None else ""
            render.line(f"  nearest  {fix.miss.policy}, rule {fix.miss.rule}{where}: {differs} differs")
        render.line(f"  fix      {fix.miss.fix}")
        if fix.opening is not None and fix.opening.rows:
            render.line(f"  opens    {_opens(fix.opening)}")


def _opens(opening: Opening) -> str:
    """What a fix newly allows, to anybody: the first few rows."""
    found: list[str] = []
    for row in opening.rows:
        words = [row.source, ",".join(row.methods), ",".join(row.paths), "when …" if row.when else ""]
        found.append(f"{' '.join(word for word in words if word)} on port {row.port}")
    # rows that differ in circumstances alone read alike here
    different = list(dict.fromkeys(found))
    shown, more = different[:_ROWS], len(different) - _ROWS
    rest = f", and {more} more" if more > 0 else ""
    return "; ".join(shown) + rest + ("" if opening.is_complete else ", and there may be more")


def _step(step: TierStep) -> str:
    """What happened in a tier, with the rule where one matched."""
    if step.effect is None:
        return f"{step.tier} no match"
    more = f", {len(step.matched) - 1} more match" if len(step.matched) > 1 else ""
    return f"{step.tier} {step.effect} ({step.policy}/{step.rule}{more})"


_REASONS = {
    "LM2302": "the default deny: no rule allows it",
    "LM2303": "the default deny: the caller has no verified identity",
    "LM2305": "the default deny: no such service",
    "LM2306": "the default deny: the service does not declare this port",
}


def _reasons(explained: Explanation) -> str:
    if explained.ambiguous:
        return "refused before any rule: " + "; ".join(reason for _, reason in explained.ambiguous)
    return _REASONS.get(explained.decision.code, "the default deny")


def _rule(policy: str, rule: str, explained: Explanation) -> str:
    """A rule as people find it: policy, id, and where it stands."""
    where = f" ({explained.span.file}:{explained.span.line})" if explained.span is not None else ""
    return f"{policy}, rule {rule}{where}"


def files_of(tree: pathlib.Path | None) -> PolicySet | None:
    """The tree that lends its places to the rules of a snapshot."""
    return None if tree is None else load_tree(tree)[0]


def show_recorded(identifier: str, tree: pathlib.Path | None, output: str) -> int:
    """Explain a recorded decision by the policies that were in force; the exit status is that of the decision.

    Raises NotFound LM6038 when there is no such record, Invalid LM2205 when it is of something else, and what fetching
    the snapshot raises.
    """
    row = find_decision(context.state(), identifier)
    try:
        decided = decision_from_json({name: row[name] for name in _DECISION})
    except (DecisionError, KeyError):
        return _show_refusal(row, output)
    if not decided.snapshot or not decided.code.startswith(_BY_POLICY):
        return _show_refusal(row, output)
    policies = located(snapshot_policies(context.state(), decided.snapshot), files_of(tree))
    explained, follows = _followed(row, decided, policies)
    what = " ".join(str(row[name]) for name in ("method", "path") if row.get(name)) or f"port {row.get('port')}"
    if output == "json":
        shown = explanation_to_json(explained)
        candidate = row.get("candidate")
        render.data({**shown, "candidate": candidate, "id": identifier, "time": row["time"], "follows": follows})
    else:
        who = row.get("caller") or "nobody"
        show(explained, render.plain(f"{who} → {row.get('destination')}   {what}"))
        render.line(f"  when     {row['time']}, under snapshot {decided.snapshot}")
        if not follows:
            render.line("  note     headers and tokens are not recorded: the path is what the rules say without them")
    return 0 if decided.is_allowed else 1


def _followed(row: Json, decided: Decision, policies: PolicySet) -> tuple[Explanation, bool]:
    """The recorded decision with the path of its request, and whether that leads to it."""
    explained = explain(policies, request_of(row), snapshot=decided.snapshot)
    again = explained.decision
    follows = (again.effect, again.policy, again.rule, again.code) == (
        decided.effect,
        decided.policy,
        decided.rule,
        decided.code,
    )
    span = next(
        (item.span for policy in policies.policies if policy.name == decided.policy for item in policy.rules
         if item.id == decided.rule),
        None,
    )  # fmt: skip
    fix = explained.fix if decided.policy_effect is Effect.DENY else None
    return dataclasses.replace(explained, decision=decided, span=span, fix=fix), follows


def request_of(row: Json) -> Request:
    """The request that a decision record is about; what is not recorded is unknown, never absent."""

    def text(name: str) -> str | None:
        value = row.get(name)
        return value if isinstance(value, str) else None

    port = row.get("port")
    protocol = row.get("protocol") if row.get("protocol") in {"http", "grpc", "tcp"} else "tcp"
    return Request(
        service=text("destination") or "",
        port=port if isinstance(port, int) else 0,
        protocol=cast("Protocol", protocol),  # membership was checked above
        source=text("caller"),
        method=text("method"),
        host=text("host"),
        path=text("path"),
        peer_ip=text("peer_ip"),
        time=parse_time(str(row["time"])),
        unknown=UNRECORDED,
    )


def _show_refusal(row: Json, output: str) -> int:
    """What was refused before any policy was asked: its code says why."""
    code = str(row.get("code", ""))
    facts = row.get("facts")
    named: dict[str, object] = {str(name): value for name, value in facts.items()} if isinstance(facts, Mapping) else {}
    problem = Diagnostic(code=code, facts=named) if code in catalogue() else None
    if output == "json":
        render.data({**row, "message": problem.message if problem else "", "help": problem.help if problem else ""})
    else:
        mark = "√ allowed" if row.get("decision") == "allow" else _DENIED
        who, what = row.get("caller") or "nobody", row.get("destination") or "-"
        render.line(f"{mark}  {render.plain(f'{who} → {what}')}")
        render.line(f"  by       {problem.message if problem else 'no policy was asked'}  {code}")
        if problem is not None:
            render.line(f"  fix      {problem.help}")
    return 0 if row.get("decision") == "allow" else 1
