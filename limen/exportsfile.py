"""`STATE/exports.yaml`: the continuous exports as they are written down, read again on a change, the last good kept.

    exports:
    - name: siem
      to: syslog+tls://siem.corp.test:6514
      format: cef                  # each destination has a usual one
      kinds: [decision, ca]        # all, if left out
      from: now                    # where a new export begins: `beginning` (the default) or `now`
      ca: siem-ca.pem              # also cert, cert_key, secret_file, token_file: relative ones are beside this file
      rotate_mb: 256               # when a file is put aside

Everything wrong is told at once, each at its place; nothing is opened here.
"""

from __future__ import annotations

import dataclasses
import difflib
import pathlib
import re
from typing import Any

import structlog

from audit.destination import Destination, Options, parse_destination
from limen.filereport import report
from mesh.problems import Diagnostic, Problem, Severity, Span
from mesh.yamlio import Node, compose_documents

_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}\Z")
_KIND = re.compile(r"[a-z][a-z0-9-]{0,31}\Z")
_FILES = ("ca", "cert", "cert_key", "secret_file", "token_file")
_FIELDS = ("name", "to", "format", "kinds", "from", "rotate_mb", *_FILES)
_MOST_MB = 1 << 20
MAX_EXPORTS = 64
_MAX_BYTES = 1 << 20
Json = Any
_Stamp = tuple[int, int, int] | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """One continuous export."""

    name: str
    destination: Destination
    kinds: tuple[str, ...] = ()
    from_now: bool = False

    def to_json(self) -> Json:
        """What is written down of it, for the process that exports, and for the log: no secret is in it."""
        options = self.destination.options
        files = {name: str(value) for name in _FILES if (value := getattr(options, name)) is not None}
        return {
            "name": self.name,
            "to": self.destination.url,
            "format": self.destination.form,
            "kinds": list(self.kinds),
            "from": "now" if self.from_now else "beginning",
            "rotate_bytes": options.rotate_bytes,
            **files,
        }


def export_from_json(row: Json) -> Export:
    """Read what `Export.to_json` wrote."""
    files = {name: pathlib.Path(row[name]) for name in _FILES if name in row}
    options = Options(rotate_bytes=row["rotate_bytes"], **files)
    return Export(
        name=row["name"],
        destination=parse_destination(row["to"], row["format"], options),
        kinds=tuple(row["kinds"]),
        from_now=row["from"] == "now",
    )


def load_exports(text: str, file: str) -> tuple[tuple[Export, ...], list[Diagnostic]]:
    """Read the exports of a file. Returns what could be read and every finding; with one, none must be used."""
    documents, found = compose_documents(text, file)
    exports: list[Export] = []
    for document in documents:
        for node in _listed(document, found):
            made = _Reading(node, found, pathlib.Path(file).parent).export()
            if made is None:
                continue
            if made.name in {item.name for item in exports}:
                found.append(_finding(node.span, f"two exports are named `{made.name}`"))
            exports.append(made)
    if len(exports) > MAX_EXPORTS and documents:
        found.append(_finding(documents[0].span, f"there are more than {MAX_EXPORTS} exports"))
    return tuple(exports), found


def _finding(span: Span, reason: str) -> Diagnostic:
    return Diagnostic(code="LM6104", span=span, facts={"reason": reason})


def _listed(document: Node, found: list[Diagnostic]) -> tuple[Node, ...]:
    if document.kind != "map":
        found.append(_finding(document.span, "it is a map with `exports`"))
        return ()
    found.extend(
        _finding(key.span, f"it has no `{key.scalar}`") for key, _ in document.pairs if key.scalar != "exports"
    )
    listed = document.get("exports")
    if listed is None or listed.kind == "null":
        return ()
    if listed.kind != "list":
        found.append(_finding(listed.span, "`exports` is a list"))
        return ()
    return listed.items


@dataclasses.dataclass(slots=True)
class _Reading:
    """One export while it is read: its place, all findings so far, and where its files are."""

    node: Node
    found: list[Diagnostic]
    folder: pathlib.Path

    def export(self) -> Export | None:
        """The export, None when something about it is wrong."""
        if self.node.kind != "map":
            self.found.append(_finding(self.node.span, "an export is a map"))
            return None
        before = len(self.found)
        for key, _ in self.node.pairs:
            if key.scalar not in _FIELDS:
                near = difflib.get_close_matches(str(key.scalar), _FIELDS, n=1)
                hint = f"did you mean `{near[0]}`?" if near else "known are " + ", ".join(_FIELDS)
                self.found.append(_finding(key.span, f"an export has no `{key.scalar}`; {hint}"))
        name, to, form, begin = (self.text(field) for field in ("name", "to", "format", "from"))
        for field, value in (("name", name), ("to", to)):
            if value is None and self.node.get(field) is None:
                self.found.append(_finding(self.node.span, f"an export needs `{field}`"))
        if name is not None and not _NAME.match(name):
            self.unfit("name", "1 to 32 lower-case letters, digits and dashes")
        if begin not in {None, "beginning", "now"}:
            self.unfit("from", "`beginning` or `now`")
        kinds, rotate = self.kinds(), self.rotate()
        files = {field: self.folder / value for field in _FILES if (value := self.text(field)) is not None}
        if len(self.found) > before or name is None or to is None:
            return None
        return self.checked(name, to, form, Options(rotate_bytes=rotate, **files), kinds, is_now=begin == "now")

    def checked(
        self, name: str, to: str, form: str | None, options: Options, kinds: tuple[str, ...], *, is_now: bool
    ) -> Export | None:
        """The export, if its destination is one of a server's."""
        try:
            destination = parse_destination(to, form, options)
        except Problem as problem:
            self.unfit("to", problem.message)
            return None
        if destination.scheme == "file" and not destination.path.startswith("/"):
            self.unfit("to", "a file is `file:///PATH`")
            return None
        if destination.form == "parquet" and not destination.is_directory:
            self.unfit("to", "Parquet goes below a directory: end it with `/`")
            return None
        return Export(name=name, destination=destination, kinds=kinds, from_now=is_now)

    def text(self, field: str) -> str | None:
        """A field's text, None where there is none or it is no text."""
        node = self.node.get(field)
        if node is None:
            return None
        if node.kind != "text" or not node.scalar:
            self.found.append(_finding(node.span, f"`{field}` is text"))
            return None
        return str(node.scalar)

    def kinds(self) -> tuple[str, ...]:
        """The kinds, none for all."""
        node = self.node.get("kinds")
        if node is None:
            return ()
        if node.kind != "list" or not node.items:
            self.found.append(_finding(node.span, "`kinds` is a list that is not empty"))
            return ()
        for item in node.items:
            if item.kind != "text" or not _KIND.match(str(item.scalar)):
                self.found.append(_finding(item.span, "a kind is a word, as `limen audit tail` shows it"))
        return tuple(str(item.scalar) for item in node.items)

    def rotate(self) -> int:
        """When a file is put aside, in bytes."""
        node = self.node.get("rotate_mb")
        if node is None:
            return Options().rotate_bytes
        text = str(node.scalar)
        if not (text.isascii() and text.isdigit() and 0 < int(text) <= _MOST_MB):
            self.found.append(_finding(node.span, f"`rotate_mb` is a whole number from 1 to {_MOST_MB}"))
            return 1
        return int(text) << 20

    def unfit(self, field: str, expected: str) -> None:
        """Say what a field has to be."""
        node = self.node.get(field)
        self.found.append(_finding(node.span if node is not None else self.node.span, f"`{field}`: {expected}"))


class ExportsFile:
    """The exports of a file. A file with an error changes nothing; what is wrong is logged once."""

    def __init__(self, path: pathlib.Path) -> None:
        self._path = path
        self._stamp: _Stamp = None
        self._findings: list[Diagnostic] = []
        self._unreadable = ""
        self.exports: tuple[Export, ...] = ()

    @property
    def is_there(self) -> bool:
        """Whether there was such a file when it was looked at last."""
        return self._stamp is not None

    def refresh(self) -> bool:
        """Look at the file; return whether the exports changed. A missing file has none."""
        stamp = _stamp(self._path)
        if stamp == self._stamp:
            return False
        self._stamp, self._findings, self._unreadable = stamp, [], ""
        found: tuple[Export, ...] = ()
        if stamp is not None:
            log = structlog.get_logger()
            try:
                with self._path.open("rb") as file:
                    text = file.read(_MAX_BYTES).decode()
            except (OSError, UnicodeDecodeError) as err:
                self._unreadable = str(err)
                log.warning("exports cannot be read", reason=self._unreadable)
                return False
            found, self._findings = load_exports(text, str(self._path))
            if any(item.severity is Severity.ERROR for item in self._findings):
                for finding in self._findings:
                    log.error("exports kept as they were", finding=str(finding), help=finding.help)
                return False
        if found == self.exports:
            return False
        self.exports = found
        return True

    def report(self) -> Json:
        """How the file stands."""
        return report(self._path, count=len(self.exports), findings=self._findings, unreadable=self._unreadable)


def _stamp(path: pathlib.Path) -> _Stamp:
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_ino, found.st_size, found.st_mtime_ns)
