"""`limen policy plan` and `publish`: what a change newly allows and denies, and the short way to make it.

A plan is computed on this machine from the two versions themselves; the server is asked for content, never for an
opinion.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterator, Sequence

import click

from limen import client
from limen.cli import render
from limen.cli.can import usable_tree
from limen.cli.context import output_option, tree_option
from limen.cli.signing import approve_review, has_local_key, key_option, signing_key
from limen.flowcounts import Odd, count_flows, is_large
from mesh.clock import SystemClock
from mesh.flow import Flow, flow_from_json
from mesh.problems import Conflict, Invalid
from policyengine.analysis import Plan, broken_invariants
from policyengine.analysis import plan as make_plan
from policyengine.loader import KeptFiles
from policyengine.model import PolicySet, policy_set_from_json
from policyengine.rows import Row


@click.command()
@tree_option("The tree with the change.")
@click.option("--against", default="active", show_default=True, help="The tree to compare with, or `active`.")
@click.option(
    "--flows", type=click.Path(dir_okay=False, path_type=pathlib.Path), help="Recorded flows, one JSON object a line."
)
@output_option("table", "json", "md")
@click.pass_context
def plan(ctx: click.Context, tree: pathlib.Path, against: str, flows: pathlib.Path | None, output: str) -> None:
    """Show who gains and who loses access by a change.

    Exit status 1 when there is a difference or an invariant is broken.
    """
    kept = KeptFiles()
    new = usable_tree(tree, kept)
    old = active_policies() if against == "active" else usable_tree(pathlib.Path(against), kept)
    found = _plan_with(old, new, flows)
    show(found, output)
    ctx.exit(1 if found.has_findings else 0)


def _plan_with(old: PolicySet | None, new: PolicySet, file: pathlib.Path | None) -> Plan:
    """The plan with its impact on recorded flows; a large file is counted first, and read by line where it is odd."""
    now = SystemClock().now()
    if file is not None and is_large(file):
        try:
            return make_plan(old, new, count_flows(file), now)
        except Odd:
            render.say("the flows are read line by line: something in the file is unusual")
    return make_plan(old, new, read_flows(file) if file else (), now)


@click.command()
@tree_option("The tree to publish.")
@click.option("--note", default="", help="Why; kept with the review.")
@key_option
@output_option("table", "json")
def publish(tree: pathlib.Path, note: str, key: pathlib.Path | None, output: str) -> None:
    """Propose a tree, approve it with the local key, and activate it.

    Exit status 1 when an invariant of the tree is broken; 4 when that is not enough: more approvals are needed, or this
    host has no key to give one with.
    """
    policies = usable_tree(tree)
    if broken := broken_invariants(policies, SystemClock().now()):
        render.say(str(Conflict("LM2441", invariants=", ".join(broken))))
        click.get_current_context().exit(1)
    # a file that was named has to be there; without one, and without the local key, nobody approves here
    private = signing_key(key) if key is not None or has_local_key() else None
    body = {"policies": policies.to_json(), "proposer": None, "predecessor": active_hash(), "note": note}
    try:
        review = client.call("POST", "/v1/reviews", body)
    except Conflict as problem:
        if problem.code != "LM2429":
            raise
        render.say("nothing to do: these policies are active")
        if output == "json":
            render.data({"review": None, "snapshot": active_hash(), "state": "active"})
        return
    if private is None:
        render.say(f"proposed as {review['id']}; this host has no reviewer's key, so nobody has approved it")
    else:
        approve_review(str(review["id"]), private, show=show_short)
    # when the approvals do not suffice the server says what is missing, and the exit status is 4
    client.call("POST", f"/v1/reviews/{review['id']}/activate", {})
    if output == "json":
        render.data({"review": review["id"], "snapshot": review["snapshot"], "state": "active"})
    else:
        render.line(f"active  {review['snapshot']}")
        render.say(f"undo with `limen review rollback {review['id']}`")


def active_hash() -> str | None:
    """The hash of the active snapshot, None when there is none."""
    found = client.call("GET", "/v1/snapshots/active")
    return None if found is None else str(found["hash"])


def active_policies() -> PolicySet | None:
    """The policies of the active snapshot, None when there is none: then everything is denied."""
    found = client.call("GET", "/v1/snapshots/active")
    return None if found is None else policy_set_from_json(found["snapshot"]["policies"])


def read_flows(file: pathlib.Path) -> Iterator[Flow]:
    """Read recorded flows.

    Raises Invalid: LM4001 for a file that cannot be read, LM2440 for a line that is no flow.
    """
    try:
        with file.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield _flow(file, number, line)
    except OSError as err:
        raise Invalid("LM4001", file=str(file), reason=err.strerror or str(err)) from err
    except UnicodeDecodeError as err:
        raise Invalid("LM4001", file=str(file), reason="it is not UTF-8") from err


def _flow(file: pathlib.Path, number: int, line: str) -> Flow:
    try:
        found = json.loads(line)
        return flow_from_json(found if isinstance(found, dict) else {})
    except (ValueError, RecursionError) as err:
        raise Invalid("LM2440", file=str(file), line=number, reason=str(err)) from err


def show(found: Plan, output: str) -> None:
    """Write a plan to stdout."""
    if output == "json":
        render.data(found.to_json())
    elif output == "md":
        _show_markdown(found)
    else:
        _show_table(found)


def show_short(found: Plan) -> None:
    """Say what a plan comes to."""
    allowed, denied = len(found.newly_allowed), len(found.newly_denied)
    broken = [result.name for result in found.invariants if not result.holds]
    render.say(f"plan: {allowed} newly allowed, {denied} newly denied" + _more(found, broken))


def _more(found: Plan, broken: Sequence[str]) -> str:
    more = f"; broken invariants: {', '.join(broken)}" if broken else ""
    return more + ("" if found.is_complete else "; there may be more: a service is too large to look at whole")


def _show_table(found: Plan) -> None:
    for title, rows in (("newly allowed", found.newly_allowed), ("newly denied", found.newly_denied)):
        render.line(f"{title}: {len(rows) or 'nobody'}")
        if rows:
            render.table([_cells(row) for row in rows], _HEADERS)
    for text in _remarks(found):
        render.line(text)


def _show_markdown(found: Plan) -> None:
    for title, rows in (("Newly allowed", found.newly_allowed), ("Newly denied", found.newly_denied)):
        render.line(f"### {title}: {len(rows) or 'nobody'}\n")
        if rows:
            render.line("| " + " | ".join(_HEADERS) + " |")
            render.line("|" + "---|" * len(_HEADERS))
            for row in rows:
                render.line("| " + " | ".join(_escaped(cell) for cell in _cells(row)) + " |")
            render.line("")
    for text in _remarks(found):
        render.line(f"- {_escaped(text)}")


_LONGEST, _SHOWN = 24, 5
"""A table shows lists of so many whole, and of longer ones the first few."""
ACCESS_HEADERS = ("source", "service", "methods", "paths", "when", "because")
_HEADERS = (*ACCESS_HEADERS, "replayed")


def access_cells(row: Row) -> tuple[str, ...]:
    """Who, to where, with what and when: what every table of access begins with. Long lists are cut, and say so."""
    return (
        row.source,
        f"{row.service}:{row.port}",
        ",".join(row.methods) or "-",
        ",".join(row.paths if len(row.paths) <= _LONGEST else (*row.paths[:_SHOWN], _more_than_shown(row.paths)))
        or "-",
        json.dumps({name: _cut(value) for name, value in row.when.items()}, ensure_ascii=False) if row.when else "-",
    )


def _cut(found: object) -> object:
    """A value as a table shows it: a list that is too long to read ends in how many there are more."""
    if not isinstance(found, list) or len(found) <= _LONGEST:
        return found
    return [*found[:_SHOWN], _more_than_shown(found)]


def _more_than_shown(found: Sequence[object]) -> str:
    return f"… and {len(found) - _SHOWN} more: -o json"


def _cells(row: Row) -> tuple[str, ...]:
    because = ", ".join(row.because) or "default deny"
    return (*access_cells(row), because, "yes" if row.is_replayed else "no")


def _escaped(text: str) -> str:
    """Text that stays text inside a Markdown table, whoever wrote it."""
    table = {"|": "\\|", "`": "\\`", "<": "&lt;", ">": "&gt;", "*": "\\*", "_": "\\_", "\n": " "}
    return "".join(table.get(char, char) for char in text)


def _remarks(found: Plan) -> Iterator[str]:
    for result in found.invariants:
        state = "removed" if result.is_removed else "holds" if result.holds else "BROKEN"
        yield f"invariant {result.name} ({result.service}): {state}"
        if result.row is not None:
            source, service, methods, paths, when = access_cells(result.row)
            under = f" when {when}" if result.row.when else ""
            yield f"    {source} {service} {methods} {paths}{under} because {', '.join(result.row.because)}"
    impact = found.impact.to_json()
    if any(impact.values()):
        yield "recorded flows: " + ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in impact.items())
        if found.impact.uncertain:
            yield "    uncertain: what is not recorded (headers, tokens, Hosts, for some a path) decides about these"
        # what is sure stands first
        for change in sorted(found.impact.changes, key=lambda item: item.outcome == "uncertain")[:20]:
            flow = change.flow
            what = f"{flow.method or ''} {flow.path or ''}".strip()
            called = f"{flow.destination or flow.destination_ip}:{flow.destination_port} {what}".rstrip()
            times = f"  ({change.count} times)" if change.count > 1 else ""
            yield f"    {change.outcome.replace('_', ' ')}  {flow.source or flow.source_ip} → {called}{times}"
    if not found.is_complete:
        yield "there may be more: a service is too large to look at whole"
    elif not found.has_findings:
        yield "equivalent: nobody gains and nobody loses access"
