"""Captures that tests make: random ones for comparison with the reference, and scapy's of every kind of header."""

import io
import pathlib
import random
import struct
from collections import Counter

from learner.capture import Capture
from learner.flows import Row, build_table
from learner.packets import read_frames
from tests.learner.test_packets import block, ether, ipv4, ipv6, tunnel

LINKS = (1, 101, 113, 276, 0, 108)


def reference(data: bytes) -> tuple[list[Row], Counter[str]]:
    """The table, one packet after the other."""
    skipped: Counter[str] = Counter()
    return build_table(read_frames(io.BytesIO(data), "x"), skipped), skipped


def fast(data: bytes, block_bytes: int = 1 << 16) -> tuple[list[Row], Counter[str]]:
    """The table as users get it, with blocks so small that records lie across their borders."""
    skipped: Counter[str] = Counter()
    capture = Capture("x", skipped, block_bytes=block_bytes)
    capture.read(io.BufferedReader(io.BytesIO(data)))  # type: ignore[arg-type]  # BytesIO is raw enough
    return capture.table.rows(), +skipped


def packet(chance: random.Random) -> bytes:
    """One network layer packet: few sockets, so that conversations meet; all that a fast path must not misread."""
    client, server = chance.randrange(1, 6), chance.randrange(1, 4)
    back = chance.random() < 0.5
    ports = (chance.choice((80, 443)), 1000 + client) if back else (1000 + client, chance.choice((80, 443)))
    flags = chance.choice((0x02, 0x12, 0x10, 0x18, 0x11, 0x04, 0x14))
    offset = 0x50 if chance.random() < 0.98 else 0x40
    payload = struct.pack("!HHIIBBHHH", *ports, chance.randrange(3), 0, offset, flags, 0, 0, 0)
    protocol = 6
    if chance.random() < 0.2:
        protocol, payload = 17, struct.pack("!HHHH", *ports, chance.choice((8, 8, 8, 3)), 0)
    elif chance.random() < 0.05:
        protocol, payload = 17, tunnel(4789, b"\x08" + bytes(7) + ether(0x0800, ipv4(payload)))
    payload += bytes(chance.randrange(40))
    ends = (server, client) if back else (client, server)
    kind = chance.random()
    if kind < 0.25:
        data = bytearray(ipv6(payload, protocol))
        data[23], data[39] = ends
        if kind < 0.03:
            data = bytearray(ipv6(bytes([protocol, 0]) + bytes(6) + payload, 0))
    else:
        fragment = chance.choice((0, 0, 0, 0, 0, 0, 0x4000, 0x2000, 5))
        data = bytearray(ipv4(payload, protocol, fragment, bytes(4) if kind > 0.95 else b""))
        data[15], data[19] = ends
    return bytes(data[: chance.randrange(20, 60)] if chance.random() < 0.1 else data)


def linked(link: int, data: bytes, chance: random.Random) -> bytes:
    """A packet behind a link layer's header."""
    kind = 0x86DD if data[0] >> 4 == 6 else 0x0800
    if link in {1, 113, 276}:
        tags = b""
        for tag in chance.choice(((), (), (), (0x8100,), (0x88A8, 0x8100))):
            tags += struct.pack("!HH", tag, 7)
        ethertype = tags[:2] + b"".join(tags[index + 2 : index + 6] for index in range(0, len(tags), 4))
        after = (ethertype + struct.pack("!H", kind)) if tags else struct.pack("!H", kind)
        if link == 276:
            return after[:2] + bytes(18) + after[2:] + data
        return bytes(12 if link == 1 else 14) + after + data
    return bytes(4) + data if link in {0, 108} else data


def pcap(order: str, link: int, packets: list[bytes], *, nanoseconds: bool = False) -> bytes:
    out = struct.pack(f"{order}IHHiIII", 0xA1B23C4D if nanoseconds else 0xA1B2C3D4, 2, 4, 0, 0, 65535, link)
    for index, data in enumerate(packets):
        out += struct.pack(f"{order}IIII", 1_780_000_000 + index // 7, index * 31 % 1_000_000, len(data), len(data) + 3)
        out += data
    return out


def pcapng(order: str, interfaces: list[int], packets: list[tuple[int, bytes]]) -> bytes:
    out = block(order, 0x0A0D0D0A, struct.pack(f"{order}IHHq", 0x1A2B3C4D, 1, 0, -1))
    for link in interfaces:
        out += block(order, 1, struct.pack(f"{order}HHI", link, 0, 0))
    for index, (interface, data) in enumerate(packets):
        head = struct.pack(f"{order}IIIII", interface, 415_000, index * 100, len(data), len(data) + 3)
        out += block(order, 6, head + data)
    return out


def some(seed: int, count: int, link: int) -> list[bytes]:
    chance = random.Random(seed)
    return [linked(link, packet(chance), chance) for _ in range(count)]


def save(path: pathlib.Path, data: bytes) -> pathlib.Path:
    path.write_bytes(data)
    return path
