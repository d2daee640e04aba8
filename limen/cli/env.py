"""`limen env`: what points SPIFFE programs at this host's Workload API."""

from __future__ import annotations

import shlex

import click

from limen.cli import context, render


@click.command()
def env() -> None:
    """Print `export SPIFFE_ENDPOINT_SOCKET=…` for a shell."""
    address = f"unix://{context.state() / 'agent.sock'}"
    render.line(f"export SPIFFE_ENDPOINT_SOCKET={shlex.quote(address)}")
