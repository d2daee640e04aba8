"""`limen node`: the hosts that joined, which of them are banned, and what a new one pins."""

from __future__ import annotations

import urllib.parse

import click

from limen import client
from limen.cli import context, render


@click.group()
def node() -> None:
    """List, ban and allow nodes."""


@node.command("list")
@context.output_option("table", "json")
def list_(output: str) -> None:
    """List all nodes that ever joined."""
    found = client.call("GET", "/v1/nodes")
    if output == "json":
        render.data(found)
        return
    rows = [
        (
            row["node"],
            row["attestor"],
            row["joined"],
            row["renewed"] or "",
            f"since {row['banned']}" if row["banned"] else "no",
        )
        for row in found
    ]
    render.table(rows, ("node", "attestor", "joined", "last renewal", "banned"))


@node.command()
@click.argument("name")
@click.option("--reason", default="", help="Why, for the audit log and for whoever looks next.")
@context.output_option("table", "json")
def ban(name: str, reason: str, output: str) -> None:
    """Ban a node: it renews nothing, does not come back, and gets no SVIDs."""
    found = client.call("POST", f"/v1/nodes/{urllib.parse.quote(name, safe='')}/ban", {"reason": reason})
    if output == "json":
        render.data(found)
    else:
        render.line(f"banned {name}; its SVIDs end with their time")
        render.say(f"undo with `limen node allow {name}`")


@node.command()
@click.argument("name")
@context.output_option("table", "json")
def allow(name: str, output: str) -> None:
    """Allow a banned node again; its agent comes back by itself."""
    found = client.call("POST", f"/v1/nodes/{urllib.parse.quote(name, safe='')}/allow", {})
    if output == "json":
        render.data(found)
    else:
        render.line(f"allowed {name}")


@node.command()
@context.output_option("table", "json")
def pins(output: str) -> None:
    """Show what an agent pins that attests itself without a join token."""
    found = client.call("GET", "/v1/pins")
    if output == "json":
        render.data(found)
    else:
        render.line(f"--join {found['url']} --server-key {found['server']} --reviewers {found['reviewers']}")
