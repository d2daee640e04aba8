"""`limen install`: files for other people's tools, on stdout."""

from __future__ import annotations

import json

import click

from limen.cli import context, render
from limen.cli.later import later
from mesh.problems import Unavailable


class _Files(click.Group):
    """Those that are not there yet say so."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """What prints a file."""
        return super().get_command(ctx, cmd_name) or later(f"install {cmd_name}")


@click.group(cls=_Files)
def install() -> None:
    """Print installation files for other tools."""


@install.command()
def grafana() -> None:
    """Print a Grafana dashboard: import it, and choose the Prometheus that reads Limen's metrics."""
    from limen.install.grafana import dashboard  # noqa: PLC0415

    render.line(json.dumps(dashboard(), indent=2, ensure_ascii=False))


@install.command()
def prometheus() -> None:
    """Print what Prometheus scrapes here: the server and the agent of --state, at the ports they have now."""
    from limen.install.prometheus import scrape  # noqa: PLC0415

    found = scrape(context.state() / "run")
    if not found:
        raise Unavailable("LM5271", path=str(context.state()))
    render.line(found.rstrip("\n"))
