"""`limen bundle`: the trust bundle in SPIFFE or PEM form."""

from __future__ import annotations

import json

import click

from limen import client
from limen.cli import render


@click.group()
def bundle() -> None:
    """Show the trust bundle."""


@bundle.command()
@click.option("--format", "form", type=click.Choice(["spiffe", "pem"]), default="spiffe", help="How to write it.")
def show(form: str) -> None:
    """Print the bundle of this trust domain."""
    found = client.call("GET", "/v1/bundle")
    if form == "spiffe":
        render.data(json.loads(found["spiffe"]))
    else:
        render.line(found["pem"].rstrip("\n"))
