"""From a capture file to its flow table: blocks of bytes, the records in them, plain packets many at once.

Streams: one block is in memory, and the table. What the fast path of `learner.columns` cannot read for certain is
read packet by packet, with the same result; `learner.packets.read_frames` is the reference that tests compare with.
"""

from __future__ import annotations

import io
import operator
import struct
from collections import Counter
from typing import Any, TypeAlias

import numpy as np

from learner import walk
from learner.columns import Records, fold
from learner.flows import Table, key_of, packets_of
from learner.hostnames import Hostnames
from learner.packets import MAX_PACKET_BYTES, Frame, Packet, interface_of, statistics_of
from mesh.problems import Invalid

BLOCK_BYTES = 16 << 20
_MAX_BLOCK = MAX_PACKET_BYTES + 4096
_LOOK_NS_APART_S = 30 * 86400
_SECTION, _INTERFACE, _SIMPLE, _STATISTICS, _ENHANCED = 0x0A0D0D0A, 1, 3, 5, 6
_KINDS = (_INTERFACE, 2, _SIMPLE, 4, _STATISTICS, _ENHANCED)
Array: TypeAlias = Any  # of numpy, into which mypy does not look


class Capture:
    """One reading of a capture: its table, and what was skipped and lost."""

    def __init__(
        self, name: str, skipped: Counter[str], *, names: Hostnames | None = None, block_bytes: int = BLOCK_BYTES
    ) -> None:
        self.table = Table()
        self.packets = 0
        self.dropped: dict[int, int] = {}
        self.names = names
        self._name = name
        self._skipped = skipped
        self._block_bytes = block_bytes

    def read(self, file: io.BufferedReader) -> None:
        """Read a whole file.

        Raises Invalid LM4010 for a file that is no capture or breaks off.
        """
        magic = file.read(4)
        if len(magic) == 4 and int.from_bytes(magic, "big") == _SECTION:
            _Pcapng(self, file, magic).read()
            return
        for order in "<>":
            number = struct.unpack(f"{order}I", magic)[0] if len(magic) == 4 else 0
            if number in {0xA1B2C3D4, 0xA1B23C4D}:
                self._pcap(file, order, nanoseconds=number == 0xA1B23C4D)
                return
        raise self.wrong("it begins like no pcap or pcapng file")

    def wrong(self, reason: str) -> Invalid:
        """The Problem of a file that is not what it says."""
        return Invalid("LM4010", file=self._name, reason=reason)

    def _pcap(self, file: io.BufferedReader, order: str, *, nanoseconds: bool) -> None:
        header = file.read(20)
        if len(header) < 20:
            raise self.wrong("its header breaks off")
        link = struct.unpack(f"{order}I", header[16:20])[0] & 0xFFFF
        # one buffer for all blocks: fresh ones cost more than what is done with them
        buffer = np.empty(self._block_bytes + MAX_PACKET_BYTES + 16, dtype=np.uint8)
        left = 0
        while more := file.readinto(memoryview(buffer)[left : left + self._block_bytes]):
            data = buffer[: left + more]
            form = _pcap_form(data, order, nanoseconds=nanoseconds)
            places, end = walk.walk(form, len(data))
            self._records(data, places, order, link, 1 if nanoseconds else 1000)
            left = len(data) - end
            if (
                left >= 16
                and (kept := struct.unpack(f"{order}I", data[end + 8 : end + 12].tobytes())[0]) > MAX_PACKET_BYTES
            ):
                raise self.wrong(f"a record claims {kept} bytes")
            buffer[:left] = data[end:].copy()
        if left:
            raise self.wrong("a record's header breaks off" if left < 16 else "a record breaks off")

    def _records(self, data: Array, places: Array, order: str, link: int, factor: int) -> None:
        if not len(places):
            return
        view: Any = np.ndarray((len(data) - 15,), "V16", data, 0, (1,))
        head = view[places].view(f"{order}u4").reshape(-1, 4)
        seconds, fraction, kept, wire = (head[:, column].astype(np.int64) for column in range(4))
        if int(kept.max()) > MAX_PACKET_BYTES:
            raise self.wrong(f"a record claims {int(kept.max())} bytes")
        time_ns = seconds * 1_000_000_000 + fraction * factor
        self.count(Records(data, places + 16, kept, np.maximum(wire, kept), time_ns, link))

    def count(self, records: Records) -> None:
        """Take in the packets of a block.

        1. Those that the fast path left are read one by one.
        2. A conversation that has one of those is read one by one as a whole: the order of its packets matters.
        """
        if self.names is not None:
            self.names.look(records)
        groups, others = fold(records)
        # (1)
        single = [(index, packet) for index in others.tolist() for packet in self._packets(records, index)]
        mixed = {key_of(packet) for _, packet in single}
        for item in groups:
            # (2)
            slow = self.table.merge(item, self.packets, mixed)
            single += [
                (index, packet)
                for group in slow
                for index in item.members(group)
                for packet in self._packets(records, index)
            ]
        if mixed:
            single.sort(key=operator.itemgetter(0))
        for index, packet in single:
            self.table.add(packet, self.packets + index)
        self.packets += len(records.begin)

    def _packets(self, records: Records, index: int) -> tuple[Packet, ...]:
        begin, kept = int(records.begin[index]), int(records.kept[index])
        link = records.link if isinstance(records.link, int) else int(records.link[index])
        data = records.data[begin : begin + kept].tobytes()
        frame = Frame(int(records.time_ns[index]), link, data, int(records.wire[index]))
        return packets_of(frame, self._skipped)


def _at(data: Array, places: Array, kind: str) -> Array:
    """Unaligned values at places, as 64-bit numbers."""
    size = np.dtype(kind).itemsize
    view: Any = np.ndarray((len(data) - size + 1,), kind, data, 0, (1,))
    return view[places].astype(np.int64)


def _pcap_form(data: Array, order: str, *, nanoseconds: bool) -> walk.Format:
    number = f"{order}u4"
    limit = 1_000_000_000 if nanoseconds else 1_000_000
    first = int(_at(data, np.zeros(1, dtype=np.int64), number)[0]) if len(data) >= 4 else 0

    def looks_right(places: Array) -> Array:
        # the cheapest test first: most places fail it
        good = np.abs(_at(data, places, number) - first) <= _LOOK_NS_APART_S
        some = np.nonzero(good)[0]
        at = places[some]
        kept, wire = _at(data, at + 8, number), _at(data, at + 12, number)
        fraction = _at(data, at + 4, number)
        good[some] = (fraction < limit) & (kept > 0) & (kept <= MAX_PACKET_BYTES) & (kept <= wire)
        return good

    kept_at: Any = np.ndarray((max(len(data) - 11, 0),), number, data, 8, (1,)) if len(data) >= 12 else None

    def following(places: Array) -> Array:
        return places + kept_at[places] + 16

    return walk.Format(following, looks_right, 16)


def _ng_form(data: Array, order: str) -> walk.Format:
    number = f"{order}u4"
    end = len(data)

    def following(places: Array) -> Array:
        # a size that cannot be is found by `_Pcapng`; here a step must go on
        return places + np.maximum(_at(data, places + 4, number), 12)

    def looks_right(places: Array) -> Array:
        good = np.isin(_at(data, places, number), _KINDS)
        some = np.nonzero(good)[0]
        at = places[some]
        size = _at(data, at + 4, number)
        fits = (size >= 12) & (size % 4 == 0) & (size <= _MAX_BLOCK)
        inside = fits & (at + size <= end)
        fits[inside] = _at(data, (at + size)[inside] - 4, number) == size[inside]
        good[some] = fits
        return good

    return walk.Format(following, looks_right, 12)


class _Pcapng:
    """Sections, interfaces and packets of a pcapng file (draft-ietf-opsawg-pcapng)."""

    def __init__(self, capture: Capture, file: io.BufferedReader, magic: bytes) -> None:
        self._capture = capture
        self._file = file
        self._rest = magic
        self._order = "<"
        self._interfaces: list[tuple[int, int]] = []

    def read(self) -> None:
        more = True
        while more or self._rest:
            block = self._file.read(self._capture._block_bytes) if more else b""  # noqa: SLF001  two halves of one reader
            more = bool(block)
            before = len(self._rest) + len(block)
            data = self._rest + block
            self._rest = self._blocks(data)
            if not more and self._rest and len(self._rest) == before:
                raise self._capture.wrong("a block breaks off")

    def _blocks(self, data: bytes) -> bytes:
        """Read whole blocks up to the next section, and give back what is left."""
        capture = self._capture
        if data[:4] == b"\x0a\x0d\x0d\x0a":
            if len(data) < 12:
                return data
            order = {b"\x4d\x3c\x2b\x1a": "<", b"\x1a\x2b\x3c\x4d": ">"}.get(data[8:12])
            if order is None:
                raise capture.wrong("a section has no byte order")
            size = struct.unpack(f"{order}I", data[4:8])[0]
            self._check(size, 28)
            if len(data) < size:
                return data
            self._order, self._interfaces = order, []
            data = data[size:]
        if len(data) < 12:
            return data
        array = np.frombuffer(data, dtype=np.uint8)
        places, end = walk.walk(_ng_form(array, self._order), len(array))
        number = f"{self._order}u4"
        # a section may be of the other byte order
        if len(data) - end >= 8 and data[end : end + 4] != b"\x0a\x0d\x0d\x0a":
            self._check(struct.unpack_from(f"{self._order}I", data, end + 4)[0], 12)
        if not len(places):
            return data[end:]
        kinds, sizes = _at(array, places, number), _at(array, places + 4, number)
        sections = np.nonzero(kinds == _SECTION)[0]
        if len(sections):
            end = int(places[sections[0]])
            places, kinds, sizes = places[: sections[0]], kinds[: sections[0]], sizes[: sections[0]]
        bad = (sizes < 12) | (sizes % 4 != 0) | (sizes > _MAX_BLOCK)
        if bad.any():
            raise capture.wrong(f"a block claims {int(sizes[bad][0])} bytes")
        self._runs(array, places, kinds, sizes)
        return data[end:]

    def _check(self, size: int, least: int) -> None:
        if size < least or size % 4 or size > _MAX_BLOCK:
            raise self._capture.wrong(f"a block claims {size} bytes")

    def _runs(self, data: Array, places: Array, kinds: Array, sizes: Array) -> None:
        """Packets between the blocks that describe interfaces."""
        described = np.nonzero((kinds == _INTERFACE) | (kinds == _SIMPLE) | (kinds == _STATISTICS))[0].tolist()
        begin = 0
        for index in [*described, len(places)]:
            run = slice(begin, index)
            enhanced = kinds[run] == _ENHANCED
            self._enhanced(data, places[run][enhanced], sizes[run][enhanced])
            if index < len(places):
                at, size = int(places[index]), int(sizes[index])
                self._describe(int(kinds[index]), data[at + 8 : at + size - 4].tobytes())
            begin = index + 1

    def _describe(self, kind: int, body: bytes) -> None:
        capture = self._capture
        if kind == _INTERFACE:
            found = interface_of(body, self._order)
            if found is not None:
                self._interfaces.append(found)
        elif kind == _STATISTICS:
            interface, dropped = statistics_of(body, self._order)
            # each says what was dropped since the interface was opened
            capture.dropped[interface] = max(capture.dropped.get(interface, 0), dropped)
        else:
            capture._skipped["without a time"] += 1  # noqa: SLF001  two halves of one reader

    def _enhanced(self, data: Array, places: Array, sizes: Array) -> None:
        if not len(places):
            return
        number = f"{self._order}u4"
        whole = sizes >= 32
        places, sizes = places[whole], sizes[whole]
        interface, high, low, kept, wire = (_at(data, places + offset, number) for offset in (8, 12, 16, 20, 24))
        good = (interface < len(self._interfaces)) & (kept <= sizes - 32)
        lost = int((~good).sum()) + int((~whole).sum())
        if lost:
            self._capture._skipped["malformed"] += lost  # noqa: SLF001  two halves of one reader
        if not good.any():
            return
        interface, high, low, kept, wire, places = (item[good] for item in (interface, high, low, kept, wire, places))
        links = np.array([item[0] for item in self._interfaces], dtype=np.int64)
        ticks = np.array([item[1] for item in self._interfaces], dtype=np.int64)
        time_ns = (high << 32 | low) * ticks[interface]
        used = np.unique(links[interface])
        link: Array | int = int(used[0]) if len(used) == 1 else links[interface]
        self._capture.count(Records(data, places + 28, kept, np.maximum(wire, kept), time_ns, link))
