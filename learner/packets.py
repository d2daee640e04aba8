"""Reads pcap and pcapng captures and the TCP and UDP headers in them, with the standard library alone.

Strict about sizes, lenient about content: a packet that cannot be read is counted, a file that is no capture is a
Problem. Link types that this module does not read are handed to a dissector (`learner.dissect`). It keeps no state.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import struct
from collections import Counter
from collections.abc import Iterator
from typing import BinaryIO

from mesh.problems import Invalid

MAX_PACKET_BYTES = 1 << 20
CUT = "cut short"
CUT_INSIDE = "cut short within a tunnel"
TCP, UDP = 6, 17
FIN, SYN, RST, ACK = 0x01, 0x02, 0x04, 0x10
_ETHERNET, _NULL, _RAW, _LOOP, _SLL, _SLL2 = 1, 0, 101, 108, 113, 276
_RAW_OTHERS = frozenset({12, 14, 228, 229})
_IPV4, _IPV6 = 0x0800, 0x86DD
_VLANS = frozenset({0x8100, 0x88A8, 0x9100})
_EXTENSIONS = frozenset({0, 43, 60, 135})
_FRAGMENT, _AUTHENTICATION = 44, 51
# IP within IP: what follows
_INNER = {4: 0x0800, 41: 0x86DD}
_VXLAN, _GENEVE = 4789, 6081
TUNNEL_PORTS = (_VXLAN, _GENEVE)
_ETHER_BRIDGED = 0x6558
_MAX_DEPTH, _MAX_TAGS = 3, 8
_SECTION = b"\x0a\x0d\x0d\x0a"
# link type -> where the network layer begins, and where its EtherType stands, if there is one
LINK_OFFSETS: dict[int, tuple[int, int | None]] = {
    _ETHERNET: (14, 12),
    _SLL: (16, 14),
    _SLL2: (20, 0),
    _NULL: (4, None),
    _LOOP: (4, None),
    _RAW: (0, None),
    **dict.fromkeys(_RAW_OTHERS, (0, None)),
}
KNOWN_LINKS = frozenset(LINK_OFFSETS)


@dataclasses.dataclass(slots=True)
class Frame:
    """One captured frame: time in nanoseconds, link type, bytes kept, and how long it was on the wire."""

    time_ns: int
    link: int
    data: bytes
    wire_bytes: int


@dataclasses.dataclass(slots=True)
class Packet:
    """One packet's transport header. ``flags`` and ``sequence`` are TCP's, 0 for UDP; ``wire_bytes`` its frame's."""

    time_ns: int
    source: bytes
    source_port: int
    destination: bytes
    destination_port: int
    protocol: int
    flags: int
    wire_bytes: int
    sequence: int = 0


def read_frames(file: BinaryIO, name: str) -> Iterator[Frame]:
    """The frames of a capture, whatever its kind and byte order.

    Raises Invalid LM4010 for a file that is no capture or breaks off.
    """
    magic = file.read(4)
    if magic == _SECTION:
        yield from _read_pcapng(file, name)
        return
    for order in "<>":
        number = struct.unpack(f"{order}I", magic)[0] if len(magic) == 4 else 0
        if number in {0xA1B2C3D4, 0xA1B23C4D}:
            yield from _read_pcap(file, name, order, 1 if number == 0xA1B23C4D else 1000)
            return
    raise Invalid("LM4010", file=name, reason="it begins like no pcap or pcapng file")


def _read_pcap(file: BinaryIO, name: str, order: str, factor: int) -> Iterator[Frame]:
    header = file.read(20)
    if len(header) < 20:
        raise Invalid("LM4010", file=name, reason="its header breaks off")
    link = struct.unpack(f"{order}I", header[16:20])[0] & 0xFFFF
    record = struct.Struct(f"{order}IIII")
    while head := file.read(record.size):
        if len(head) < record.size:
            raise Invalid("LM4010", file=name, reason="a record's header breaks off")
        seconds, fraction, kept, wire = record.unpack(head)
        if kept > MAX_PACKET_BYTES:
            raise Invalid("LM4010", file=name, reason=f"a record claims {kept} bytes")
        data = file.read(kept)
        if len(data) < kept:
            raise Invalid("LM4010", file=name, reason="a record breaks off")
        yield Frame(seconds * 1_000_000_000 + fraction * factor, link, data, max(wire, kept))


def _read_pcapng(file: BinaryIO, name: str) -> Iterator[Frame]:
    """Sections, interfaces and packet blocks (draft-ietf-opsawg-pcapng); other blocks are passed over."""
    order = "<"
    interfaces: list[tuple[int, int]] = []
    kind_bytes = _SECTION
    while kind_bytes:
        if kind_bytes == _SECTION:
            order, interfaces = _section(file, name), []
        else:
            if len(kind_bytes) < 4 or len(size := file.read(4)) < 4:
                raise Invalid("LM4010", file=name, reason="a block breaks off")
            kind = struct.unpack(f"{order}I", kind_bytes)[0]
            body = _block(file, name, struct.unpack(f"{order}I", size)[0], 8)
            if kind == 1 and (interface := interface_of(body, order)) is not None:
                interfaces.append(interface)
            frame = _enhanced(body, order, interfaces) if kind == 6 else None
            if frame is not None:
                yield frame
        kind_bytes = file.read(4)


def _section(file: BinaryIO, name: str) -> str:
    """The byte order of a section, whose type was read already."""
    rest = file.read(8)
    if len(rest) < 8:
        raise Invalid("LM4010", file=name, reason="a section header breaks off")
    order = {b"\x4d\x3c\x2b\x1a": "<", b"\x1a\x2b\x3c\x4d": ">"}.get(rest[4:8])
    if order is None:
        raise Invalid("LM4010", file=name, reason="a section has no byte order")
    _block(file, name, struct.unpack(f"{order}I", rest[:4])[0], 12)
    return order


def _block(file: BinaryIO, name: str, size: int, done: int) -> bytes:
    """The body of a block of ``size`` bytes of which ``done`` were read; the trailing length is dropped."""
    if size < done + 4 or size % 4 or size > MAX_PACKET_BYTES + 4096:
        raise Invalid("LM4010", file=name, reason=f"a block claims {size} bytes")
    data = file.read(size - done)
    if len(data) < size - done:
        raise Invalid("LM4010", file=name, reason="a block breaks off")
    return data[:-4]


def interface_of(body: bytes, order: str) -> tuple[int, int] | None:
    """The link type of an interface's block, and the nanoseconds of its ticks."""
    return (struct.unpack(f"{order}H", body[:2])[0], _resolution(body[8:], order)) if len(body) >= 8 else None


def statistics_of(body: bytes, order: str) -> tuple[int, int]:
    """Statistics: the interface, and how many packets it (isb_ifdrop) and the system dropped (isb_osdrop)."""
    if len(body) < 12:
        return 0, 0
    interface = struct.unpack(f"{order}I", body[:4])[0]
    options, dropped = body[12:], 0
    while len(options) >= 4:
        code, size = struct.unpack(f"{order}HH", options[:4])
        if code in {5, 7} and size == 8 and len(options) >= 12:
            dropped += struct.unpack(f"{order}Q", options[4:12])[0]
        if code == 0:
            break
        options = options[4 + (size + 3 & ~3) :]
    return interface, dropped


def _resolution(options: bytes, order: str) -> int:
    """Nanoseconds per tick of an interface, from its if_tsresol option; microseconds without one."""
    while len(options) >= 4:
        code, size = struct.unpack(f"{order}HH", options[:4])
        value = options[4 : 4 + size]
        if code == 9 and len(value) == 1:
            power = value[0]
            per_second = int(2 ** (power & 0x7F) if power & 0x80 else 10**power)
            return max(1, 1_000_000_000 // per_second)
        if code == 0:
            break
        options = options[4 + (size + 3 & ~3) :]
    return 1000


def _enhanced(body: bytes, order: str, interfaces: list[tuple[int, int]]) -> Frame | None:
    if len(body) < 20:
        return None
    number, high, low, kept, wire = struct.unpack(f"{order}IIIII", body[:20])
    if number >= len(interfaces) or kept > len(body) - 20:
        return None
    link, tick = interfaces[number]
    return Frame((high << 32 | low) * tick, link, body[20 : 20 + kept], max(wire, kept))


def parse(frame: Frame, skipped: Counter[str]) -> tuple[Packet, ...]:
    """The transport headers of a frame, outermost first: a tunnel is a conversation, and so is what is in it.

    What has none is counted by its reason; empty then.
    """
    found: list[Packet] = []
    try:
        network = _network(frame, skipped)
        if network is not None:
            _transport(frame, *network, skipped, found, _MAX_DEPTH)
    except (struct.error, IndexError):
        # a tunnel was read, and what is in it was cut off, or is something else
        skipped[CUT if not found else CUT_INSIDE] += 1
    return tuple(found)


def _network(frame: Frame, skipped: Counter[str]) -> tuple[int, bytes] | None:
    """The EtherType and the network layer's bytes."""
    data, link = frame.data, frame.link
    known = LINK_OFFSETS.get(link)
    if known is None:
        skipped[f"link type {link}"] += 1
        return None
    offset, ether_at = known
    if ether_at is None:
        return (_IPV4 if data[offset] >> 4 == 4 else _IPV6), data[offset:]
    return _untagged(struct.unpack_from("!H", data, ether_at)[0], data, offset)


def _untagged(kind: int, data: bytes, offset: int) -> tuple[int, bytes]:
    """What follows VLAN tags, at most eight of them."""
    for _ in range(_MAX_TAGS):
        if kind not in _VLANS:
            break
        kind, offset = struct.unpack_from("!H", data, offset + 2)[0], offset + 4
    return kind, data[offset:]


def _transport(  # noqa: C901  one branch for each protocol
    frame: Frame, kind: int, data: bytes, skipped: Counter[str], found: list[Packet], depth: int
) -> None:
    if kind == _IPV4:
        length = (data[0] & 0x0F) * 4
        if data[0] >> 4 != 4 or length < 20:
            skipped["malformed"] += 1
            return
        if struct.unpack_from("!H", data, 6)[0] & 0x1FFF:
            skipped["later fragment"] += 1
            return
        protocol, source, destination = data[9], data[12:16], data[16:20]
        rest = data[length:]
    elif kind == _IPV6:
        source, destination = data[8:24], data[24:40]
        inner = _skip_extensions(data, skipped)
        if inner is None:
            return
        protocol, rest = inner
    else:
        skipped["not IP"] += 1
        return
    if protocol in _INNER and depth:
        _transport(frame, _INNER[protocol], rest, skipped, found, depth - 1)
    elif protocol == TCP:
        _tcp(frame, source, destination, rest, skipped, found)
    elif protocol == UDP:
        sport, dport, length = struct.unpack_from("!HHH", rest)
        # a length of 0 is that of a jumbogram (RFC 2675 §4)
        if length < 8 and not (length == 0 and kind == _IPV6):
            skipped["malformed"] += 1
            return
        found.append(Packet(frame.time_ns, source, sport, destination, dport, UDP, 0, frame.wire_bytes))
        if dport in TUNNEL_PORTS and depth:
            _tunnel(frame, dport, rest[8:], skipped, found, depth - 1)
    else:
        skipped["neither TCP nor UDP"] += 1


def _tcp(
    frame: Frame, source: bytes, destination: bytes, data: bytes, skipped: Counter[str], found: list[Packet]
) -> None:
    sport, dport, sequence = struct.unpack_from("!HHI", data)
    if data[12] < 0x50:
        skipped["malformed"] += 1
        return
    # a header that was not captured whole may have flags, and is none (tshark says so too)
    flags, _ = data[13] & 0x3F, data[19]
    found.append(Packet(frame.time_ns, source, sport, destination, dport, TCP, flags, frame.wire_bytes, sequence))


def _tunnel(frame: Frame, port: int, data: bytes, skipped: Counter[str], found: list[Packet], depth: int) -> None:
    """VXLAN (RFC 7348 §5) and Geneve (RFC 8926 §3.4); a payload that is neither is left alone."""
    if port == _VXLAN:
        if data[0] & 0x08 == 0:
            return
        kind, rest = _ETHER_BRIDGED, data[8:]
    else:
        if data[0] >> 6:
            return
        kind, rest = struct.unpack_from("!H", data, 2)[0], data[8 + (data[0] & 0x3F) * 4 :]
    if kind == _ETHER_BRIDGED:
        kind, rest = _untagged(struct.unpack_from("!H", rest, 12)[0], rest, 14)
    _transport(frame, kind, rest, skipped, found, depth)


def _skip_extensions(data: bytes, skipped: Counter[str]) -> tuple[int, bytes] | None:
    """The protocol and the bytes after IPv6's extension headers (RFC 8200 §4), at most eight of them."""
    protocol, offset = data[6], 40
    for _ in range(8):
        if protocol in _EXTENSIONS:
            protocol, offset = data[offset], offset + (data[offset + 1] + 1) * 8
        elif protocol == _AUTHENTICATION:
            # its length is in words of four bytes, less two (RFC 4302 §2.2)
            protocol, offset = data[offset], offset + (data[offset + 1] + 2) * 4
        elif protocol == _FRAGMENT:
            if struct.unpack_from("!H", data, offset + 2)[0] & 0xFFF8:
                skipped["later fragment"] += 1
                return None
            protocol, offset = data[offset], offset + 8
        else:
            return protocol, data[offset:]
    skipped["malformed"] += 1
    return None


def address(data: bytes) -> str:
    """An address as text; an IPv4 address inside IPv6 is the IPv4 address."""
    found = ipaddress.ip_address(data)
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(found)
