"""Audit records: JSON objects with a ULID, one per thing that happened, masked before they reach any disk.

A record is canonical JSON bytes from here on; its id is what makes a second delivery harmless. Which things are
recorded is decided where they happen.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
import json
from collections.abc import Mapping

from mesh import canonicaljson
from mesh.clock import format_time
from mesh.problems import Invalid
from mesh.ulid import is_ulid, new_ulid

SCHEMA = 1
MAX_RECORD_BYTES = 64 * 1024
# values under these names never leave the process, wherever they stand in a record
DROPPED = frozenset(
    {"authorization", "proxy-authorization", "cookie", "set-cookie", "password", "secret", "token", "key"}
)
HASHED = frozenset({"sub", "email", "x-api-key", "session"})

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


def mask(value: object, key: bytes) -> object:
    """Drop secrets and replace personal values by a keyed hash, at any depth.

    1. A value under a dropped name becomes ``[removed]``.
    2. A value under a hashed name becomes ``hmac:`` and 32 hexadecimal digits of HMAC-SHA-256: equal values stay
       equal, and without the key nobody can try them.
    3. A list of pairs, as headers are, is treated like a map.
    """
    if isinstance(value, Mapping):
        return {str(name): _masked(str(name), item, key) for name, item in value.items()}
    if isinstance(value, list | tuple):
        if value and all(
            isinstance(item, list | tuple) and len(item) == 2 and isinstance(item[0], str) for item in value
        ):
            return [[item[0], _masked(item[0], item[1], key)] for item in value]
        return [mask(item, key) for item in value]
    return value


def _masked(name: str, value: object, key: bytes) -> object:
    low = name.lower()
    if low in DROPPED:
        return "[removed]"
    if low in HASHED and value is not None:
        text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
        return "hmac:" + hmac.new(key, text.encode(), hashlib.sha256).hexdigest()[:32]
    return mask(value, key)


def to_bytes(found: Mapping[str, object]) -> bytes:
    """The record's canonical bytes.

    Raises Invalid LM6001 for one that is larger than 64 KiB.
    """
    data = canonicaljson.dumps(found)
    if len(data) > MAX_RECORD_BYTES:
        raise Invalid("LM6001", size=len(data), limit=MAX_RECORD_BYTES)
    return data


def read_record(data: bytes) -> Record:
    """Read a record's bytes.

    Raises Invalid LM6002 for bytes that are no record of a known schema.
    """
    try:
        found = json.loads(data.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as err:
        raise Invalid("LM6002", reason="it is not strict JSON") from err
    if len(data) > MAX_RECORD_BYTES:
        raise Invalid("LM6002", reason="it is too large")
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        raise Invalid("LM6002", reason="its schema is not known")
    name = found.get("id")
    if not isinstance(name, str) or not is_ulid(name):
        raise Invalid("LM6002", reason="its id is no ULID")
    if not all(isinstance(found.get(field), str) for field in ("time", "kind", "source")):
        raise Invalid("LM6002", reason="it lacks `time`, `kind` or `source`")
    return found


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found
