"""`limen server`: the authority, the policy store, reviews, flows and the audit log in one process."""

from __future__ import annotations

import pathlib

import click

from limen.cli import context


@click.command()
@click.option("--trust-domain", default="limen.local", show_default=True, help="Name of the trust domain.")
@click.option("--listen", default="127.0.0.1", show_default=True, help="Address, or ADDRESS:PORT, to serve on.")
@click.option("--database", envvar="LIMEN_DATABASE", default=None, help="Database URL; SQLite in the state by default.")
@click.option(
    "--reviewers",
    type=click.Path(dir_okay=False, path_type=pathlib.Path),
    default=None,
    help="The first reviewer set; one local key by default.",
)
def server(trust_domain: str, listen: str, database: str | None, reviewers: pathlib.Path | None) -> None:
    """Run the server in the foreground until SIGTERM."""
    from limen import serve  # noqa: PLC0415  heavy imports only for the process that needs them

    serve.run(context.state(), trust_domain=trust_domain, listen=listen, database=database, reviewers=reviewers)
