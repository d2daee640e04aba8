"""Audit records: JSON objects with a ULID, one per thing that happened, masked before they reach any disk.

A record is canonical JSON bytes from here on; its id is what makes a second delivery harmless. Which things are
recorded is decided where they happen.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence

from mesh import canonicaljson
from mesh.clock import format_time
from mesh.problems import Invalid
from mesh.ulid import RANDOM_BYTES, is_ulid, new_ulid

SCHEMA = 1
# a record is an entry of a tlog-tiles bundle, and its length stands in two bytes
MAX_RECORD_BYTES = 0xFFFF
AGENT_KINDS = frozenset({"decision", "lost", "sampled", "sidecar", "workload", "quarantine", "damaged"})
"""What agents record; everything else is the server's own word."""
Record = dict[str, object]


def record(kind: str, *, now: dt.datetime, random: bytes, source: str, **fields: object) -> Record:
    """Make a record of a kind; ``random`` is 10 fresh bytes."""
    return {
        "schema": SCHEMA,
        "id": new_ulid(now, random),
        "time": format_time(now),
        "kind": kind,
        "source": source,
        **fields,
    }


def records(
    kind: str,
    rows: Sequence[Mapping[str, object]],
    *,
    now: dt.datetime,
    random: bytes,
    source: str,
    **fields: object,
) -> list[Record]:
    """Make records of a kind, one for each row; ``random`` is 10 fresh bytes for each.

    What all of them have is not for a row to say.
    """
    if len(random) != RANDOM_BYTES * len(rows):
        raise ValueError("every record takes 10 random bytes")
    common: Record = {"schema": SCHEMA, "id": "", "time": format_time(now), "kind": kind, "source": source, **fields}
    return [
        {**row, **common, "id": new_ulid(now, random[at : at + RANDOM_BYTES])}
        for at, row in zip(range(0, len(random), RANDOM_BYTES), rows, strict=True)
    ]


def to_bytes(found: Mapping[str, object]) -> bytes:
    """The record's canonical bytes.

    Raises Invalid LM6001 for one that is larger than 65535 bytes, LM6002 for values that JSON does not have.
    """
    try:
        data = canonicaljson.dumps(found)
    except ValueError as err:
        raise Invalid("LM6002", reason="a value is not one of JSON's") from err
    if len(data) > MAX_RECORD_BYTES:
        raise Invalid("LM6001", size=len(data), limit=MAX_RECORD_BYTES)
    return data


def read_record(data: bytes) -> Record:
    """Read a record's bytes.

    They are canonical JSON and nothing else: what one reader takes for the id of a record, every reader does.

    Raises Invalid LM6002 for bytes that are no record of a known schema.
    """
    if len(data) > MAX_RECORD_BYTES:
        raise Invalid("LM6002", reason="it is too large")
    try:
        found = canonicaljson.parse(data)
    except canonicaljson.NotCanonicalError as err:
        raise Invalid("LM6002", reason="it is not canonical JSON") from err
    except (ValueError, RecursionError) as err:
        raise Invalid("LM6002", reason="it is not strict JSON") from err
    if not isinstance(found, dict):
        raise Invalid("LM6002", reason="its schema is not known")
    check_record(found)
    return found


def check_record(found: Mapping[str, object]) -> None:
    """Check that a JSON object is a record of a known schema.

    Raises Invalid LM6002.
    """
    if found.get("schema") != SCHEMA:
        raise Invalid("LM6002", reason="its schema is not known")
    name = found.get("id")
    if not isinstance(name, str) or not is_ulid(name):
        raise Invalid("LM6002", reason="its id is no ULID")
    if not (
        isinstance(found.get("time"), str)
        and isinstance(found.get("kind"), str)
        and isinstance(found.get("source"), str)
    ):
        raise Invalid("LM6002", reason="it lacks `time`, `kind` or `source`")
