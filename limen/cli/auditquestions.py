"""`limen audit tail`, `show` and `search`: what the log says, for people and for programs."""

from __future__ import annotations

import collections
import json
import pathlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import click

from audit.reader import Reader
from audit.search import Query, parse_identity, search
from audit.tiles import WIDTH
from limen.cli import context, render
from limen.cli.auditlog import line_of, log_options, moment, open_log, readable
from mesh.problems import Diagnostic

_POLL_S = 0.5
_HEADERS = ("time", "kind", "id", "what")
F = TypeVar("F", bound=Callable[..., Any])


def _query_options(command: F) -> F:
    """Add what a question may name; the command gets ``asked``, a `Query`."""
    options = (
        click.option("--identity", default=None, help="A SPIFFE ID, or a pattern such as spiffe://td/ns/shop/**."),
        click.option("--service", default=None, help="The called service: its name or its SPIFFE ID."),
        click.option("--code", default=None, help="Only records with this code."),
        click.option("--decision", type=click.Choice(["allow", "deny"]), default=None, help="Only such decisions."),
        click.option("--reviewer", default=None, help="Approvals by this reviewer: name or key id."),
        click.option("--kind", default=None, help="Only records of this kind."),
        click.option("--since", default=None, help="From this moment on (RFC 3339)."),
        click.option("--until", default=None, help="To before this moment (RFC 3339)."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def _query(asked: dict[str, str | None]) -> Query:
    identity = asked.pop("identity")
    return Query(
        identity=None if identity is None else parse_identity(identity),
        since=moment("--since", asked.pop("since")),
        until=moment("--until", asked.pop("until")),
        **asked,
    )


@click.command("search")
@log_options
@_query_options
@click.option("-n", "count", type=click.IntRange(1, 1_000_000), default=None, help="Only the newest so many.")
@context.output_option("table", "json", "jsonl")
def search_log(
    *, folder: pathlib.Path | None, key: pathlib.Path | None, count: int | None, output: str, **asked: str | None
) -> int:
    """List the records that a question means, oldest first; exit status 1 when there is none."""
    query = _query(asked)
    where, text = open_log(folder, key)
    reader = Reader(where, text)
    found: Iterator[tuple[int, dict[str, object]]] = search(reader.records(), query)
    if count is not None:
        found = iter(collections.deque(found, maxlen=count))
    written = _stream(found, output)
    if reader.missing:
        render.say(
            f"‼ {len(reader.missing) * WIDTH} records are not here: `limen audit verify` says whether they were pruned"
        )
    return 0 if written else 1


def _stream(found: Iterator[tuple[int, dict[str, object]]], output: str) -> int:
    """Write records one by one, whatever their number; returns how many."""
    written = 0
    for written, (index, record) in enumerate(found, 1):
        row = {"index": index, **record}
        if output == "table":
            if written == 1:
                render.line("  ".join(_HEADERS).upper())
            render.line("  ".join(line_of(row)))
        elif output == "jsonl":
            render.row(row)
        else:
            render.item(row, is_first=written == 1)
    if output == "json":
        render.end_items(is_empty=not written)
    return written


@click.command()
@log_options
@_query_options
@click.option("-n", "count", type=click.IntRange(1, 1_000_000), default=20, show_default=True, help="How many records.")
@click.option("-f", "--follow", is_flag=True, help="Go on as records come in.")
@context.output_option("table", "json", "jsonl")
def tail(
    *,
    folder: pathlib.Path | None,
    key: pathlib.Path | None,
    count: int,
    follow: bool,
    output: str,
    **asked: str | None,
) -> None:
    """Show the newest records."""
    if follow and output == "json":
        raise click.UsageError("what goes on has no end as JSON: follow with -o jsonl")
    query = _query(asked)
    where, text = open_log(folder, key)
    reader = Reader(where, text)
    rows = [{"index": index, **row} for index, row in _newest(reader, count, query)]
    if output == "json":
        render.data(rows)
        return
    if output == "jsonl":
        for row in rows:
            render.row(row)
    else:
        render.table([line_of(row) for row in rows], _HEADERS)
    if follow:
        _follow(where, text, reader.size, query, output)


def _newest(reader: Reader, count: int, query: Query) -> list[tuple[int, dict[str, object]]]:
    if query == Query():
        return [(index, readable(index, data)) for index, data in reader.tail(count)]
    return list(collections.deque(search(reader.records(), query), maxlen=count))


def _follow(where: pathlib.Path, key: str, seen: int, query: Query, output: str) -> None:
    """Print records as checkpoints grow, until interrupted."""
    while True:
        reader = Reader(where, key)
        for index, found in search(reader.records(seen), query):
            row = {"index": index, **found}
            if output == "jsonl":
                render.row(row)
            else:
                render.line("  ".join(line_of(row)))
        seen = max(seen, reader.size)
        sys.stdout.flush()
        time.sleep(_POLL_S)


@click.command()
@click.argument("record_id", metavar="ID")
@log_options
@context.output_option("table", "json")
def show(*, record_id: str, folder: pathlib.Path | None, key: pathlib.Path | None, output: str) -> None:
    """Show one record whole."""
    where, text = open_log(folder, key)
    rows = [{"index": index, **readable(index, data)} for index, data in Reader(where, text).find_all(record_id)]
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
