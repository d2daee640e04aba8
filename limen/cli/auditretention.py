"""`limen audit prune` and `limen audit hold`: what of the log is removed, and what must stay."""

from __future__ import annotations

from typing import Any

import click

from limen.cli import context, render
from limen.cli.auditlog import moment


@click.command()
@click.option("--before", required=True, help="Remove records older than this moment (RFC 3339).")
@context.output_option("table", "json")
def prune(*, before: str, output: str) -> None:
    """Remove old records, 256 at a time, and keep every proof; what a hold covers stays.

    What is removed is itself a record, and `limen audit verify` says so.
    """
    from limen import client  # noqa: PLC0415  only what asks a server pays for it

    moment("--before", before)
    found = client.call("POST", "/v1/audit/prune", {"before": before})
    if output == "json":
        render.data(found)
        return
    render.line(f"{found['records']} records removed; their hashes stay, and so do all proofs")
    for first, last in found["pruned"]:
        render.line(f"  pruned   {first} to {last}")
    for item in found["holds"]:
        render.line(f"  held     {_words(item)}")


@click.group()
def hold() -> None:
    """Hold records: what is held is not pruned."""


@hold.command()
@click.option("--since", default=None, help="Records from this moment on (RFC 3339).")
@click.option("--until", default=None, help="Records to before this moment (RFC 3339).")
@click.option("--service", default=None, help="Records about this called service: its name or SPIFFE ID.")
@click.option("--reason", required=True, help="Why; it stands in the log.")
@context.output_option("table", "json")
def add(*, since: str | None, until: str | None, service: str | None, reason: str, output: str) -> None:
    """Hold records of a time, about a service, or both; with neither, all."""
    from limen import client  # noqa: PLC0415  only what asks a server pays for it

    moment("--since", since)
    moment("--until", until)
    body = {"since": since, "until": until, "service": service, "reason": reason}
    found = client.call("POST", "/v1/audit/holds", body)
    if output == "json":
        render.data(found)
    else:
        render.line(f"{found['id']}  {_words(found)}")
        render.line(f"  undo     limen audit hold release {found['id']}")


@hold.command("list")
@context.output_option("table", "json")
def list_holds(*, output: str) -> None:
    """List the holds in force, and what was pruned."""
    from limen import client  # noqa: PLC0415  only what asks a server pays for it

    found = client.call("GET", "/v1/audit/retention")
    if output == "json":
        render.data(found)
        return
    names = ("id", "since", "until", "service", "reason")
    render.table([[render.plain(str(item[name] or "-")) for name in names] for item in found["holds"]], names)


@hold.command()
@click.argument("name", metavar="ID")
@context.output_option("table", "json")
def release(*, name: str, output: str) -> None:
    """End a hold."""
    from limen import client  # noqa: PLC0415  only what asks a server pays for it

    if not (name.isascii() and name.isalnum()):
        raise click.BadParameter("a hold's ID is 26 letters and digits")
    found = client.call("POST", f"/v1/audit/holds/{name}/release", {})
    if output == "json":
        render.data(found)
    else:
        render.line(f"released {name}")


def _words(item: dict[str, Any]) -> str:
    parts = [f"{name} {item[name]}" for name in ("since", "until", "service") if item[name]]
    return render.plain(f"{' '.join(parts) or 'everything'}: {item['reason']}")
