"""W3C Trace Context, level 1: which trace a request belongs to, as strictly as the recommendation reads it.

Only well-formed context is believed (§3.2.2, §3.3.1); what is not is as if it were not there (§4.3). Nothing here
decides whether a request is traced.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

MAX_MEMBERS = 32
MAX_STATE_BYTES = 8 * 1024
_PARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
# §3.3.1.3: a key, which may name a tenant before its system, and a value that does not end in a space
_MEMBER = re.compile(
    rb"(?:[a-z][a-z0-9_\-*/]{0,255}|[a-z0-9][a-z0-9_\-*/]{0,240}@[a-z][a-z0-9_\-*/]{0,13})"
    rb"=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
)


class Parent(NamedTuple):
    """The span that called: its trace, its own id, in lower-case hex, and whether its caller may have recorded it."""

    trace_id: str
    span_id: str
    is_sampled: bool


def parse_parent(values: Sequence[bytes]) -> Parent | None:
    """Read `traceparent`; None unless there is exactly one, and it is valid (§3.2.2).

    1. The version is not `ff`; version 00 has nothing behind its flags, a later one what begins with a dash (§3.2.4).
    2. Neither id is zero throughout.
    """
    if len(values) != 1:
        return None
    match = _PARENT.fullmatch(values[0])
    # (1)
    if match is None or match[1] == b"ff" or (match[1] == b"00" and match[5] is not None):
        return None
    # (2)
    if not match[2].strip(b"0") or not match[3].strip(b"0"):
        return None
    return Parent(match[2].decode("ascii"), match[3].decode("ascii"), bool(int(match[4], 16) & 1))


def is_state(values: Sequence[bytes]) -> bool:
    """Whether `tracestate` fields are one valid list: at most 32 members, each well formed, no key twice (§3.3.1)."""
    if sum(map(len, values)) > MAX_STATE_BYTES:
        return False
    members = [member for value in values for part in value.split(b",") if (member := part.strip(b" \t"))]
    keys = [member.partition(b"=")[0] for member in members]
    well_formed = all(_MEMBER.fullmatch(member) for member in members)
    return well_formed and len(members) <= MAX_MEMBERS and len(set(keys)) == len(keys)


def write_parent(trace_id: str, span_id: str) -> bytes:
    """Write a sampled `traceparent` of version 00."""
    return f"00-{trace_id}-{span_id}-01".encode("ascii")
