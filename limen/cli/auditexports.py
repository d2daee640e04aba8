"""`limen audit exports`: how the continuous exports stand. It reads files and needs no server."""

from __future__ import annotations

import click

from limen.cli import context, render
from limen.exportstate import is_stalled, standings
from mesh.clock import SystemClock


@click.command()
@context.output_option("table", "json")
def exports(*, output: str) -> int:
    """List continuous exports, how far each is behind, and what stops it (exit 1 for a stalled one)."""
    now = SystemClock().now()
    rows = [{**row, "stalled": is_stalled(row, now)} for row in standings(context.state())]
    if output == "json":
        render.data(rows)
    else:
        render.table(
            [
                (
                    row["name"],
                    "stalled" if row["stalled"] else "fails" if row["failures"] else "runs",
                    row["lag"],
                    row["delivered_at"] or "-",
                    row["format"],
                    row["to"],
                    render.plain(row["error"]),
                )
                for row in rows
            ],
            ("name", "state", "lag", "delivered", "format", "to", "why"),
        )
    return 1 if any(row["stalled"] for row in rows) else 0
