"""`limen flows`: the conversations of a capture or of this host, or the flows of a log, initiator first."""

from __future__ import annotations

import pathlib

import click

from learner.sources.ledger import Ledger
from learner.sources.pcap import read_table
from limen.cli import context, render
from limen.cli.flowcapture import capture, sockets
from limen.cli.flowinput import FORMAT_NAMES, detect, format_help, read_input
from limen.cli.flowtable import show_flows, show_rows
from mesh.problems import Diagnostic


@click.group()
def flows() -> None:
    """Show flows."""


flows.add_command(capture)
flows.add_command(sockets)


@flows.command()
@click.option(
    "--from",
    "file",
    required=True,
    type=click.Path(dir_okay=False, path_type=pathlib.Path),
    help="A capture (pcap or pcapng) or a log.",
)
@click.option(
    "--format", "form", type=click.Choice(FORMAT_NAMES), default="auto", show_default=True, help=format_help()
)
@context.output_option("table", "json")
def table(file: pathlib.Path, form: str, output: str) -> None:
    """One row per conversation of a capture, or per flow of a log."""
    if form == "auto":
        form = detect(file)
    if form == "pcap":
        _captured(file, output)
    else:
        _logged(file, form, output)


def _captured(file: pathlib.Path, output: str) -> None:
    findings: list[Diagnostic] = []
    rows = read_table(file, findings, Ledger(file=str(file), source="pcap"))
    render.diagnostics(findings)
    show_rows(rows, output)


def _logged(file: pathlib.Path, form: str, output: str) -> None:
    findings: list[Diagnostic] = []
    found = list(read_input(file, form, findings))
    render.diagnostics(findings)
    show_flows(found, output)
