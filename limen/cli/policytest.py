"""`limen policy test`: run the tests that stand beside the policies, and say what they do not reach."""

from __future__ import annotations

import datetime as dt
import pathlib
from collections.abc import Sequence

import click

from limen.cli import render
from limen.cli.can import usable
from limen.cli.context import output_option
from limen.decisions import decision_to_json, name_of
from limen.junit import junit
from mesh.clock import SystemClock, parse_time
from mesh.problems import Diagnostic, Invalid
from policyengine.coverage import Coverage, coverage_of
from policyengine.customrules import PATIENT_S, with_custom_rules
from policyengine.loader import load_tested_tree
from policyengine.suite import Outcome, run


@click.command()
@click.option(
    "--policies",
    "tree",
    type=click.Path(path_type=pathlib.Path),
    default=pathlib.Path("policies"),
    show_default=True,
    help="The directory of the policy tree, tests included.",
)
@click.option("--coverage", "is_covered", is_flag=True, help="Say which rules and conditions the tests do not reach.")
@click.option("--fail-under", type=click.FloatRange(0, 100), help="Exit 1 when less than this percentage is reached.")
@click.option("--at", "at", help="The time of cases that name none (RFC 3339); now by default.")
@output_option("table", "json", "junit")
@click.pass_context
def test(
    ctx: click.Context, tree: pathlib.Path, at: str | None, output: str, fail_under: float | None, *, is_covered: bool
) -> None:
    """Run the tests of a policy tree: `PolicyTest` documents, in files such as cart_test.yaml.

    Exit status 1 when a case fails, 2 when the tree has errors or no test.
    """
    policies, tests, findings = load_tested_tree(tree)
    usable(policies, findings, tree)
    if not tests:
        raise Invalid("LM2706", path=str(tree))
    now = _time(at)
    with with_custom_rules(policies, deadline_s=PATIENT_S) as evaluated:
        outcomes = run(evaluated, tests, now, snapshot=name_of(policies))
        covered = coverage_of(evaluated, outcomes)
    low = None
    if fail_under is not None and covered.percent < fail_under:
        low = Diagnostic(code="LM2707", facts={"reached": covered.percent, "needed": fail_under})
    failed = [item for item in outcomes if item.finding is not None]
    if output == "json":
        render.data(_json(outcomes, covered if is_covered or fail_under is not None else None))
    elif output == "junit":
        properties = {"snapshot": name_of(policies), "coverage": str(covered.percent)}
        render.line(junit(outcomes, properties, now).rstrip("\n"))
    else:
        _show(outcomes, covered if is_covered else None)
    if low is not None:
        render.diagnostics([low])
    ctx.exit(1 if failed or low is not None else 0)


def _time(text: str | None) -> dt.datetime:
    if text is None:
        return SystemClock().now()
    try:
        return parse_time(text)
    except ValueError as err:
        raise Invalid("LM2204", what="--at", expected="an RFC 3339 timestamp with an offset", value=text) from err


def _json(outcomes: Sequence[Outcome], covered: Coverage | None) -> dict[str, object]:
    """The data of a run."""
    failed = sum(item.finding is not None for item in outcomes)
    found: dict[str, object] = {
        "passed": len(outcomes) - failed,
        "failed": failed,
        "cases": [
            {
                "test": item.test,
                "case": item.case.name,
                "passed": item.has_passed,
                "because": item.case.because,
                "file": item.case.span.file if item.case.span else None,
                "line": item.case.span.line if item.case.span else None,
                "finding": None if item.finding is None else item.finding.to_json(),
                **decision_to_json(item.decision),
            }
            for item in outcomes
        ],
    }
    if covered is not None:
        found["coverage"] = {
            "percent": covered.percent,
            "reached": covered.reached,
            "total": covered.total,
            "rules": [
                {
                    "service": rule.service,
                    "tier": rule.tier,
                    "policy": rule.policy,
                    "rule": rule.rule,
                    "file": rule.span.file if rule.span else None,
                    "line": rule.span.line if rule.span else None,
                    "decided": rule.decided,
                    "branches": [
                        {"condition": branch.name, "true": branch.true, "false": branch.false}
                        for branch in rule.branches
                    ],
                }
                for rule in covered.rules
            ],
        }
    return found


def _show(outcomes: Sequence[Outcome], covered: Coverage | None) -> None:
    """Write a run for people: the failures, what is not reached, the sum."""
    for item in outcomes:
        if item.finding is not None:
            render.line(str(item.finding))
            render.line(f"    {item.finding.help}")
    if covered is not None:
        for rule in covered.rules:
            where = f"{rule.span.file}:{rule.span.line}" if rule.span else rule.service
            name = f"{rule.policy}/{rule.rule}"
            if not rule.decided:
                render.line(f"{where}: {name} decided nothing")
            for branch in rule.branches:
                if branch.missing:
                    render.line(f"{where}: {name}: `{branch.name}` was never {' and never '.join(branch.missing)}")
        render.line(f"coverage {covered.percent} % ({covered.reached} of {covered.total} rules and branches)")
    failed = sum(item.finding is not None for item in outcomes)
    render.line(f"{len(outcomes) - failed} passed, {failed} failed")
