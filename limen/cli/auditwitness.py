"""`limen audit witness`: watch over a log by cosigning only what follows from what was cosigned before."""

from __future__ import annotations

import pathlib

import click

from limen.cli import context
from limen.cli.auditlog import verifier_key


@click.command()
@click.option(
    "--dir", "folder", type=click.Path(path_type=pathlib.Path), default=None, help="Its state, default STATE/witness."
)
@click.option("--name", required=True, help="What its cosignatures call it, such as witness.corp.test.")
@click.option(
    "--log", "logs", multiple=True, required=True, help="A log to witness: its key.pub, or the key's text. Repeatable."
)
@click.option("--listen", default="127.0.0.1:0", show_default=True, help="ADDRESS:PORT; 0 is any free port.")
def witness(*, folder: pathlib.Path | None, name: str, logs: tuple[str, ...], listen: str) -> None:
    """Run a witness for logs, in the foreground, until SIGTERM.

    It cosigns a checkpoint only if that one follows from the last one that it cosigned; a fork and a step back are
    refused. Its public key is DIR/key.pub; whoever runs the log names it and this address in STATE/witness.policy.
    """
    from limen import witnessserver  # noqa: PLC0415  the other verbs need no server

    keys = [verifier_key(text) for text in logs]
    witnessserver.run(folder or context.state() / "witness", name=name, logs=keys, listen=listen)
