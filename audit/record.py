"""Audit records: JSON objects with a ULID, one per thing that happened, masked before they reach any disk.

A record is canonical JSON bytes from here on; its id is what makes a second delivery harmless. Which things are
recorded is decided where they happen.
"""

from __future__ import annotations

import datetime as dt
import functools
import hashlib
import hmac
import json
import re
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Literal

from mesh import canonicaljson
from mesh.clock import format_time
from mesh.problems import Invalid
from mesh.ulid import RANDOM_BYTES, is_ulid, new_ulid

SCHEMA = 1
# a record is an entry of a tlog-tiles bundle, and its length stands in two bytes
MAX_RECORD_BYTES = 0xFFFF
# values under these names never leave the process, wherever they stand in a record; `_` and `-` are the same
DROPPED = frozenset(
    {"authorization", "proxy-authorization", "cookie", "set-cookie", "password", "passwd", "secret", "token", "key"}
)
_DROPPED_ENDS = tuple(
    f"-{name}" for name in ("authorization", "cookie", "password", "secret", "token", "api-key", "private-key", "jwt")
)
HASHED = frozenset({"sub", "email", "x-api-key", "api-key", "session", "session-id", "preferred-username"})
# request targets: their query parameters are named values too
_TARGETS = frozenset({"path", "target", "url", "uri", "referer", "location", "query"})
# what is a secret whatever it is called: credentials of HTTP's schemes, and signed tokens
_SECRET_TEXT = re.compile(
    r"(?i:\b(?:bearer|basic|digest|negotiate|dpop)\s+[A-Za-z0-9+/._~=-]{8,})"
    r"|\beyJ[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----[^-]*(?:-----END [A-Z ]*PRIVATE KEY-----)?"
)
REMOVED = "[removed]"
_MAX_DEPTH = 32

Record = dict[str, object]
_Rule = Literal["drop", "hash", "target"]


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


def mask(value: object, key: bytes) -> object:
    """Drop secrets and replace personal values by a keyed hash, at any depth.

    1. A value under a dropped name becomes ``[removed]``; so does what is nested deeper than 32 levels.
    2. A value under a hashed name becomes ``hmac:`` and 32 hexadecimal digits of HMAC-SHA-256: equal values stay
       equal, and without the key nobody can try them.
    3. A list of pairs, as headers are, is treated like a map; so are the query parameters of a request target.
    4. In EVERY text, what has the shape of a credential is removed, whatever its name.
    """
    return _mask(value, key, _MAX_DEPTH)


def _mask(value: object, key: bytes, depth: int) -> object:
    if isinstance(value, str):
        return _masked_text(value)
    if not isinstance(value, Mapping | list | tuple):
        return value
    if not depth:
        return REMOVED
    if isinstance(value, Mapping):
        return {str(name): _masked(str(name), item, key, depth) for name, item in value.items()}
    # (3)
    if value and all(isinstance(item, list | tuple) and len(item) == 2 and isinstance(item[0], str) for item in value):
        return [[item[0], _masked(item[0], item[1], key, depth)] for item in value]
    return [_mask(item, key, depth - 1) for item in value]


def _masked(name: str, value: object, key: bytes, depth: int) -> object:
    # most fields of a record are texts whose names ask for nothing
    rule = _rule(name)
    if rule is not None:
        found = _by_rule(rule, value, key)
        if found is not None:
            return found
        if rule == "target" and isinstance(value, str) and "=" in value:
            value = _masked_target(value, key)
    return _masked_text(value) if isinstance(value, str) else _mask(value, key, depth - 1)


def _masked_text(text: str) -> str:
    """Step 4 of `mask`: every one of those shapes has white space in it or begins a JSON object in base64."""
    return _SECRET_TEXT.sub(REMOVED, text) if "eyJ" in text or len(text.split(None, 1)) > 1 else text


def _by_rule(rule: _Rule, value: object, key: bytes) -> str | None:
    """What a value becomes because of its name, None when the name asks for nothing."""
    if value is None:
        return None
    # (1)
    if rule == "drop":
        return REMOVED
    # (2)
    if rule == "hash":
        text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
        return "hmac:" + hmac.new(key, text.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()[:32]
    return None


@functools.lru_cache(maxsize=4096)
def _rule(name: str) -> _Rule | None:
    low = name.lower().replace("_", "-")
    if low in DROPPED or low.endswith(_DROPPED_ENDS):
        return "drop"
    if low in HASHED:
        return "hash"
    return "target" if low in _TARGETS else None


def _masked_target(target: str, key: bytes) -> str:
    """Step 3 of `mask` for a request target."""
    before, mark, query = target.partition("?")
    if not mark:
        before, query = "", target
    parts = []
    for part in query.split("&"):
        name, equals, text = part.partition("=")
        rule = _rule(urllib.parse.unquote_plus(name)) if equals else None
        found = _by_rule(rule, text, key) if rule is not None else None
        parts.append(part if found is None else f"{name}={found}")
    return before + mark + "&".join(parts)


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
