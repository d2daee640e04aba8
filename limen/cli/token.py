"""`limen token`: join tokens for agents."""

from __future__ import annotations

import click

from limen import client
from limen.cli import context, render


@click.group()
def token() -> None:
    """Make join tokens."""


@token.command()
@click.option(
    "--ttl", default=600, show_default=True, help="Seconds until the token expires.", type=click.IntRange(1, 86400)
)
@context.output_option("table", "json")
def create(ttl: int, output: str) -> None:
    """Make a single-use token that one agent joins with."""
    found = client.call("POST", "/v1/tokens", {"ttl_s": ttl})
    if output == "json":
        render.data({"token": found["token"], "expires": found["expires"]})
    else:
        render.line(found["token"])
        render.say(f"expires {found['expires']}; join with `limen agent --join {found['url']} --token …`")
