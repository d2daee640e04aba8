"""Streams a text source line by line or object by object, bounded, with a finding for every line that is unreadable.

A reader gives a function from a row to flows; a sentence in their place is why a row was left out, a ValueError that
it is broken. It keeps one line in memory, and knows no format.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import pathlib
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from learner.sources.ledger import Ledger
from mesh.flow import Flow
from mesh.problems import Diagnostic, Invalid, Span

MAX_LINE_BYTES = 1 << 20
MAX_RECORD_BYTES = 16 << 20
MAX_DOCUMENT_BYTES = 64 << 20
MAX_FINDINGS = 100
UNREADABLE = "unreadable"
Object = Mapping[str, Any]
Outcome = Flow | str


class Input:
    """One file that is read as a source: its path, the findings about it, and its account."""

    def __init__(self, path: pathlib.Path, findings: list[Diagnostic], ledger: Ledger) -> None:
        self.path = path
        self.ledger = ledger
        self._findings = findings
        self._found = 0

    @contextlib.contextmanager
    def opened(self) -> Iterator[io.BufferedReader]:
        """The file's bytes, unpacked when it is gzip, as object stores keep logs.

        Raises Invalid LM4001 when the file cannot be read or unpacked.
        """
        try:
            with open_bytes(self.path) as file:
                yield file
        except (OSError, EOFError, zlib.error) as err:
            reason = getattr(err, "strerror", None) or str(err)
            raise Invalid("LM4001", file=str(self.path), reason=reason) from err

    def lines(self, limit: int = MAX_LINE_BYTES) -> Iterator[tuple[int, bytes]]:
        """The lines that are not blank, numbered from 1; one beyond the limit (bytes) is unreadable, and passed over.

        Raises Invalid LM4001 when the file cannot be read.
        """
        with self.opened() as file:
            number = 0
            while line := file.readline(limit + 1):
                number += 1
                if len(line) > limit and not line.endswith(b"\n"):
                    while line and not line.endswith(b"\n"):
                        line = file.readline(limit)
                    self.ledger.seen += 1
                    self.broken(number, f"the line is longer than {limit} bytes")
                elif line.strip():
                    yield number, line

    def document(self) -> bytes:
        """The whole file, where a format is one document.

        Raises Invalid LM4001 when the file cannot be read or is larger than 64 MiB.
        """
        with self.opened() as file:
            data = file.read(MAX_DOCUMENT_BYTES + 1)
        if len(data) > MAX_DOCUMENT_BYTES:
            raise Invalid("LM4001", file=str(self.path), reason="one document is read up to 64 MiB: split it")
        return data

    def broken(self, number: int, reason: str) -> None:
        """Count a record that cannot be read; the first hundred of an input are findings with their place."""
        self.ledger.unreadable += 1
        self.ledger.skip(UNREADABLE)
        self._found += 1
        if self._found <= MAX_FINDINGS:
            place = Span(file=str(self.path), line=number, column=1)
            facts: dict[str, object] = {"source": self.ledger.source, "reason": reason[:300]}
            code = "LM4002" if self.ledger.source == "limen" else "LM4013"
            self._findings.append(Diagnostic(code=code, span=place, facts=facts))

    def take(self, number: int, make: Callable[[], Iterable[Outcome]]) -> Iterator[Flow]:
        """One record's flows; what was left out and what is broken goes into the account."""
        self.ledger.seen += 1
        try:
            outcomes = list(make())
        except (ValueError, TypeError, KeyError, RecursionError, OverflowError) as err:
            reason = f"`{err.args[0]}` is missing" if isinstance(err, KeyError) else str(err)
            self.broken(number, reason)
            return
        yield from self.count(outcomes)

    def each(self, number: int, make: Callable[[], Iterable[Iterable[Outcome]]]) -> Iterator[Flow]:
        """One row's records, each counted: those before one that is broken are kept, those behind it are not read."""
        try:
            for outcomes in make():
                self.ledger.seen += 1
                yield from self.count(outcomes)
        except (ValueError, TypeError, KeyError, RecursionError, OverflowError) as err:
            self.ledger.seen += 1
            self.broken(number, f"`{err.args[0]}` is missing" if isinstance(err, KeyError) else str(err))

    def count(self, outcomes: Iterable[Outcome]) -> Iterator[Flow]:
        """Flows go on; sentences are counted."""
        for item in outcomes:
            if isinstance(item, str):
                self.ledger.skip(item)
            else:
                self.ledger.flows += 1
                yield item


def open_bytes(path: pathlib.Path) -> contextlib.AbstractContextManager[io.BufferedReader]:
    """A file's bytes as a buffered stream, unpacked when they begin like gzip."""
    with path.open("rb") as file:
        is_packed = file.read(2) == b"\x1f\x8b"
    if not is_packed:
        return path.open("rb")
    # a buffered reader over the unpacked stream: gzip's own `peek` gives what it likes
    return io.BufferedReader(gzip.GzipFile(path))


def read_json(source: Input, parse: Callable[[Object], Iterable[Iterable[Outcome]]]) -> Iterator[Flow]:
    """The flows of a file that is one JSON object a line, or one document: an object, or a list of them.

    Lines are streamed; a document is held whole, up to 64 MiB. ``parse`` gives the outcomes of each record in turn.
    """
    if not _is_document(source):
        for number, line in source.lines(MAX_RECORD_BYTES):
            yield from source.each(number, lambda line=line: parse(json_object(line)))  # type: ignore[misc]  # mypy has no type for a lambda's default
        return
    try:
        found = json.loads(source.document().decode("utf-8"), parse_constant=_refuse)
    except (ValueError, RecursionError) as err:
        source.ledger.seen += 1
        source.broken(1, f"it is no JSON document: {err}")
        return
    for row in found if isinstance(found, list) else [found]:
        yield from source.each(1, lambda row=row: parse(_object(row)))  # type: ignore[misc]  # mypy has no type for a lambda's default


def _is_document(source: Input) -> bool:
    """Whether the first line that is not blank is no whole JSON object."""
    with source.opened() as file:
        while line := file.readline(MAX_RECORD_BYTES):
            if line.strip():
                try:
                    return not isinstance(json.loads(line), dict)
                except (ValueError, RecursionError):
                    return line.strip() in {b"{", b"["} or line.lstrip()[:1] == b"["
    return False


def _object(row: object) -> Object:
    if not isinstance(row, dict):
        raise ValueError("it is no JSON object")
    return row


def read_objects(source: Input, parse: Callable[[Object], Iterable[Outcome]]) -> Iterator[Flow]:
    """The flows of a file with one JSON object a line."""
    for number, line in source.lines():
        yield from source.take(number, lambda line=line: parse(json_object(line)))  # type: ignore[misc]  # mypy has no type for a lambda's default


def json_object(text: bytes) -> Object:
    """One JSON object.

    Raises ValueError, with a sentence, for anything else.
    """
    try:
        row = json.loads(text.decode("utf-8"), parse_constant=_refuse)
    except UnicodeDecodeError as err:
        raise ValueError("it is not UTF-8") from err
    return _object(row)


def _refuse(name: str) -> float:
    raise ValueError(f"`{name}` is no JSON number")
