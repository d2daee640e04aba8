"""Findings as workflow commands of GitHub Actions, which show them beside the lines of a pull request.

A command is `::LEVEL file=…,line=…,col=…,title=…::MESSAGE`; what would end one of its parts is percent-encoded, so
that no name and no message can begin a command of its own. This module writes nothing.
"""

from __future__ import annotations

from mesh.problems import Diagnostic, Severity

_LEVELS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "notice"}


def annotation(item: Diagnostic) -> str:
    """One finding as one command."""
    fields = {"title": f"{item.code} {item.severity}"}
    if item.span is not None:
        place = item.span
        fields = {"file": place.file, "line": str(place.line), "col": str(place.column), **fields}
    shown = ",".join(f"{name}={_property(value)}" for name, value in fields.items())
    text = _message(item.message + "\n" + item.help)
    return f"::{_LEVELS[item.severity]} {shown}::{text}"


def _message(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _message(text).replace(":", "%3A").replace(",", "%2C")
