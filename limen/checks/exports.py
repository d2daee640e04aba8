"""Checks of continuous exports: one that is stalled stops nothing, so that nobody would notice."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any

from limen.checks.result import Result, passed, warned
from limen.exportstate import is_stalled

GROUP = "exports"


def exports(rows: Sequence[dict[str, Any]], now: dt.datetime) -> list[Result]:
    """Check how exports stand: each that is behind and failing is a warning."""
    found = []
    for row in rows:
        if is_stalled(row, now):
            since = row["delivered_at"] or "it began"
            text = f"the export {row['name']} is {row['lag']} records behind since {since}: {row['error']}"
            found.append(warned(GROUP, text, "LM6103", f"look at `limen audit exports`, then at {row['to']}"))
        else:
            found.append(passed(GROUP, f"the export {row['name']} is {row['lag']} records behind"))
    return found
