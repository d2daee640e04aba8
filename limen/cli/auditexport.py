"""`limen audit export`: records of a time, in a form that others read, to stdout, a file, or a receiver.

A file is complete under its name or not there at all. With `--cursor` an export goes on where the last one with that
file stopped, and a file grows.
"""

from __future__ import annotations

import contextlib
import pathlib
import sys
import time
from collections.abc import Iterator

import click

from audit.cursor import Cursor
from audit.destination import Destination, Options, parse_destination
from audit.formats.forms import FORMS, NAMES, PARQUET
from audit.formats.selection import selected
from audit.pump import Pump
from audit.reader import Reader
from audit.sinks.file import write_file
from audit.sinks.opening import open_sink
from limen.cli import context, render
from limen.cli.auditlog import log_options, moment, open_log
from mesh.clock import SystemClock
from mesh.problems import Unavailable

_TOLD_EVERY_S = 1.0
_FILE = click.Path(path_type=pathlib.Path)


@click.command()
@log_options
@click.option(
    "--format", "form", type=click.Choice(NAMES), default=None, help="The form; each destination has its own."
)
@click.option("--since", default=None, help="From this moment on (RFC 3339).")
@click.option("--until", default=None, help="To before this moment (RFC 3339).")
@click.option("--kind", "kinds", multiple=True, help="Only records of this kind; may be repeated.")
@click.option(
    "--to",
    "target",
    default="-",
    help="A file, or https:, syslog+tls:, otlp+https:, nats:, s3: or file: (docs/guides/siem.md); default stdout.",
)
@click.option("--cursor", type=_FILE, default=None, help="Go on where this file says, and keep it up to date.")
@click.option("--ca", type=_FILE, default=None, help="PEM of the authorities that vouch for the receiver.")
@click.option("--cert", type=_FILE, default=None, help="PEM of the certificate to show it.")
@click.option("--cert-key", type=_FILE, default=None, help="PEM of that certificate's key.")
@click.option("--secret-file", type=_FILE, default=None, help="What signs webhooks, or a NATS .creds file.")
@click.option("--token-file", type=_FILE, default=None, help="A bearer token for the receiver.")
def export(
    *,
    folder: pathlib.Path | None,
    key: pathlib.Path | None,
    form: str | None,
    since: str | None,
    until: str | None,
    kinds: tuple[str, ...],
    target: str,
    cursor: pathlib.Path | None,
    ca: pathlib.Path | None,
    cert: pathlib.Path | None,
    cert_key: pathlib.Path | None,
    secret_file: pathlib.Path | None,
    token_file: pathlib.Path | None,
) -> None:
    """Write records to stdout, a file, or a receiver."""
    options = Options(ca=ca, cert=cert, cert_key=cert_key, secret_file=secret_file, token_file=token_file)
    if form == PARQUET and target == "-":
        raise click.UsageError("a Parquet file is written by its end first: name it with --to")
    to = parse_destination(target, form, options)
    begin, end = moment("--since", since), moment("--until", until)
    where, text = open_log(folder, key)
    if folder is None:
        _record(to, since, until, kinds)
    reader = Reader(where, text)
    is_whole_file = to.scheme == "file" and not to.is_directory and cursor is None
    if is_whole_file or (to.scheme == "stdout" and cursor is None):
        _write(to, selected(_told(reader), since=begin, until=end, kinds=kinds))
        return
    origin = reader.checkpoint.origin
    sink = open_sink(to, origin=origin, now=SystemClock().now)
    try:
        place = Cursor(cursor, origin) if cursor is not None else Unkept()
        pump = Pump(cursor=place, sink=sink, kinds=kinds, since=begin, until=end)
        due = time.monotonic() + _TOLD_EVERY_S
        while pump.step(reader):
            if time.monotonic() >= due:
                due = time.monotonic() + _TOLD_EVERY_S
                render.progress(f"{pump.next} of {reader.size} records")
    finally:
        sink.close()
    render.say(f"{pump.delivered} records to {target}")


def _record(to: Destination, since: str | None, until: str | None, kinds: tuple[str, ...]) -> None:
    """Have the server of this state put a record of the export into its log; without one nobody can."""
    from limen.client import Client  # noqa: PLC0415  for the log of an installation alone

    body = {"to": to.url[:1000], "format": to.form, "since": since, "until": until, "kinds": list(kinds)}
    with contextlib.suppress(Unavailable):
        Client(context.state() / "server.sock").call("POST", "/v1/audit/exports", body)


class Unkept:
    """A cursor that nobody keeps: the export is over when the command is."""

    next = 0

    def save(self, next_index: int) -> None:
        """Move on."""
        self.next = next_index


def _write(to: Destination, records: Iterator[tuple[int, bytes]]) -> None:
    """All records to stdout, or to a file that is there when it is complete."""
    if to.form == PARQUET:
        from audit.sinks.parquet import write_parquet  # noqa: PLC0415  a heavy import, for this form alone

        render.say(f"{write_parquet(pathlib.Path(to.path), records)} records in {to.path}")
        return
    lines = FORMS[to.form].lines(records)
    if to.scheme == "stdout":
        for found in lines:
            sys.stdout.buffer.write(found)
        sys.stdout.buffer.flush()
        return
    count = write_file(pathlib.Path(to.path), lines)
    render.say(f"{count} {'records' if to.form != 'otlp' else 'lines'} in {to.path}")


def _told(reader: Reader) -> Iterator[tuple[int, bytes]]:
    """The records of a log; a terminal is told once a second how far it is."""
    due = time.monotonic() + _TOLD_EVERY_S
    for index, data in reader.records():
        if not index % 256 and time.monotonic() >= due:
            due = time.monotonic() + _TOLD_EVERY_S
            render.progress(f"{index} of {reader.size} records")
        yield index, data
