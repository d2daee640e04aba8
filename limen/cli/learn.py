"""`limen learn`: proposes policies from traffic, with what they may break."""

from __future__ import annotations

import json
import pathlib

import click

from learner.attribution import Workloads, read_workloads
from learner.propose import Proposal, propose, watched
from limen.cli import context, render
from limen.cli.flowinput import read_input
from mesh.problems import Conflict, Diagnostic, Invalid

_FORMATS = ("auto", "limen", "pcap", "envoy", "hubble", "zeek", "vpc", "conntrack", "otel")


@click.group()
def learn() -> None:
    """Propose policies from traffic."""


@learn.command("propose")
@click.option(
    "--from",
    "files",
    multiple=True,
    required=True,
    type=click.Path(dir_okay=False, path_type=pathlib.Path),
    help="A capture or a file of flows. May be repeated.",
)
@click.option("--format", "form", type=click.Choice(_FORMATS), default="auto", show_default=True, help="What it is.")
@click.option(
    "--workloads", type=click.Path(dir_okay=False, path_type=pathlib.Path), help="Which address was whom, when."
)
@click.option("--schedules", type=click.Path(dir_okay=False, path_type=pathlib.Path), help="Calls that are declared.")
@click.option(
    "--out", required=True, type=click.Path(file_okay=False, path_type=pathlib.Path), help="Where the tree goes."
)
@context.output_option("table", "json")
def propose_command(
    files: tuple[pathlib.Path, ...],
    form: str,
    workloads: pathlib.Path | None,
    schedules: pathlib.Path | None,
    out: pathlib.Path,
    output: str,
) -> None:
    """Write a policy tree that covers what was seen, and say what it may break."""
    findings: list[Diagnostic] = []
    known = Workloads()
    if workloads is not None:
        known, wrong = read_workloads(workloads)
        findings += wrong
    flows = []
    for file in files:
        render.progress(f"reading {file}")
        flows += list(known.attribute(read_input(file, form, findings)))
    render.diagnostics(findings)
    if not flows:
        raise Invalid("LM4004", files=", ".join(str(file) for file in files))
    render.progress(f"learning from {len(flows)} flows")
    found = propose(flows, _schedules(schedules))
    _write(found, out)
    if output == "json":
        render.data(found.to_json())
    else:
        _show(found, out, watched(flows).total_seconds())


@learn.command(context_settings={"ignore_unknown_options": True})
@click.argument("rest", nargs=-1, type=click.UNPROCESSED)
def drift(rest: tuple[str, ...]) -> None:
    """Compare policies with traffic (not part of this version)."""
    del rest
    raise Invalid("LM0001", command="limen learn drift")


def _schedules(file: pathlib.Path | None) -> list[dict[str, str]]:
    if file is None:
        return []
    rows = []
    try:
        for number, line in enumerate(file.read_text("utf-8").splitlines(), start=1):
            if line.strip():
                row = json.loads(line)
                if not isinstance(row, dict) or not all(
                    isinstance(row.get(name), str) for name in ("spiffe_id", "destination", "cron")
                ):
                    raise Invalid("LM4005", file=str(file), line=number)
                rows.append(row)
    except (OSError, ValueError) as err:
        raise Invalid("LM4001", file=str(file), reason=str(err)) from err
    return rows


def _write(found: Proposal, out: pathlib.Path) -> None:
    """Write the tree, one file a service; a directory that holds other files is not written into."""
    out.mkdir(parents=True, exist_ok=True)
    mine = {f"{service.name}.yaml" for service in found.services}
    strangers = sorted(path.name for path in out.iterdir() if path.name not in mine)
    if strangers:
        raise Conflict("LM4006", directory=str(out), file=strangers[0])
    for service in found.services:
        (out / f"{service.name}.yaml").write_text(service.to_yaml(), "utf-8")


def _show(found: Proposal, out: pathlib.Path, seconds: float) -> None:
    rows = [
        (
            report.service,
            len(service.rules),
            report.coverage.sessions,
            report.coverage.days,
            f"{report.coverage.session_bound_95:.2%}",
            f"{report.coverage.day_bound_95:.0%}",
        )
        for report, service in zip(found.reports, found.services, strict=True)
    ]
    render.table(rows, ("service", "rules", "sessions", "days", "next session", "next day"))
    render.say(
        f"{found.rules} rules from {seconds:.0f} s of traffic, written to {out}. 95 %: the next session (or day) holds"
        " something uncovered with at most this probability, if sessions and days to come are like those seen"
    )
    for report in found.reports:
        for text in report.open:
            render.say(f"  open  {report.service}: {text}")
    for item in found.quarantined:
        render.say(f"  quarantined  {item.source} → {item.destination}:{item.port}: {item.reason} ({item.evidence})")
    if found.unattributed:
        render.say(f"  {found.unattributed} connections could not be attributed to identities on both sides")
    render.say(f"next: limen policy plan --policies {out} --against active")
