"""`limen identity upstream`: the requests that wait for an offline root, and the chains that answer them.

Works on the state's files alone: a server that has no issuing authority yet cannot be asked.
"""

from __future__ import annotations

import pathlib

import click

from limen.cli import context, render


@click.group()
def upstream() -> None:
    """Carry requests to an offline root, and its answers back."""


@upstream.command()
@context.output_option("table", "json")
def csr(output: str) -> int:
    """Print the request that waits, PEM; exit 1 when none does."""
    from limen.offlineroot import waiting  # noqa: PLC0415  only this command needs X.509

    found = waiting(context.state())
    if output == "json":
        render.data([{"path": str(path), "csr": text} for path, text in found])
    elif found:
        render.line(found[0][1].rstrip("\n"))
        render.say(f"request: {found[0][0]}")
    else:
        render.say("no request waits")
    return 0 if found else 1


@upstream.command("import")
@click.argument("file", type=click.Path(dir_okay=False, path_type=pathlib.Path))
def import_(file: pathlib.Path) -> None:
    """Import the signed chain, PEM: the issuing certificate first, the root last."""
    from limen.offlineroot import take  # noqa: PLC0415  only this command needs X.509
    from mesh.clock import SystemClock  # noqa: PLC0415

    request = take(context.state(), file, SystemClock().now())
    render.say(f"answered: {request}")
    render.say("start the server, or wait for its next try")
