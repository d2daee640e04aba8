"""What is wrong with a file that takes effect when it is saved, as JSON: for people, who read no log."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

from mesh.problems import Diagnostic, Severity

MAX_TOLD = 100
"""How many findings of one file are told; ``more`` says how many are not."""
Json = Any


def report(path: pathlib.Path, *, count: int, findings: Sequence[Diagnostic], unreadable: str = "") -> Json:
    """How a file stands: ``count`` is of what is in force, which is the file as it was before it had an error.

    Errors come first. ``unreadable`` says why the file cannot be read at all.
    """
    ordered = sorted(findings, key=lambda item: item.severity is not Severity.ERROR)
    errors = sum(item.severity is Severity.ERROR for item in findings)
    return {
        "file": str(path),
        "count": count,
        "in_force": not errors and not unreadable,
        "unreadable": unreadable,
        "findings": [item.to_json() for item in ordered[:MAX_TOLD]],
        "more": max(0, len(findings) - MAX_TOLD),
    }
