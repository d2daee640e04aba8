"""`limen sidecar`: the sidecars of this host's workloads, as its agent has them."""

from __future__ import annotations

import click

from limen.cli import context, render
from mesh.problems import Problem


@click.group()
def sidecar() -> None:
    """Put new sidecars in the place of running ones."""


@sidecar.command()
@click.argument("name", required=False)
@context.output_option("table", "json")
def upgrade(name: str | None, output: str) -> int:
    """Start new sidecars, of all workloads or those called NAME, and let the old ones drain.

    The new ones take over the listening sockets, so that no connection is refused. An old one takes nothing new,
    ends kept-alive connections with their next answer, lets streams go on for ten minutes at most, and ends. The
    new ones run the code that is installed now. Exit status 1: some could not be started, and the old ones go on.
    """
    from enforcer import control  # noqa: PLC0415  what is heavy comes after the options were read

    # each may take 20 s to start
    message = {"type": "upgrade", "name": name}
    found = control.ask(context.state() / "control.sock", message, timeout_s=None)
    if found["type"] == "failed":
        facts = found.get("facts")
        known = {str(key): value for key, value in facts.items()} if isinstance(facts, dict) else {}
        raise Problem(str(found["code"]), span=None, **known)
    rows = found["workloads"]
    assert isinstance(rows, list)
    if output == "json":
        render.data(rows)
    else:
        cells = [(row["name"], _pids(row, draining=False), _pids(row, draining=True), row["problem"]) for row in rows]
        render.table(cells, ("workload", "serving", "draining", "problem"))
    return 1 if any(row["problem"] for row in rows) else 0


def _pids(row: dict[str, list[dict[str, object]]], *, draining: bool) -> str:
    return " ".join(str(found["pid"]) for found in row["sidecars"] if found["draining"] is draining)
