"""What the server and its signing processes say to each other: a kind, a length, and a list of byte strings.

Both ends are ours and the socket is nobody else's; it is read strictly all the same.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence

from mesh.problems import Invalid

READY, KEY, PARTS = b"R", b"K", b"S"
MAX_BYTES = 4 << 20
MAX_PART_BYTES = 0xFFFF
_HEAD = struct.Struct(">cI")
_SIZE = struct.Struct(">H")


def pack(parts: Sequence[bytes]) -> bytes:
    """Write byte strings of at most 65535 bytes one after the other."""
    return b"".join([_SIZE.pack(len(part)) + part for part in parts])


def unpack(data: bytes) -> list[bytes]:
    """Read what `pack` wrote.

    Raises Invalid LM5270 for bytes that are cut off.
    """
    found, at = [], 0
    while at < len(data):
        if at + _SIZE.size > len(data):
            raise Invalid("LM5270", reason="a length is cut off")
        (size,) = _SIZE.unpack_from(data, at)
        at += _SIZE.size
        if at + size > len(data):
            raise Invalid("LM5270", reason="a part is cut off")
        found.append(data[at : at + size])
        at += size
    return found


def write(link: socket.socket, kind: bytes, data: bytes) -> None:
    """Send a message. Raises OSError."""
    link.sendall(_HEAD.pack(kind, len(data)) + data)


def read(link: socket.socket) -> tuple[bytes, bytes] | None:
    """Receive a message, None when the other end hung up.

    Raises Invalid LM5270 for one that is cut off or too large, OSError (TimeoutError among them).
    """
    head = _receive(link, _HEAD.size)
    if not head:
        return None
    if len(head) < _HEAD.size:
        raise Invalid("LM5270", reason="a message is cut off")
    kind, size = _HEAD.unpack(head)
    if size > MAX_BYTES:
        raise Invalid("LM5270", reason="a message is larger than 4 MiB")
    data = _receive(link, size)
    if len(data) < size:
        raise Invalid("LM5270", reason="a message is cut off")
    return kind, data


def _receive(link: socket.socket, size: int) -> bytes:
    found = bytearray()
    while len(found) < size:
        try:
            more = link.recv(size - len(found))
        except ConnectionResetError:
            # hung up with something unread
            break
        if not more:
            break
        found += more
    return bytes(found)
