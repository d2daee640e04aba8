"""Blocks of a TPACKET_V3 ring as the kernel writes them (linux/if_packet.h), for tests."""

import struct

HEADER_BYTES = 48


def block_of(packets: list[tuple[int, int, bytes]], size: int, *, protocols: list[int] | None = None) -> bytes:
    """A block of packets, each (time in nanoseconds, bytes on the wire, bytes).

    With ``protocols`` it is one of a socket that gives no header of the link layer, but leaves room for one.
    """
    room = 96 if protocols is not None else 82
    out = bytearray(struct.pack("=IIIIIIQIIII", 2, HEADER_BYTES, 1, len(packets), HEADER_BYTES, 0, 1, 0, 0, 0, 0))
    for index, (time_ns, wire, data) in enumerate(packets):
        length = (room + len(data) + 15) & ~15
        step = length if index + 1 < len(packets) else 0
        seconds, rest = divmod(time_ns, 1_000_000_000)
        head = struct.pack("=IIIIIIHHIIHH8x", step, seconds, rest, len(data), wire, 1, room, room, 0, 0, 0, 0)
        link = struct.pack("=H", 17) + struct.pack("!H", protocols[index] if protocols else 0) + bytes(16)
        out += (head + link).ljust(room, b"\0") + data
        out += bytes(length - room - len(data))
    return bytes(out.ljust(size, b"\0"))
