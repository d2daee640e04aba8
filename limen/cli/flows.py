"""`limen flows`: conversations in a capture, initiator first."""

from __future__ import annotations

import pathlib

import click

from learner.sources.pcap import read_table
from limen.cli import context, render
from mesh.problems import Diagnostic


@click.group()
def flows() -> None:
    """Show flows."""


@flows.command()
@click.option(
    "--from",
    "file",
    required=True,
    type=click.Path(dir_okay=False, path_type=pathlib.Path),
    help="A capture: pcap or pcapng.",
)
@context.output_option("table", "json")
def table(file: pathlib.Path, output: str) -> None:
    """One row per conversation of a capture."""
    findings: list[Diagnostic] = []
    rows = read_table(file, findings)
    render.diagnostics(findings)
    if output == "json":
        render.data([row.to_json() for row in rows])
        return
    render.table(
        [
            (
                f"{row.source_ip}:{row.source_port}",
                f"{row.destination_ip}:{row.destination_port}",
                row.protocol,
                row.packets,
                row.bytes,
                f"{(row.last - row.first).total_seconds():.3f}",
                "yes" if row.established else "no",
            )
            for row in rows
        ],
        ("source", "destination", "protocol", "packets", "bytes", "seconds", "established"),
    )
