"""The blocks of a TPACKET_V3 ring, as the kernel fills them (packet(7), linux/if_packet.h): where each packet lies.

A block is a chain of packets, each with a header that says where the next one begins. Every offset is checked before
it is believed. It holds no state; the kernel owns a block again when its status says so.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any, TypeAlias

import numpy as np

from learner.capture import Capture
from learner.columns import Records

Array: TypeAlias = Any  # of numpy, into which mypy does not look
# struct tpacket_block_desc: number of packets and the place of the first one, after version, private part and status
_COUNT_AT, _FIRST_AT, _BLOCK_HEADER = 12, 16, 48
# struct tpacket3_hdr and the sockaddr_ll behind it
_HEADER_BYTES = 68
_PROTOCOL_AT = 50
_VLAN_VALID = 1 << 4
_SLL2, _SLL2_BYTES = 276, 20
_HEAD = np.dtype(
    {
        "names": ["seconds", "nanoseconds", "kept", "wire", "status", "mac"],
        "formats": ["u4", "u4", "u4", "u4", "u4", "u2"],
        "offsets": [4, 8, 12, 16, 20, 24],
        "itemsize": _HEADER_BYTES,
    }
)


class Damaged(ValueError):  # noqa: N818  the reader says it to users in its own words
    """A block whose offsets cannot be: nothing in it is believed."""


def read_blocks(blocks: Iterable[memoryview], capture: Capture, link: int, *, is_cooked: bool) -> int:
    """Fold the packets of blocks into a capture's table; how many packets were in blocks that cannot be read."""
    damaged = 0
    for block in blocks:
        data = np.frombuffer(block, dtype=np.uint8)
        try:
            records = records_of(data, link, is_cooked=is_cooked)
        except Damaged:
            damaged += _claimed(data)
            continue
        if records is not None:
            capture.count(records)
    return damaged


def records_of(block: Array, link: int, *, is_cooked: bool) -> Records | None:
    """The packets of one block; None when there is none.

    Where packets come without a header of the link layer (``is_cooked``), the one of Linux cooked captures, version 2,
    is written into the free bytes before each, as libpcap does: the block has to be writable then. Tags of VLANs that
    the kernel took out of a packet count as four bytes of it.
    Raises Damaged.
    """
    places = _places(block)
    if not places:
        return None
    at = np.array(places, dtype=np.int64)
    opaque: Any = np.ndarray((len(block) - _HEADER_BYTES + 1,), f"V{_HEADER_BYTES}", block, 0, (1,))
    head = opaque[at].view(_HEAD)
    kept, wire, begin = head["kept"].astype(np.int64), head["wire"].astype(np.int64), at + head["mac"]
    least = _HEADER_BYTES + (_SLL2_BYTES if is_cooked else 0)
    if (head["mac"] < least).any() or (begin + kept > len(block)).any():
        raise Damaged("a packet lies outside of its block")
    time_ns = head["seconds"].astype(np.int64) * 1_000_000_000 + head["nanoseconds"]
    if is_cooked:
        begin -= _SLL2_BYTES
        for offset in (0, 1):
            block[begin + offset] = block[at + _PROTOCOL_AT + offset]
        kept, wire, link = kept + _SLL2_BYTES, wire + _SLL2_BYTES, _SLL2
    else:
        wire += np.where(head["status"] & _VLAN_VALID, 4, 0)
    return Records(block, begin, kept, np.maximum(wire, kept), time_ns, link)


def _claimed(block: Array) -> int:
    """How many packets a block says it has, as far as they would fit; at least one is lost with it."""
    said = int.from_bytes(block[_COUNT_AT : _COUNT_AT + 4].tobytes(), sys.byteorder)
    return max(1, min(said, len(block) // _HEADER_BYTES))


def _places(block: Array) -> list[int]:
    """Where the header of each packet begins; each is further on than the one before it."""
    size = len(block)
    if size < _BLOCK_HEADER or size % 4:
        raise Damaged("a block is shorter than its header")
    words = memoryview(block).cast("B").cast("I")
    count, at = words[_COUNT_AT >> 2], words[_FIRST_AT >> 2]
    last = size - _HEADER_BYTES
    places: list[int] = []
    while len(places) < count:
        if at > last or at < _BLOCK_HEADER or at & 3:
            raise Damaged("a packet lies outside of its block")
        places.append(at)
        step = words[at >> 2]
        # the last one has none
        if not step and len(places) < count:
            raise Damaged("a block has fewer packets than it says")
        if step and step < _HEADER_BYTES:
            raise Damaged("two packets overlap")
        at += step
    return places
