"""`limen env`: what points SPIFFE programs at this host's Workload API."""

from __future__ import annotations

import shlex

import click

from limen.cli import context, render
from limen.endpoint import VARIABLE, uri_of


@click.command()
def env() -> None:
    """Print `export SPIFFE_ENDPOINT_SOCKET=…` for a shell."""
    render.line(f"export {VARIABLE}={shlex.quote(uri_of(context.state() / 'agent.sock'))}")
