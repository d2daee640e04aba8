"""`limen learn figure`: what was learned, as a picture: coverage over time, and the graph of who calls whom."""

from __future__ import annotations

import pathlib

import click

from learner.figure import Arrow, coverage_svg, days_of, graph_svg
from learner.propose import propose_from
from learner.risk import Watch
from limen.cli import render
from limen.cli.learninput import read_traffic, schedules_of, traffic_options
from limen.files import replace_file
from mesh.problems import Invalid


@click.command()
@click.argument("what", type=click.Choice(("coverage", "graph")))
@traffic_options
@click.option("--title", help="The title of the picture.")
@click.option("--out", required=True, type=click.Path(dir_okay=False, path_type=pathlib.Path), help="The SVG file.")
def figure(
    what: str,
    files: tuple[pathlib.Path, ...],
    form: str,
    workloads: pathlib.Path | None,
    schedules: tuple[pathlib.Path, ...],
    history: pathlib.Path | None,
    title: str | None,
    out: pathlib.Path,
) -> None:
    """Draw coverage over time, or the learned graph, as SVG. A history is read and not changed."""
    traffic = read_traffic(files, form, workloads, history)
    found = propose_from(traffic.history, Watch(schedules=schedules_of(schedules)))
    if what == "coverage":
        text = coverage_svg(days_of(found.units), title or "Sessions covered by what was known before the day")
    else:
        names = {service.identity: service.name for service in found.services}
        arrows = [
            Arrow(
                names.get(rule.caller, _short(rule.caller)),
                service.name,
                ", ".join(f":{grant.port}" for grant in rule.grants),
            )
            for service in found.services
            for rule in service.rules
        ]
        arrows += [
            Arrow(
                names.get(item.source, _short(item.source)),
                names.get(item.destination, _short(item.destination)),
                f":{item.port} {item.reason}",
                is_quarantined=True,
            )
            for item in found.quarantined
        ]
        text = graph_svg(list(dict.fromkeys(arrows)), title or "Who calls whom")
    try:
        replace_file(out, text.encode(), mode=0o644)
    except OSError as err:
        raise Invalid("LM4033", directory=str(out), reason=err.strerror or str(err)) from err
    render.say(f"wrote {out}")


def _short(identity: str) -> str:
    return identity.rpartition("/")[2] or identity
