"""`limen acme`: the ACME server for certificates of people outside the mesh, under a root of its own."""

from __future__ import annotations

import urllib.parse
from typing import Any

import click

from limen import client
from limen.cli import context, render


@click.group()
def acme() -> None:
    """Issue web certificates by ACME, under a root of its own."""


@acme.command()
@context.output_option("table", "json")
def status(output: str) -> None:
    """Show what the ACME server holds."""
    _pairs(client.call("GET", "/v1/acme/status"), output)


@acme.command()
@context.output_option("table", "json")
def accounts(output: str) -> None:
    """List accounts."""
    _rows(client.call("GET", "/v1/acme/accounts"), ("id", "status", "contact", "eab", "created"), output)


@acme.command()
@context.output_option("table", "json")
def orders(output: str) -> None:
    """List orders."""
    _rows(client.call("GET", "/v1/acme/orders"), ("id", "account", "status", "names", "serial", "created"), output)


@acme.group()
def eab() -> None:
    """Make external account bindings."""


@eab.command()
@click.option("--label", default="", help="Whom it is for; shown in the audit log.")
@context.output_option("table", "json")
def create(label: str, output: str) -> None:
    """Make a key that lets ONE account in; it is shown once."""
    _pairs(client.call("POST", "/v1/acme/bindings", {"label": label}), output)


@acme.command()
def root() -> None:
    """Print the ACME root, PEM: what clients and browsers are to trust."""
    click.echo(client.call("GET", "/v1/acme/root")["pem"], nl=False)


@acme.command()
@click.argument("serial")
@click.option("--reason", type=int, default=0, help="RFC 5280 §5.3.1: 0, 1, 3, 4, 5 or 9.")
@context.output_option("table", "json")
def revoke(serial: str, reason: int, output: str) -> None:
    """Revoke the certificate with SERIAL, hexadecimal."""
    path = f"/v1/acme/certificates/{urllib.parse.quote(serial, safe='')}/revoke"
    _pairs(client.call("POST", path, {"reason": reason}), output)


def _pairs(found: dict[str, Any], output: str) -> None:
    if output == "json":
        render.data(found)
        return
    render.table([(name, _cell(value)) for name, value in found.items()], ("field", "value"))


def _rows(found: list[dict[str, Any]], columns: tuple[str, ...], output: str) -> None:
    if output == "json":
        render.data(found)
        return
    render.table([tuple(_cell(row[name]) for name in columns) for row in found], columns)


def _cell(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else "-" if value is None else str(value)
