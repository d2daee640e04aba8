"""`limen audit evidence`: one directory with which an auditor checks alone what happened."""

from __future__ import annotations

import pathlib

import click

from audit.search import Query
from limen.cli import context, render
from limen.cli.auditlog import log_options, moment, open_log


@click.command()
@click.option("--since", default=None, help="From this moment on (RFC 3339).")
@click.option("--until", default=None, help="To before this moment (RFC 3339).")
@click.option("--service", default=None, help="Only what is about this called service: its name or SPIFFE ID.")
@click.option("--out", type=click.Path(path_type=pathlib.Path), required=True, help="The directory to make.")
@log_options
@context.output_option("table", "json")
def evidence(
    *,
    since: str | None,
    until: str | None,
    service: str | None,
    out: pathlib.Path,
    folder: pathlib.Path | None,
    key: pathlib.Path | None,
    output: str,
) -> None:
    """Make a directory that an auditor can verify alone.

    Records with a proof each, the checkpoint, cosignatures, the releases in force with their approvals, a verifier, and
    report.html.
    """
    from limen.evidence import write_pack  # noqa: PLC0415  the policy engine is heavy
    from limen.releases import Policies  # noqa: PLC0415

    query = Query(since=moment("--since", since), until=moment("--until", until), service=service)
    where, text = open_log(folder, key)
    found = write_pack(where, text, Policies(context.state()), query, out)
    if output == "json":
        render.data(found)
        return
    render.line(f"{found['records']} records with their proofs, and {found['releases']} releases, in {out}")
    render.line(f"  read     {out / 'report.html'}")
    render.line(f"  check    python {out / 'verify_log.py'} KEY_FILE --proof {out / 'proofs'}/*.json")
