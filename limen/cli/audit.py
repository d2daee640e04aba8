"""`limen audit`: read, verify, prove and export the audit log. It reads the log's files and needs no server."""

from __future__ import annotations

import dataclasses
import datetime as dt
import pathlib

import click

from audit.reader import Reader
from audit.verify import prove as prove_record
from audit.verify import verify_log
from limen.cli import (
    auditevidence,
    auditexport,
    auditexports,
    auditissuance,
    auditquestions,
    auditreach,
    auditretention,
    auditwitness,
    context,
    render,
)
from limen.cli.auditlog import agent_key, log_options, open_log, verifier_key
from mesh.clock import format_time


@click.group()
def audit() -> None:
    """Read, verify and export the audit log."""


@audit.command()
@log_options
@click.option(
    "--witness", "witnesses", multiple=True, help="A witness that must have cosigned: its key.pub, or the key's text."
)
@click.option(
    "--agent-key",
    "agents",
    multiple=True,
    metavar="SPIFFE-ID=KEY",
    help="An agent's key, in base64 as its batches name it (`signer`): they must be signed by it and no other.",
)
@context.output_option("table", "json")
def verify(
    *,
    folder: pathlib.Path | None,
    key: pathlib.Path | None,
    witnesses: tuple[str, ...],
    agents: tuple[str, ...],
    output: str,
) -> int:
    """Check every record, tile and signature; say exactly what is wrong."""
    known = dict(map(agent_key, agents))
    where, text = open_log(folder, key)
    found = verify_log(where, text, [verifier_key(item) for item in witnesses], agents=known)
    if output == "json":
        render.data(
            {
                "verified": found.is_good,
                "records": found.size,
                "root": found.root.hex(),
                "origin": found.origin,
                "witnessed": [dataclasses.asdict(item) for item in found.witnessed],
                "findings": [{**item.to_json(), "facts": item.facts} for item in found.findings],
            }
        )
    else:
        render.diagnostics(found.findings)
        if found.is_good:
            render.line(f"√ {found.size} records of {found.origin} are those that were logged")
            render.line(f"  root {found.root.hex()}")
            for item in found.witnessed:
                at = format_time(dt.datetime.fromtimestamp(item.at, tz=dt.UTC))
                render.line(f"  {render.plain(item.witness)} cosigned the first {item.size} at {at}")
        else:
            render.line(f"× {len(found.findings)} findings in a log of {found.size} records")  # noqa: RUF001
    return 0 if found.is_good else 1


@audit.command()
@click.argument("record_id", metavar="ID")
@log_options
@click.option("--index", "at", type=click.IntRange(0), default=None, help="Which one, should two carry the id.")
@context.output_option("json", "table")
def prove(
    *, record_id: str, folder: pathlib.Path | None, key: pathlib.Path | None, at: int | None, output: str
) -> None:
    """Prove that a record is in the log, for somebody who has only the public key."""
    where, text = open_log(folder, key)
    proof = prove_record(where, text, record_id, at=at)
    if output == "json":
        render.data(proof)
        return
    path = proof["proof"]
    assert isinstance(path, list)
    render.line(f"√ record {proof['index']} of {proof['size']} leads to the signed root by {len(path)} hashes")
    for found in path:
        render.line(f"  {found}")


@audit.command()
@log_options
@context.output_option("table", "json")
def checkpoint(*, folder: pathlib.Path | None, key: pathlib.Path | None, output: str) -> None:
    """Print the signed checkpoint, for a witness or an archive."""
    where, text = open_log(folder, key)
    reader = Reader(where, text)
    if output == "json":
        said = reader.checkpoint
        render.data({"origin": said.origin, "size": said.size, "root": said.root.hex(), "note": reader.note.decode()})
    else:
        render.line(reader.note.decode().rstrip("\n"))


for _command in (auditquestions.tail, auditquestions.show, auditquestions.search_log):
    audit.add_command(_command)
audit.add_command(auditexport.export)
audit.add_command(auditexports.exports)
audit.add_command(auditissuance.watch_issuance)
audit.add_command(auditwitness.witness)
audit.add_command(auditretention.prune)
audit.add_command(auditretention.hold)
audit.add_command(auditreach.reach)
audit.add_command(auditevidence.evidence)
