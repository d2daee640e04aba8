"""`STATE/acme.yaml` as it is now: read again on a change, the last good one kept."""

from __future__ import annotations

import pathlib

import structlog

from ca.acme.config import Config, load_config
from limen.filereport import Json, report
from mesh.problems import Diagnostic, Invalid, Span


class AcmeFile:
    """The file of a state. One with an error changes nothing; what is wrong is logged once."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._path = folder / "acme.yaml"
        self._text: str | None = None
        self._config = Config()
        self._findings: list[Diagnostic] = []
        self._unreadable = ""

    def report(self) -> Json:
        """How the file stands now: what is wrong with it, and how many names are in force."""
        count = len(self.read().names)
        return report(self._path, count=count, findings=self._findings, unreadable=self._unreadable)

    def read(self) -> Config:
        """The configuration of now; without the file, the safe one."""
        try:
            text = self._path.read_text("utf-8") if self._path.exists() else ""
        except (OSError, UnicodeDecodeError) as err:
            if str(err) != self._unreadable:
                structlog.get_logger().error("acme.yaml cannot be read", reason=str(err))
            self._text, self._unreadable, self._findings = None, str(err), []
            return self._config
        if text != self._text:
            self._text, self._unreadable, self._findings = text, "", []
            try:
                self._config = load_config(text, str(self._path)) if text else Config()
            except Invalid as problem:
                self._findings = [
                    Diagnostic(code=problem.code, span=Span(str(self._path), 1, 1), facts=dict(problem.facts))
                ]
                structlog.get_logger().error("acme.yaml kept as it was", finding=str(problem), help=problem.help)
        return self._config
