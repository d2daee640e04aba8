"""`limen node`: the hosts that joined, which of them are banned, and what a new one pins."""

from __future__ import annotations

import base64
import os
import pathlib
import urllib.parse

import click

from limen import client
from limen.cli import context, render
from mesh.problems import Invalid


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
    """Ban a node: it renews nothing, does not come back, and gets no SVIDs.

    A machine that proved one key under several names is banned under all of them.
    """
    found = client.call("POST", f"/v1/nodes/{urllib.parse.quote(name, safe='')}/ban", {"reason": reason})
    if output == "json":
        render.data(found)
    else:
        render.line(f"banned {', '.join((name, *found['also']))}; its SVIDs end with their time")
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
        render.line(f"allowed {', '.join((name, *found['also']))}")


@node.command()
@context.output_option("table", "json")
def pins(output: str) -> None:
    """Show what an agent pins that attests itself without a join token."""
    found = client.call("GET", "/v1/pins")
    if output == "json":
        render.data(found)
    else:
        render.line(f"--join {found['url']} --server-key {found['server']} --reviewers {found['reviewers']}")


@node.command()
@context.output_option("table", "json")
def signer(output: str) -> None:
    """Show, on a host, the key that signs its audit batches, as `limen audit verify --agent-key` takes it."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (  # noqa: PLC0415  only this command needs it
        Ed25519PrivateKey,
    )

    from enforcer import nodestate  # noqa: PLC0415  only this command reads the agent's state itself
    from mesh.wrapping import load_wrapping_key  # noqa: PLC0415

    folder, key_file = context.state() / "agent", os.environ.get("LIMEN_KEY_FILE")
    # a host that never joined has no key to unwrap, and is not given one here
    if not nodestate.has_joined(folder):
        raise Invalid("LM3445")
    found = nodestate.load(folder, load_wrapping_key(folder, pathlib.Path(key_file) if key_file else None))
    assert found is not None
    public = Ed25519PrivateKey.from_private_bytes(found.record_key).public_key().public_bytes_raw()
    key = base64.b64encode(public).decode()
    if output == "json":
        render.data({"agent": found.spiffe_id, "signer": key})
    else:
        render.line(f"{found.spiffe_id}={key}")


@node.command()
@context.output_option("table", "json")
def attestors(output: str) -> None:
    """List the attestors that let nodes in now."""
    found = client.call("GET", "/v1/attestors")
    if output == "json":
        render.data(found)
    else:
        render.table([(row["name"], row["type"], row["node"]) for row in found], ("attestor", "type", "node's name"))


@node.command()
@click.argument("file", type=click.Path(path_type=pathlib.Path, dir_okay=False))
@context.output_option("table", "json")
def lint(file: pathlib.Path, output: str) -> int:
    """Check an attestors.yaml, and that the files which it names can be read; nothing is changed."""
    from ca.attestorfile import has_errors, load_attestors  # noqa: PLC0415  only this command reads the file itself

    try:
        text = file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as err:
        raise Invalid("LM1261", path=str(file), reason=getattr(err, "strerror", None) or "it is not UTF-8") from err
    made, found = load_attestors(text, str(file), lambda name: (file.parent / name).read_bytes())
    if output == "json":
        rows = [{"name": item.name, "type": item.type, "node": item.node} for item in made]
        render.data({"attestors": rows, "findings": [item.to_json() for item in found]})
    else:
        render.diagnostics(found)
        if not found:
            render.line(f"{file}: {len(made)} attestors")
    return 1 if has_errors(found) else 0
