"""How continuous exports stand, from what they write down: `STATE/exports/NAME.cursor` and `NAME.status`.

No server has to run. The cursor is what counts; a status is for people, and may be a second old.
"""

from __future__ import annotations

import datetime as dt
import json
import pathlib
from typing import Any

from audit.cursor import Cursor
from audit.reader import KEY, Reader, read_key
from mesh.clock import parse_time
from mesh.problems import Problem

WANTED = pathlib.PurePath("server", "exports.json")
"""What the server wants exported, below the state directory."""
FOLDER = "exports"
STALLED_AFTER = dt.timedelta(minutes=2)
_MAX_STATUS_BYTES = 65536
Json = Any


def standings(state: pathlib.Path, *, size: int | None = None) -> list[Json]:
    """How EVERY wanted export stands; works without a server. ``size`` is the log's, if it is known."""
    if size is None:
        try:
            size = Reader(state / "audit", read_key(state / "audit" / KEY)).size
        except Problem:
            size = 0
    found = []
    for row in wanted_before(state / WANTED):
        told = _status(state / FOLDER / f"{row['name']}.status")
        position = _position(state / FOLDER / f"{row['name']}.cursor", told)
        found.append(
            {
                "name": row["name"],
                "to": row["to"],
                "format": row["format"],
                "next": position,
                "lag": max(0, size - position),
                "failures": told.get("failures", 0),
                "error": told.get("error", ""),
                "delivered_at": told.get("delivered_at") or None,
            }
        )
    return found


def is_stalled(row: Json, now: dt.datetime) -> bool:
    """Whether an export is behind and failing, with nothing delivered for two minutes."""
    if not row["lag"] or not row["failures"]:
        return False
    return row["delivered_at"] is None or now - parse_time(row["delivered_at"]) > STALLED_AFTER


def wanted_before(path: pathlib.Path) -> list[Json]:
    """What was written down as wanted; nothing without such a file."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return []
    return found if isinstance(found, list) else []


def _status(path: pathlib.Path) -> Json:
    try:
        with path.open("rb") as file:
            found = json.loads(file.read(_MAX_STATUS_BYTES))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _position(path: pathlib.Path, told: Json) -> int:
    """Where the cursor stands, which is what counts; what was told of it may be older."""
    try:
        origin = json.loads(path.read_text("utf-8"))["origin"]
        return Cursor(path, origin).next
    except (OSError, ValueError, KeyError, TypeError, Problem):
        return int(told.get("next") or 0)
