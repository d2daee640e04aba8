"""Takes messages of NetFlow v5, v9 (RFC 3954) and IPFIX (RFC 7011) apart: headers, templates, options, records.

Sizes and counts that a message claims are checked against its bytes; templates are bounded. Gaps in the exporters'
sequence numbers and the sampling that options declare go into the account. What records mean is not its business.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Iterator

from learner.sources.ledger import Ledger
from learner.sources.rows import Input

MAX_TEMPLATES = 4096
MAX_FIELDS = 512
_V5_HEADER, _V5_RECORD = struct.Struct("!HHIIIIBBH"), struct.Struct("!4s4s4sHHIIIIHHxBBBHHBBxx")
_V9_HEADER, _IPFIX_HEADER = struct.Struct("!HHIIII"), struct.Struct("!HHIII")
_V5_MOST = 30
_VARIABLE = 0xFFFF
_SAMPLING, _RANDOM, _PACKET_INTERVAL, _PACKET_SPACE, _BOOT_MS = 34, 50, 305, 306, 160
Field = tuple[int, int]


@dataclasses.dataclass(slots=True)
class Record:
    """One record: values by information element, and the times to which uptimes relate (ms since 1970)."""

    values: dict[int, bytes]
    boot_ms: int | None
    exported_ms: int

    def number(self, element: int) -> int | None:
        """An unsigned value, or None."""
        data = self.values.get(element)
        return int.from_bytes(data, "big") if data is not None and len(data) <= 8 else None


def begins_like_export(head: bytes) -> bool:
    """Whether the bytes begin with a header of one of the three versions that its own counts do not contradict."""
    if len(head) < 24:
        return False
    version, count = struct.unpack_from("!HH", head)
    if version == 5:
        size = _V5_HEADER.size + count * _V5_RECORD.size
        return 1 <= count <= _V5_MOST and (len(head) == size or head[size : size + 2] == b"\0\5")
    if version == 9:
        kind, size = struct.unpack_from("!HH", head, 20)
        return bool(count >= 1 and (kind in {0, 1} or kind >= 256) and size >= 4)
    if version == 10:
        kind, size = struct.unpack_from("!HH", head, 16)
        return bool(count >= 20 and (kind in {2, 3} or kind >= 256) and 4 <= size <= count - 16)
    return False


def read_messages(source: Input) -> Iterator[tuple[int, bytes]]:
    """The messages of a file, numbered from 1; what is no message ends the reading, and is counted.

    v9 does not say how long a message is: its sets are followed until one would have the number 5, 9 or 10, which
    no set may have (RFC 3954 §5.2), and which is the version of the next message.
    """
    with source.opened() as file:
        number = 0
        while head := file.read(2):
            number += 1
            version = int.from_bytes(head, "big")
            if version == 5:
                rest = file.read(_V5_HEADER.size - 2)
                count = int.from_bytes(rest[:2], "big")
                want = count * _V5_RECORD.size
                data = rest + file.read(want)
                whole = len(rest) == _V5_HEADER.size - 2 and len(data) == len(rest) + want
            elif version == 10:
                size = file.read(2)
                want = int.from_bytes(size, "big") - 4
                data = size + (file.read(want) if want > 0 else b"")
                whole = len(size) == 2 and want >= 12 and len(data) == want + 2
            elif version == 9:
                data = file.read(_V9_HEADER.size - 2)
                whole = len(data) == _V9_HEADER.size - 2
                while whole and (peeked := file.peek(4)[:4]) and peeked[:2] not in {b"\0\5", b"\0\x09", b"\0\x0a"}:
                    want = int.from_bytes(peeked[2:4], "big")
                    found = file.read(want) if want >= 4 else b""
                    whole = len(found) == want >= 4
                    data += found
            else:
                data, whole = b"", False
            if not whole:
                source.ledger.seen += 1
                source.broken(number, "here is no whole message: nothing was read from here on")
                return
            yield number, head + data


class Exporter:
    """What messages so far declared: templates, sampling, boot times and the sequence numbers that come next."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._templates: dict[tuple[int, int, int], tuple[list[Field], bool]] = {}
        self._boot_ms: dict[tuple[int, int], int] = {}
        self._next: dict[tuple[int, int], int] = {}

    def records(self, message: bytes) -> list[Record]:
        """The records of one message.

        Raises ValueError for one that its own sizes contradict.
        """
        version = int.from_bytes(message[:2], "big")
        if version == 5:
            return self._version5(message)
        return self._templated(message, version)

    def _version5(self, message: bytes) -> list[Record]:
        _, count, uptime, seconds, nanoseconds, sequence, kind, engine, sampling = _V5_HEADER.unpack_from(message)
        if count > _V5_MOST:
            raise ValueError(f"a message of version 5 has at most 30 records, not {count}")
        if (interval := sampling & 0x3FFF) > 1:
            self._ledger.mark_sampled(interval)
        self._sequence(5, kind << 8 | engine, sequence, count)
        exported = seconds * 1000 + nanoseconds // 1_000_000
        out = []
        for index in range(count):
            row = _V5_RECORD.unpack_from(message, _V5_HEADER.size + index * _V5_RECORD.size)
            values = {8: row[0], 12: row[1], 22: _u32(row[7]), 21: _u32(row[8]), 7: _u16(row[9]), 11: _u16(row[10])}
            values |= {6: bytes([row[11]]), 4: bytes([row[12]])}
            out.append(Record(values, exported - uptime, exported))
        return out

    def _templated(self, message: bytes, version: int) -> list[Record]:
        if version == 9:
            _, _, uptime, seconds, sequence, domain = _V9_HEADER.unpack_from(message)
            self._boot_ms[(version, domain)] = seconds * 1000 - uptime
            offset = _V9_HEADER.size
        else:
            _, _, seconds, sequence, domain = _IPFIX_HEADER.unpack_from(message)
            offset = _IPFIX_HEADER.size
        out: list[Record] = []
        count = 0
        while offset + 4 <= len(message):
            kind, size = struct.unpack_from("!HH", message, offset)
            if size < 4 or offset + size > len(message):
                raise ValueError(f"a set claims {size} bytes")
            body = message[offset + 4 : offset + size]
            offset += size
            if kind in {0, 1, 2, 3}:
                self._learn(version, domain, kind, body)
            elif kind >= 256:
                found = self._data(version, domain, kind, body, seconds * 1000)
                count += found[0]
                out += found[1]
        # v9 counts messages, IPFIX data records
        self._sequence(version, domain, sequence, 1 if version == 9 else count)
        for record in out:
            record.boot_ms = self._boot_ms.get((version, domain))
        return out

    def _sequence(self, version: int, domain: int, sequence: int, count: int) -> None:
        """A number ahead of the one that is due is a gap; one behind it is an exporter that began anew."""
        if len(self._next) > MAX_TEMPLATES:
            self._next.clear()
        due = self._next.get((version, domain))
        if due is not None and 0 < (gap := (sequence - due) & 0xFFFFFFFF) < 1 << 31:
            self._ledger.lost += gap
        self._next[(version, domain)] = (sequence + count) & 0xFFFFFFFF

    def _learn(self, version: int, domain: int, kind: int, body: bytes) -> None:
        """Templates (0 in v9, 2 in IPFIX) and templates of options (1 and 3); what is left over is padding."""
        is_options = kind in {1, 3}
        offset = 0
        while offset + 4 <= len(body):
            number, count = struct.unpack_from("!HH", body, offset)
            if number < 256:
                return
            offset += 4
            scopes = 0
            if is_options:
                second = int.from_bytes(body[offset : offset + 2], "big")
                offset += 2
                if kind == 1:
                    # v9 gives bytes of scope and of options, four for each field; its scopes have their own numbers
                    scopes, count = count // 4, (count + second) // 4
            found, offset = _layout(body, offset, count, has_enterprises=version == 10)
            if len(self._templates) >= MAX_TEMPLATES:
                self._templates.pop(next(iter(self._templates)))
            layout = [(-1, size) for _, size in found[:scopes]] + found[scopes:]
            self._templates[(version, domain, number)] = (layout, is_options)

    def _data(self, version: int, domain: int, kind: int, body: bytes, exported: int) -> tuple[int, list[Record]]:
        known = self._templates.get((version, domain, kind))
        if known is None:
            self._ledger.skip("sets before their template")
            self._ledger.lost += 1
            return 0, []
        layout, is_options = known
        smallest = sum(1 if size == _VARIABLE else size for _, size in layout)
        if not smallest:
            raise ValueError("a template has fields of no size")
        out: list[Record] = []
        offset = count = 0
        while len(body) - offset >= smallest:
            values, offset = _values(body, offset, layout)
            count += 1
            record = Record(values, None, exported)
            if is_options:
                self._option(version, domain, record)
            else:
                if (interval := record.number(_SAMPLING) or 0) > 1:
                    self._ledger.mark_sampled(interval)
                out.append(record)
        return count, out

    def _option(self, version: int, domain: int, record: Record) -> None:
        boot = record.number(_BOOT_MS)
        if boot is not None and version == 10:
            self._boot_ms[(version, domain)] = boot
        interval = max(record.number(_SAMPLING) or 1, record.number(_RANDOM) or 1)
        if (space := record.number(_PACKET_SPACE)) is not None:
            taken = max(1, record.number(_PACKET_INTERVAL) or 1)
            interval = max(interval, (taken + space) // taken)
        if interval > 1:
            self._ledger.mark_sampled(interval)


def _layout(body: bytes, offset: int, count: int, *, has_enterprises: bool) -> tuple[list[Field], int]:
    """The fields of a template and where they end."""
    if count > MAX_FIELDS:
        raise ValueError(f"a template claims {count} fields")
    found: list[Field] = []
    for _ in range(count):
        if offset + 4 > len(body):
            raise ValueError("a template breaks off")
        element, size = struct.unpack_from("!HH", body, offset)
        offset += 4
        if has_enterprises and element & 0x8000:
            element, offset = -1, offset + 4  # of an enterprise: its bytes are passed over
        found.append((element, size))
    return found, offset


def _values(body: bytes, offset: int, layout: list[Field]) -> tuple[dict[int, bytes], int]:
    values: dict[int, bytes] = {}
    for element, size in layout:
        length = size
        if size == _VARIABLE:
            length, offset = (body[offset], offset + 1) if offset < len(body) else (0, offset)
            if length == 255:
                length, offset = int.from_bytes(body[offset : offset + 2], "big"), offset + 2
        if offset + length > len(body):
            raise ValueError("a record breaks off")
        if element >= 0:
            values[element] = body[offset : offset + length]
        offset += length
    return values, offset


def _u32(value: int) -> bytes:
    return value.to_bytes(4, "big")


def _u16(value: int) -> bytes:
    return value.to_bytes(2, "big")
