"""Messages of DNS as bytes (RFC 1035 §4): a question to ask, an answer to one's own, and one that was overheard. Pure.

Aliases are followed within one answer, as recursive resolvers give them; everything is bounded.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

A, AAAA, TXT, CNAME = 1, 28, 16, 5
_ADDRESS_BYTES = {A: 4, AAAA: 16}
_MAX_RECORDS, _MAX_JUMPS, _MAX_ALIASES = 200, 64, 10


class _Record(NamedTuple):
    """One record: whose, of which kind, for how many seconds, what, and where that begins in the message."""

    owner: str
    kind: int
    ttl: int
    data: bytes
    at: int


def query(name: str, kind: int, number: int) -> bytes:
    """A question for one name, with recursion."""
    labels = b"".join(bytes([len(item)]) + item.encode() for item in name.split("."))
    return struct.pack(">6H", number, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">2H", kind, 1)


def answers(message: bytes, asked: bytes, kind: int) -> tuple[list[bytes], bool, int]:
    """Read an answer to a question: the data of its records, whether it was cut, and its status.

    Raises ValueError for what is no answer to this question.
    """
    try:
        return _answers(message, asked, kind)
    except (struct.error, IndexError) as err:
        raise ValueError("it ends too early") from err


def _answers(message: bytes, asked: bytes, kind: int) -> tuple[list[bytes], bool, int]:
    number, flags, questions, count = struct.unpack_from(">4H", message)
    if number != struct.unpack_from(">H", asked)[0] or not flags & 0x8000 or questions != 1:
        raise ValueError("no answer to this question")
    name, at = _name(message, 12)
    wanted, end = _name(asked, 12)
    if name != wanted or message[at : at + 4] != asked[end : end + 4]:
        raise ValueError("no answer to this question")
    at += 4
    data = [found.data for found in _named(message, at, count, name) if found.kind == kind]
    return data, bool(flags & 0x0200), flags & 15


def heard(message: bytes) -> tuple[str, list[tuple[bytes, int]]]:
    """Somebody's answer: the name that was asked for, lower case, and its addresses with the seconds that they hold.

    A question for anything but addresses, an error and an answer that was cut have none.

    Raises ValueError for what is no answer to one question.
    """
    try:
        _, flags, questions, count = struct.unpack_from(">4H", message)
        if not flags & 0x8000 or questions != 1:
            raise ValueError("no answer to one question")
        name, at = _name(message, 12)
        kind, klass = struct.unpack_from(">2H", message, at)
        if flags & 0x020F or klass != 1 or kind not in _ADDRESS_BYTES:
            return name, []
        found = _named(message, at + 4, count, name)
    except (struct.error, IndexError) as err:
        raise ValueError("it ends too early") from err
    return name, [
        (item.data, item.ttl) for item in found if item.kind == kind and len(item.data) == _ADDRESS_BYTES[kind]
    ]


def _named(message: bytes, at: int, count: int, name: str) -> list[_Record]:
    """The records of an answer, from a place on, that are about a name, or about what its aliases lead to."""
    records: list[_Record] = []
    for _ in range(min(count, _MAX_RECORDS)):
        owner, at = _name(message, at)
        kind, klass, ttl, size = struct.unpack_from(">HHIH", message, at)
        at += 10
        if at + size > len(message):
            raise ValueError("a record ends behind the message")
        if klass == 1:
            records.append(_Record(owner, kind, ttl, message[at : at + size], at))
        at += size
    for _ in range(_MAX_ALIASES):
        alias = next((item.at for item in records if item.owner == name and item.kind == CNAME), None)
        if alias is None:
            break
        name = _name(message, alias)[0]
    return [item for item in records if item.owner == name]


def _name(message: bytes, at: int) -> tuple[str, int]:
    labels: list[str] = []
    end = -1
    for _ in range(_MAX_JUMPS):
        if at >= len(message):
            raise ValueError("a name ends behind the message")
        size = message[at]
        if size & 0xC0 == 0xC0:
            end = at + 2 if end < 0 else end
            at = struct.unpack_from(">H", message, at)[0] & 0x3FFF
            continue
        if size & 0xC0:
            raise ValueError("no such label")
        if not size:
            return ".".join(labels).lower(), end if end >= 0 else at + 1
        labels.append(message[at + 1 : at + 1 + size].decode("latin-1"))
        at += 1 + size
    raise ValueError("a name that never ends")
