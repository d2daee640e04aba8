"""The parsers of whoever watches a host: blocks of a ring, the kernel's list of sockets, filters, accounts."""

import contextlib
import struct
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

from enforcer.sockdump import read_messages, read_socket
from learner.bpf import compile_program
from learner.capture import Capture
from learner.ring import read_blocks, records_of
from learner.sources import live
from learner.sources.ledger import Ledger
from learner.sources.rows import json_object
from learner.sources.sockets import entry_of
from tests.learner.captures import some
from tests.learner.rings import block_of

SIZE = 1 << 14
LISTED = struct.pack("=BBBB", 2, 1, 0, 0) + struct.pack("!HH", 40000, 443) + bytes([10, 0, 0, 1]) + bytes(12)
LISTED += bytes([10, 0, 0, 2]) + bytes(12) + bytes(32)


def _packets(link: int) -> list[tuple[int, int, bytes]]:
    return [(index * 1000, len(data) + 3, data) for index, data in enumerate(some(link, 60, link))]


def ring(data: bytes, link: int, *, is_cooked: bool) -> None:
    """Read a block twice, from a copy: the kernel's are writable, and no packet lies outside."""
    for capture in (Capture("x", Counter()), None):
        block = bytearray(data)
        if capture is not None:
            read_blocks([memoryview(block)], capture, link, is_cooked=is_cooked)
        else:
            found = records_of(np.frombuffer(block, dtype=np.uint8), link, is_cooked=is_cooked)
            assert found is None or ((found.begin >= 48) & (found.begin + found.kept <= len(block))).all()


def sockets(data: bytes) -> None:
    for _, _, body in read_messages(data):
        found = read_socket(body, "tcp")
        if found is not None:
            entry_of(found.protocol, found.state, found.local, found.peer)


def program(data: bytes) -> bytes:
    found = compile_program(data.decode("latin-1"), network_at=14, snaplen=256, one_in=3)
    assert len(found) % 8 == 0
    assert len(found) <= 4096 * 8
    return found


def account(data: bytes) -> None:
    live.recognises(data)
    # a line that is nested too deeply is counted as unreadable by whoever reads lines
    with contextlib.suppress(RecursionError):
        list(live._outcomes(json_object(data), Ledger(file="x", source="live")))


def targets(make: Callable[..., Any]) -> dict[str, Any]:
    """Each parser's good seeds, and how it is run."""
    cooked = [item[12:14] for item in some(1, 60, 1)]
    message = struct.pack("=IHHII", 16 + len(LISTED), 20, 2, 1, 0) + LISTED
    ledger = Ledger(file="eth0", source="live", lost=3, sampled=16)
    return {
        "ring-block": make(
            (block_of(_packets(1), SIZE), block_of([], SIZE)), lambda data: ring(data, 1, is_cooked=False), values=True
        ),
        "ring-block-cooked": make(
            (block_of(_packets(101), SIZE, protocols=[int.from_bytes(item, "big") for item in cooked]),),
            lambda data: ring(data, 101, is_cooked=True),
            values=True,
        ),
        "sock-diag": make(
            (message * 3, message + struct.pack("=IHHII", 20, 3, 2, 1, 0) + bytes(4)), sockets, values=True
        ),
        "packet-filter": make(
            (
                b"tcp and not (port 22 or src net 10.0.0.0/8)",
                b"host 2001:db8::1 and udp portrange 1-9",
                b"control or ip6",
            ),
            program,
        ),
        "capture-account": make(
            tuple(str(row).replace("'", '"').encode() for row in live.rows_of(ledger, ())), account, values=True
        ),
    }
