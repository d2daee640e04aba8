"""`limen audit watch-issuance` and `limen identity prove`: which certificates the log knows."""

from __future__ import annotations

import dataclasses
import pathlib
import sys

import click

from audit.issued import MAX_CERTIFICATE_BYTES, Standing, Watch, find_issuance, read_certificates
from audit.reader import Reader
from audit.verify import prove as prove_record
from limen.cli import context, render
from limen.cli.auditlog import log_options, open_log
from mesh.problems import Diagnostic, Invalid, NotFound


def prove_issuance(serial: str, folder: pathlib.Path | None, key: pathlib.Path | None, output: str) -> int:
    """`limen identity prove`: find the record of an SVID, and prove it. The exit status: 1 when there is none."""
    where, text = open_log(folder, key)
    try:
        index, row = find_issuance(Reader(where, text).records(), serial)
    except NotFound as problem:
        render.diagnostics([problem.diagnostic()])
        return 1
    proof = prove_record(where, text, str(row["id"]), at=index)
    if output == "json":
        render.data(proof)
        return 0
    path = proof["proof"]
    assert isinstance(path, list)
    name = render.plain(str(row.get("spiffe_id", row["actor"])))
    render.line(
        f"√ {name} ({serial}) was issued here: record {index} of {proof['size']}, {len(path)} hashes to the root"
    )
    return 0


@click.command("watch-issuance")
@click.argument("files", nargs=-1, metavar="FILE…", type=click.Path(path_type=pathlib.Path, allow_dash=True))
@click.option(
    "--cert", multiple=True, type=click.Path(path_type=pathlib.Path, allow_dash=True), help="The same as FILE."
)
@log_options
@context.output_option("table", "json")
def watch_issuance(
    *,
    files: tuple[pathlib.Path, ...],
    cert: tuple[pathlib.Path, ...],
    folder: pathlib.Path | None,
    key: pathlib.Path | None,
    output: str,
) -> int:
    """Name every certificate that one of our keys signed and the log does not know (exit 1).

    FILE is PEM or DER; `-` is stdin.
    """
    if not files and not cert:
        raise click.UsageError("give certificates: files, or `-` for stdin")
    certificates = [item for path in (*files, *cert) for item in read_certificates(_bytes_of(path))]
    where, text = open_log(folder, key)
    watch = Watch(Reader(where, text).records())
    found = [watch.look(item) for item in certificates]
    stolen = [item for item in found if item.standing is Standing.NOT_LOGGED]
    if output == "json":
        render.data([dataclasses.asdict(item) for item in found])
    else:
        rows = [
            (item.standing, render.plain(item.spiffe_id) or "-", item.serial, "-" if item.index is None else item.index)
            for item in found
        ]
        render.table(rows, ("standing", "identity", "serial", "record"))
    render.diagnostics(
        [
            Diagnostic(
                code="LM6058",
                facts={"authority": item.authority, "serial": item.serial, "spiffe_id": render.plain(item.spiffe_id)},
            )
            for item in stolen
        ]
    )
    return 1 if stolen else 0


def _bytes_of(path: pathlib.Path) -> bytes:
    if str(path) == "-":
        return sys.stdin.buffer.read(MAX_CERTIFICATE_BYTES + 1)
    try:
        with path.open("rb") as file:
            return file.read(MAX_CERTIFICATE_BYTES + 1)
    except OSError as err:
        raise Invalid("LM6057", reason=f"`{path}`: {err.strerror}") from err
