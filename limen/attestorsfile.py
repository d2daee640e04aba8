"""`STATE/attestors.yaml` as it is now, with the files that it names: read again on a change, the last good kept."""

from __future__ import annotations

import pathlib
from typing import Any

import structlog

from ca.attestorfile import Attestor, has_errors, load_attestors
from limen.filereport import report
from mesh.problems import Diagnostic

MAX_FILE_BYTES = 1 << 20
Json = Any
_Stamp = tuple[int, int, int, int] | None


class AttestorsFile:
    """The attestors of a file. A file with an error changes nothing; what is wrong is logged once."""

    def __init__(self, path: pathlib.Path) -> None:
        self._path = path
        self._stamps: dict[pathlib.Path, _Stamp] = {}
        self.attestors: tuple[Attestor, ...] = ()
        self.folder = path.parent
        self._findings: list[Diagnostic] = []
        self._unreadable = ""

    def refresh(self) -> bool:
        """Look at the files; return whether the attestors changed. A missing file has none."""
        stamps = {path: _stamp(path) for path in (self._path, *self._stamps)}
        if stamps == self._stamps:
            return False
        self._stamps = {self._path: stamps[self._path]}
        self._findings, self._unreadable = [], ""
        return self._read() if stamps[self._path] is not None else self._use(())

    def report(self) -> Json:
        """How the file stands: what is wrong with it as it is now, and how many attestors are in force."""
        return report(self._path, count=len(self.attestors), findings=self._findings, unreadable=self._unreadable)

    def find(self, name: str) -> Attestor | None:
        """The attestor of a name, or the only one of a type."""
        named = [item for item in self.attestors if item.name == name]
        found = named or [item for item in self.attestors if item.type == name]
        return found[0] if len(found) == 1 else None

    def _read(self) -> bool:
        log = structlog.get_logger()
        try:
            text = self._path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as err:
            self._unreadable = str(err)
            log.warning("attestors cannot be read", reason=self._unreadable)
            return False
        attestors, findings = load_attestors(text, str(self._path), self._read_file)
        self._findings = findings
        for finding in findings:
            log.warning("attestors", finding=str(finding), help=finding.help)
        if has_errors(findings):
            log.error("attestors kept as they were: the file has errors", file=str(self._path))
            return False
        return self._use(attestors)

    def _read_file(self, name: str) -> bytes:
        path = self._path.parent / name
        self._stamps[path] = _stamp(path)
        with path.open("rb") as file:
            return file.read(MAX_FILE_BYTES)

    def _use(self, attestors: tuple[Attestor, ...]) -> bool:
        if attestors == self.attestors:
            return False
        self.attestors = attestors
        return True


def _stamp(path: pathlib.Path) -> _Stamp:
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
