"""`limen identity downstream`: which servers of the trust domain may issue below this one."""

from __future__ import annotations

import pathlib
import urllib.parse
from typing import Any

import click

from limen import client
from limen.cli import context, render
from limen.cli.authority import report_blast


@click.group()
def downstream() -> None:
    """Let other servers of the trust domain issue below this one."""


@downstream.command()
@click.argument("name")
@click.option("--life", default="7d", show_default=True, help="How long its issuing certificates live: 1h to 90d.")
@click.option(
    "--ttl", default=600, show_default=True, help="Seconds until the token expires.", type=click.IntRange(1, 86400)
)
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=pathlib.Path), help="Write the token to a new file, mode 0600."
)
@context.output_option("table", "json")
def allow(*, name: str, life: str, ttl: int, out: pathlib.Path | None, output: str) -> None:
    """Let a server be one below, by a single-use token that it joins with; again for one that lost its state.

    Whoever joins with the token can sign every identity of the trust domain.
    """
    from ca.upstream.spec import parse_life  # noqa: PLC0415  only this command reads a life
    from enforcer.nodestate import replace_file  # noqa: PLC0415

    body = {"name": name, "life_s": int(parse_life(life).total_seconds()), "ttl_s": ttl}
    found = client.call("POST", "/v1/downstreams", body)
    if out is not None:
        replace_file(out, (found["token"] + "\n").encode())
        found = {**found, "token": None}
    if output == "json":
        render.data(found)
        return
    render.line(str(out) if out is not None else found["token"])
    render.say(
        f"expires {found['expires']}; start the other server with "
        f"`--upstream limen:url={found['url']},token={out or 'FILE'}`"
    )
    render.say(f"undo: `limen identity downstream remove {name}`")


@downstream.command("list")
@context.output_option("table", "json")
def list_(output: str) -> None:
    """List the servers below, and what hangs on them."""
    found = client.call("GET", "/v1/downstreams")
    if output == "json":
        render.data(found)
        return
    rows = [
        (
            row["name"],
            "yes" if row["is_connected"] else "no",
            ", ".join(f"{item['id']} ({item['state']})" for item in row["authorities"]) or "-",
            row["blast"]["live_svids"],
            row["blast"]["safe_at"] or "-",
        )
        for row in found
    ]
    render.table(rows, ("server", "connected", "authorities", "live SVIDs", "last of them ends"))


@downstream.command()
@click.argument("name")
@click.option("--reason", default="", help="Why, for the records.")
@click.option("--force", is_flag=True, help="Although valid SVIDs hang on it.")
@click.option("--dry-run", is_flag=True, help="Only say what it would break.")
@context.output_option("table", "json")
def remove(*, name: str, reason: str, force: bool, dry_run: bool, output: str) -> None:
    """Let a server be one below no more: its issuing certificates are revoked at once."""
    path = f"/v1/downstreams/{urllib.parse.quote(name, safe='')}/remove"
    body: dict[str, Any] = {"reason": reason, "force": force}
    found = client.call("POST", path, {**body, "dry_run": True})
    if output != "json":
        report_blast(found["blast"])
    if not dry_run:
        found = client.call("POST", path, {**body, "dry_run": False})
    if output == "json":
        render.data(found)
    else:
        render.line(f"{found['name']} " + ("would be removed" if dry_run else "is removed"))
