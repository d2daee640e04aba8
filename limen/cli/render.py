"""The only place that writes to a terminal: data goes to stdout, talk and findings to stderr.

Tables are drawn by rich on a terminal and are plain, tab-free columns when piped. This module decides nothing.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence

from mesh.problems import Diagnostic, Severity

_MARKS = {Severity.ERROR: "×", Severity.WARNING: "‼", Severity.INFO: "·"}  # noqa: RUF001  the field's check marks


def line(text: str) -> None:
    """Write one line of data to stdout."""
    sys.stdout.write(text + "\n")


def say(text: str) -> None:
    """Write one line of talk to stderr."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def progress(text: str) -> None:
    """Say how far long work has come, only on a terminal."""
    if sys.stderr.isatty():
        say(text)


def plain(text: str) -> str:
    """A text that steers no terminal: what is not printable shows as its escape."""
    return "".join(found if found.isprintable() else repr(found)[1:-1] for found in text)


def data(obj: object) -> None:
    """Write one JSON document to stdout, indented for a terminal."""
    line(_json(obj, indent=2 if sys.stdout.isatty() else None))


def row(obj: object) -> None:
    """Write one JSON Lines row to stdout."""
    line(_json(obj, separators=(",", ":")))


def _json(obj: object, indent: int | None = None, separators: tuple[str, str] | None = None) -> str:
    """JSON as people read it; escaped where the text has halves of characters, which no encoding can write."""
    text = json.dumps(obj, ensure_ascii=False, default=str, indent=indent, separators=separators)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(obj, default=str, indent=indent, separators=separators)
    return text


def item(obj: object, *, is_first: bool) -> None:
    """Write one element of a JSON array whose end is not known yet; `end_items` closes it."""
    text = json.dumps(obj, ensure_ascii=False, separators=(",", ":"), default=str)
    sys.stdout.write(f"{'[' if is_first else ','}\n{text}")


def end_items(*, is_empty: bool) -> None:
    """Close the JSON array of `item`."""
    line("[]" if is_empty else "\n]")


def table(rows: Sequence[Sequence[object]], headers: Sequence[str]) -> None:
    """Write a table to stdout: aligned columns, headers in capitals."""
    cells = [[str(cell) for cell in found] for found in rows]
    widths = [max([len(header), *(len(found[index]) for found in cells)]) for index, header in enumerate(headers)]
    for found in ([header.upper() for header in headers], *cells):
        line("  ".join(cell.ljust(width) for cell, width in zip(found, widths, strict=True)).rstrip())


def diagnostics(found: Iterable[Diagnostic]) -> None:
    """Write findings to stderr, each with its place, its code and what to do."""
    for item in found:
        where = f"{item.span}: " if item.span else ""
        say(f"{_MARKS[item.severity]} {where}{item.code} {item.message}")
        say(f"    {item.help}")
