"""`limen audit`: read, verify, prove and export the audit log. It reads the log's files and needs no server."""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import json
import pathlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import click

from audit.formats import jsonl
from audit.issued import MAX_CERTIFICATE_BYTES, Standing, Watch, find_issuance, read_certificates
from audit.reader import KEY, Reader, read_key
from audit.record import read_record
from audit.sinks.file import write_file
from audit.verify import prove as prove_record
from audit.verify import verify_log
from limen.cli import context, render
from mesh.clock import parse_time
from mesh.problems import Diagnostic, Invalid, NotFound, Problem, shortened

FORMATS = ("jsonl", "ocsf", "ecs", "cef", "syslog", "otlp", "parquet")
_POLL_S = 0.5
F = TypeVar("F", bound=Callable[..., Any])


@click.group()
def audit() -> None:
    """Read, verify and export the audit log."""


def _log_options(command: F) -> F:
    """Add `--log` and `--key`."""
    folder = click.Path(path_type=pathlib.Path)
    command = click.option("--key", type=folder, default=None, help="The log's public key, default LOG/key.pub.")(
        command
    )
    return click.option("--log", "folder", type=folder, default=None, help="The log, default STATE/audit.")(command)


def _open(folder: pathlib.Path | None, key: pathlib.Path | None) -> tuple[pathlib.Path, str]:
    """The log's directory and its public key.

    Raises Invalid LM6054 when there is no log, LM6053 or LM6030 for the key.
    """
    found = folder or context.state() / "audit"
    try:
        (found / "checkpoint").stat()
    except OSError as err:
        # a log without a checkpoint is still one to verify: the directory decides
        if not found.is_dir():
            raise Invalid("LM6054", path=found, reason=err.strerror or str(err)) from err
    if key is None and folder is not None:
        render.say(f"‼ the key is {found / KEY}, of the copy itself: give the one you know with --key")
    return found, read_key(key or found / KEY)


@audit.command()
@_log_options
@click.option("-n", "count", type=click.IntRange(1, 1_000_000), default=20, show_default=True, help="How many records.")
@click.option("--kind", default=None, help="Only records of this kind.")
@click.option("-f", "--follow", is_flag=True, help="Go on as records come in.")
@context.output_option("table", "json", "jsonl")
def tail(
    *, folder: pathlib.Path | None, key: pathlib.Path | None, count: int, kind: str | None, follow: bool, output: str
) -> None:
    """Show the newest records."""
    where, text = _open(folder, key)
    reader = Reader(where, text)
    rows: list[dict[str, Any]] = []
    for index, data in _newest(reader, count, kind):
        rows.append({"index": index, **_readable(index, data)})
    if output == "json":
        render.data(rows)
        return
    if output == "jsonl":
        for row in rows:
            render.row(row)
    else:
        render.table([_line(row) for row in rows], ("time", "kind", "id", "what"))
    if follow:
        _follow(where, text, reader.size, kind, output)


def _newest(reader: Reader, count: int, kind: str | None) -> list[tuple[int, bytes]]:
    if kind is None:
        return reader.tail(count)
    found: collections.deque[tuple[int, bytes]] = collections.deque(maxlen=count)
    found.extend(item for item in reader.records() if _readable(*item).get("kind") == kind)
    return list(found)


def _follow(where: pathlib.Path, key: str, seen: int, kind: str | None, output: str) -> None:
    """Print records as checkpoints grow, until interrupted."""
    while True:
        reader = Reader(where, key)
        for index, data in reader.records(seen):
            row = {"index": index, **_readable(index, data)}
            if kind is not None and row["kind"] != kind:
                continue
            if output == "jsonl":
                render.row(row)
            else:
                render.line("  ".join(str(cell) for cell in _line(row)))
        seen = max(seen, reader.size)
        sys.stdout.flush()
        time.sleep(_POLL_S)


def _readable(index: int, data: bytes) -> dict[str, Any]:
    try:
        return dict(read_record(data))
    except Problem as problem:
        raise Invalid("LM6035", index=index, reason=problem.message) from problem


def _line(row: dict[str, Any]) -> tuple[str, str, str, str]:
    """One record as a line: when, what kind, its id, and its telling fields."""
    if row["kind"] == "decision":
        request = " ".join(str(row[name]) for name in ("method", "path") if row.get(name))
        by = "/".join(str(row[name]) for name in ("policy", "rule") if row.get(name)) or row.get("code", "")
        caller, called = row.get("caller") or "nobody", row.get("destination") or "-"
        what = f"{row.get('decision')}  {caller} → {called}:{row.get('port')}  {request}  by {by}"
    else:
        shown = (
            f"{name}={shortened(value, 100) if isinstance(value, str) else value}"
            for name, value in row.items()
            if name not in {"schema", "id", "time", "kind", "source", "index"}
            and isinstance(value, str | int)
            and value
        )
        what = " ".join(shown)
    return str(row["time"]), render.plain(str(row["kind"])), str(row["id"]), render.plain(" ".join(what.split()))


@audit.command()
@click.argument("record_id", metavar="ID")
@_log_options
@context.output_option("table", "json")
def show(*, record_id: str, folder: pathlib.Path | None, key: pathlib.Path | None, output: str) -> None:
    """Show one record whole."""
    where, text = _open(folder, key)
    rows = [{"index": index, **_readable(index, data)} for index, data in Reader(where, text).find_all(record_id)]
    if len(rows) > 1:
        facts: dict[str, object] = {"id": record_id, "index": rows[1]["index"], "other": rows[0]["index"]}
        render.diagnostics([Diagnostic(code="LM6036", facts=facts)])
    if output == "json":
        render.data(rows[0] if len(rows) == 1 else rows)
        return
    for row in rows:
        width = max(map(len, row))
        for name, value in row.items():
            shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            render.line(f"{render.plain(name).ljust(width)}  {render.plain(shown)}")


@audit.command()
@_log_options
@context.output_option("table", "json")
def verify(*, folder: pathlib.Path | None, key: pathlib.Path | None, output: str) -> int:
    """Check every record, tile and signature; say exactly what is wrong."""
    where, text = _open(folder, key)
    found = verify_log(where, text)
    if output == "json":
        render.data(
            {
                "verified": found.is_good,
                "records": found.size,
                "root": found.root.hex(),
                "origin": found.origin,
                "findings": [{**item.to_json(), "facts": item.facts} for item in found.findings],
            }
        )
    else:
        render.diagnostics(found.findings)
        if found.is_good:
            render.line(f"√ {found.size} records of {found.origin} are those that were logged")
            render.line(f"  root {found.root.hex()}")
        else:
            render.line(f"× {len(found.findings)} findings in a log of {found.size} records")  # noqa: RUF001
    return 0 if found.is_good else 1


@audit.command()
@click.argument("record_id", metavar="ID")
@_log_options
@click.option("--index", "at", type=click.IntRange(0), default=None, help="Which one, should two carry the id.")
@context.output_option("json", "table")
def prove(
    *, record_id: str, folder: pathlib.Path | None, key: pathlib.Path | None, at: int | None, output: str
) -> None:
    """Prove that a record is in the log, for somebody who has only the public key."""
    where, text = _open(folder, key)
    proof = prove_record(where, text, record_id, at=at)
    if output == "json":
        render.data(proof)
        return
    path = proof["proof"]
    assert isinstance(path, list)
    render.line(f"√ record {proof['index']} of {proof['size']} leads to the signed root by {len(path)} hashes")
    for found in path:
        render.line(f"  {found}")


def prove_issuance(serial: str, folder: pathlib.Path | None, key: pathlib.Path | None, output: str) -> int:
    """`limen identity prove`: find the record of an SVID, and prove it. The exit status: 1 when there is none."""
    where, text = _open(folder, key)
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


@audit.command("watch-issuance")
@click.argument("files", nargs=-1, metavar="FILE…", type=click.Path(path_type=pathlib.Path, allow_dash=True))
@click.option(
    "--cert", multiple=True, type=click.Path(path_type=pathlib.Path, allow_dash=True), help="The same as FILE."
)
@_log_options
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
    where, text = _open(folder, key)
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


@audit.command()
@_log_options
@context.output_option("table", "json")
def checkpoint(*, folder: pathlib.Path | None, key: pathlib.Path | None, output: str) -> None:
    """Print the signed checkpoint, for a witness or an archive."""
    where, text = _open(folder, key)
    reader = Reader(where, text)
    if output == "json":
        said = reader.checkpoint
        render.data({"origin": said.origin, "size": said.size, "root": said.root.hex(), "note": reader.note.decode()})
    else:
        render.line(reader.note.decode().rstrip("\n"))


@audit.command()
@_log_options
@click.option("--format", "form", type=click.Choice(FORMATS), default="jsonl", show_default=True, help="The form.")
@click.option("--since", default=None, help="From this moment on (RFC 3339).")
@click.option("--until", default=None, help="To before this moment (RFC 3339).")
@click.option("--to", "target", default="-", help="A file; default stdout.")
def export(
    *,
    folder: pathlib.Path | None,
    key: pathlib.Path | None,
    form: str,
    since: str | None,
    until: str | None,
    target: str,
) -> None:
    """Write records to a file or stdout."""
    if form != "jsonl":
        raise Invalid("LM0001", command=f"limen audit export --format {form}")
    if "://" in target:
        raise Invalid("LM0001", command="limen audit export --to URL")
    begin, end = _moment("--since", since), _moment("--until", until)
    where, text = _open(folder, key)
    lines: Iterator[bytes] = jsonl.lines(Reader(where, text).records(), since=begin, until=end)
    if target == "-":
        for found in lines:
            render.line(found.decode().rstrip("\n"))
        return
    count = write_file(pathlib.Path(target), lines)
    render.say(f"{count} records in {target}")


def _moment(option: str, text: str | None) -> dt.datetime | None:
    if text is None:
        return None
    try:
        return parse_time(text)
    except ValueError as err:
        raise Invalid("LM6050", option=option, text=text) from err
