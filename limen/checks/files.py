"""Checks of the files that take effect when saved: one with an error changes nothing, and nobody may notice."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

from limen.checks.result import Result, failed, passed, warned

GROUP = "files"


def files(reports: Sequence[dict[str, Any]]) -> list[Result]:
    """Check the answer of ``GET /v1/files``: every finding with its place, its code, and what to do."""
    results = []
    for report in reports:
        name = PurePath(report["file"]).name
        if report["unreadable"]:
            text = f"`{report['file']}` cannot be read, and what was in force stays: {report['unreadable']}"
            results.append(failed(GROUP, text, "LM1219", "correct the file"))
        elif report["in_force"]:
            results.append(passed(GROUP, f"{name} is in force: {report['count']} {_WHAT.get(name, 'entries')}"))
        for item in report["findings"]:
            made = failed if item["severity"] == "error" else warned
            text = f"{item['file']}:{item['line']}:{item['column']}: {item['message']}"
            results.append(made(GROUP, text, item["code"], item["help"]))
        if report["more"]:
            text = f"{report['more']} more findings in {report['file']}"
            results.append(warned(GROUP, text, "LM1219", "run `limen identity lint`, or `limen node lint FILE`"))
    return results


_WHAT = {"identities.yaml": "rules", "attestors.yaml": "attestors", "acme.yaml": "names", "exports.yaml": "exports"}
