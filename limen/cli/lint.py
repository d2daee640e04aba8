"""`limen policy lint`: what is wrong with a policy tree, and what works and will bite."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import pathlib
import re
from collections.abc import Iterable

import click

from limen.annotations import annotation
from limen.cli import context, render
from limen.sarif import sarif_of
from mesh.clock import SystemClock, format_time
from mesh.flow import Flow
from mesh.problems import Diagnostic, Invalid, NotFound, Severity, Span
from policyengine.customrules import check_custom_rules
from policyengine.lint import lint_tree
from policyengine.loader import KeptFiles, load_tree
from policyengine.model import PolicySet
from policyengine.suppression import Report
from policyengine.usage import Known

UNREADABLE = frozenset({"LM2022", "LM2023", "LM2024", "LM5100", "LM5102", "LM5105", "LM5108", "LM5110"})
"""The findings after which nobody can say what a tree means: it is not there, no YAML, or was not read to its end."""
_COUNTED = (Severity.ERROR, Severity.WARNING)
_QUOTED = re.compile("`([^`]+)`")
_FILE = click.Path(dir_okay=False, path_type=pathlib.Path)


@click.command()
@context.tree_option()
@click.option("--workloads", type=_FILE, help="Known workloads, one JSON object with a `spiffe_id` a line.")
@click.option("--flows", type=_FILE, help="Recorded flows, one JSON object a line.")
@click.option(
    "--fail-on",
    type=click.Choice([str(level) for level in Severity]),
    default=str(Severity.INFO),
    show_default=True,
    help="The least severity that sets exit status 1.",
)
@click.option("--strict", is_flag=True, hidden=True)
@context.output_option("table", "json", "sarif", "github")
@click.pass_context
def lint(
    ctx: click.Context,
    tree: pathlib.Path,
    workloads: pathlib.Path | None,
    flows: pathlib.Path | None,
    fail_on: str,
    output: str,
    *,
    strict: bool,
) -> None:
    """Check a policy tree: errors, and what works and will bite.

    Rules for nobody and rules that nobody used are looked for in --workloads and --flows, or in what --state
    has recorded. Exit status 0 is clean, 1 is findings, 2 is a tree that cannot be read: it is not there, holds a file
    that is no YAML, or goes beyond a bound (size, depth, number of values). What is YAML and wrong is a finding.
    """
    del strict  # every finding counts, as it once asked for
    if not tree.exists():
        raise NotFound("LM2022", file=str(tree), reason="it is not there")
    now = SystemClock().now()
    known, recorded = _known(workloads), _flows(flows)
    # a state that was not named is somebody's own, and this tree need not be about it
    if context.is_state_given() and (workloads is None or flows is None):
        from limen.recorded import read_recorded  # noqa: PLC0415  only where nothing was given

        found = read_recorded(context.state())
        if found is not None and workloads is None and found.identities:
            known = Known(found.identities)
        if found is not None and flows is None and found.flows:
            recorded = found.flows
    kept = KeptFiles()
    report = _compiled(tree, lint_tree(tree, now, known=known, flows=recorded, kept=kept), kept)
    _show(report, output)
    order = list(Severity)
    counted = [item for item in report.findings if order.index(item.severity) <= order.index(Severity(fail_on))]
    if any(item.code in UNREADABLE for item in report.findings):
        ctx.exit(2)
    ctx.exit(1 if counted else 0)


def _compiled(tree: pathlib.Path, report: Report, kept: KeptFiles) -> Report:
    """The report, and what compiling the custom rules of a tree without errors finds: it is refused later otherwise."""
    if any(item.severity is Severity.ERROR for item in report.findings):
        return report
    policies, _ = load_tree(tree, kept)
    try:
        check_custom_rules(policies)
    except Invalid as problem:
        found = Diagnostic(code=problem.code, span=_module(tree, policies, problem), facts=problem.facts)
        return dataclasses.replace(report, findings=(*report.findings, found))
    return report


def _module(tree: pathlib.Path, policies: PolicySet, problem: Invalid) -> Span | None:
    """The line of a module that has the name which the problem quotes; the first module where none does."""
    quoted = _QUOTED.search(str(problem.facts.get("reason", "")))
    for module in policies.rego:
        for number, line in enumerate(module.source.split("\n"), start=1):
            if quoted and quoted[1] in line:
                return Span(file=str(tree / module.path), line=number, column=line.index(quoted[1]) + 1)
    return Span(file=str(tree / policies.rego[0].path), line=1, column=1) if policies.rego else None


def _known(workloads: pathlib.Path | None) -> Known | None:
    if workloads is None:
        return None
    from limen.workloads import read_workloads  # noqa: PLC0415  only where a list was given

    return Known(read_workloads(workloads, SystemClock().now()))


def _flows(flows: pathlib.Path | None) -> Iterable[Flow] | None:
    if flows is None:
        return None
    from limen.cli.plan import read_flows  # noqa: PLC0415  only where a file was given

    # read before anything is shown: a line that is no flow is unreadable input
    return list(read_flows(flows))


def _show(report: Report, output: str) -> None:
    """Write a report as it was asked for."""
    counts = {level: sum(item.severity is level for item in report.findings) for level in Severity}
    if output == "json":
        render.data(
            {
                "findings": [{**item.to_json(), "facts": item.facts} for item in report.findings],
                "suppressed": [
                    {
                        **item.finding.to_json(),
                        "reason": item.suppression.reason,
                        "until": format_time(item.suppression.until),
                    }
                    for item in report.accepted
                ],
                **{f"{level}s": count for level, count in counts.items()},
            }
        )
    elif output == "sarif":
        render.data(sarif_of(report, version=importlib.metadata.version("limen")))
    elif output == "github":
        for item in report.findings:
            render.line(annotation(item))
    else:
        for item in report.findings:
            render.line(str(item))
            render.line(f"    {item.help}")
    if output != "github":
        hidden = f", {len(report.accepted)} suppressed" if report.accepted else ""
        shown = (f"{counts[level]} {level}{'' if counts[level] == 1 else 's'}" for level in _COUNTED)
        render.say(", ".join(shown) + hidden)
