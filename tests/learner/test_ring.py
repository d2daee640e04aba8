import struct
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learner.capture import Capture
from learner.flows import Row, build_table
from learner.packets import Frame
from learner.ring import Damaged, read_blocks, records_of
from tests.learner.captures import packet, some
from tests.learner.rings import HEADER_BYTES, block_of
from tests.learner.test_packets import V4, V6, ether

SIZE = 1 << 17
Packets = list[tuple[int, int, bytes]]


def timed(packets: list[bytes]) -> Packets:
    return [(1_780_000_000_000_000_000 + at * 7_001, len(data) + 3, data) for at, data in enumerate(packets)]


def reference(packets: Packets, link: int) -> tuple[list[Row], Counter[str]]:
    skipped: Counter[str] = Counter()
    frames = (Frame(time_ns, link, data, wire) for time_ns, wire, data in packets)
    return build_table(frames, skipped), +skipped


def read(blocks: list[bytes], link: int, *, is_cooked: bool = False) -> tuple[list[Row], Counter[str], int]:
    skipped: Counter[str] = Counter()
    capture = Capture("x", skipped)
    damaged = read_blocks((memoryview(bytearray(block)) for block in blocks), capture, link, is_cooked=is_cooked)
    return capture.table.rows(), +skipped, damaged


@pytest.mark.parametrize("link", [1, 101])
def test_blocks_give_the_table_of_their_packets_one_by_one(link: int) -> None:
    packets = timed(some(link, 900, link))
    blocks = [block_of(packets[begin : begin + 300], SIZE) for begin in (0, 300, 600)]
    rows, skipped, damaged = read(blocks, link)
    assert (rows, skipped) == reference(packets, link)
    assert len(rows) > 50
    assert damaged == 0


def test_an_empty_block_gives_nothing() -> None:
    assert read([block_of([], SIZE)], 1) == ([], Counter(), 0)


def test_packets_without_a_link_layer_get_the_one_of_linux_cooked_captures_and_count_its_bytes() -> None:
    import random

    chance = random.Random(7)
    bare = timed([packet(chance) for _ in range(400)] + [b"\x00\x01\x08\x00\x06\x04\x00\x01" + bytes(20)])
    protocols = [0x86DD if data[0] >> 4 == 6 else 0x0800 for _, _, data in bare[:-1]] + [0x0806]
    cooked = [
        (time_ns, wire + 20, struct.pack("!H", protocol) + bytes(18) + data)
        for (time_ns, wire, data), protocol in zip(bare, protocols, strict=True)
    ]
    rows, skipped, damaged = read([block_of(bare, SIZE, protocols=protocols)], 101, is_cooked=True)
    assert (rows, skipped) == reference(cooked, 276)
    assert skipped["not IP"] == 1
    assert damaged == 0


def test_a_tag_that_the_kernel_took_out_counts_as_four_bytes_on_the_wire() -> None:
    block = bytearray(block_of(timed([ether(0x0800, V4), ether(0x86DD, V6)]), SIZE))
    plain = [row.bytes for row in read([bytes(block)], 1)[0]]
    struct.pack_into("=I", block, HEADER_BYTES + 20, 1 | 1 << 4)
    assert [row.bytes for row in read([bytes(block)], 1)[0]] == [plain[0] + 4, plain[1]]


def test_link_types_that_are_not_ours_are_dissected_by_scapy() -> None:
    radiotap = b"\0\0\x08\0\0\0\0\0"
    dot11 = b"\x08\x02" + bytes(22) + b"\xaa\xaa\x03\0\0\0\x08\0"
    rows, skipped, _ = read([block_of(timed([radiotap + dot11 + V4]), SIZE)], 127)
    assert skipped == Counter()
    assert [(row.source_ip, row.destination_ip, row.destination_port) for row in rows] == [("10.0.0.1", "10.0.0.2", 80)]


@pytest.mark.parametrize(
    ("at", "value"),
    [
        pytest.param(12, 1 << 31, id="more-packets-than-there-are"),
        pytest.param(16, 8, id="the-first-within-the-header"),
        pytest.param(16, SIZE, id="the-first-behind-the-end"),
        pytest.param(16, HEADER_BYTES + 2, id="the-first-unaligned"),
        pytest.param(HEADER_BYTES, 0, id="a-chain-that-ends-early"),
        pytest.param(HEADER_BYTES, 16, id="packets-that-overlap"),
        pytest.param(HEADER_BYTES, 0xFFFFFFF0, id="a-step-behind-the-end"),
        pytest.param(HEADER_BYTES + 12, SIZE, id="a-packet-longer-than-the-block"),
        pytest.param(HEADER_BYTES + 24, 4, id="a-packet-within-its-header"),
    ],
)
def test_a_block_whose_offsets_cannot_be_is_not_believed_and_its_packets_are_lost(at: int, value: int) -> None:
    block = bytearray(block_of(timed(some(1, 20, 1)), SIZE))
    struct.pack_into("=H" if at == HEADER_BYTES + 24 else "=I", block, at, value)
    with pytest.raises(Damaged):
        records_of(np.frombuffer(bytes(block), dtype=np.uint8), 1, is_cooked=False)
    rows, _, damaged = read([bytes(block)], 1)
    assert rows == []
    assert damaged == (SIZE // 68 if at == 12 else 20)


@pytest.mark.parametrize("size", [0, 4, 47, 50])
def test_a_block_shorter_than_its_header_is_damaged(size: int) -> None:
    assert read([bytes(size)], 1) == ([], Counter(), 1)


@settings(max_examples=60)
@given(st.integers(0, 10**9), st.booleans(), st.data())
def test_no_damage_reaches_beyond_the_block(seed: int, is_cooked: bool, data: st.DataObject) -> None:
    link = 101 if is_cooked else 1
    packets = timed(some(seed, 30, link))
    block = bytearray(block_of(packets, 1 << 13, protocols=[0x0800] * 30 if is_cooked else None))
    for _ in range(data.draw(st.integers(1, 4))):
        block[data.draw(st.integers(0, len(block) - 1))] = data.draw(st.integers(0, 255))
    array = np.frombuffer(bytearray(block), dtype=np.uint8)
    try:
        found = records_of(array, link, is_cooked=is_cooked)
    except Damaged:
        assert read([bytes(block)], link, is_cooked=is_cooked)[2] >= 0
        return
    if found is not None:
        assert (found.begin >= HEADER_BYTES).all()
        assert (found.begin + found.kept <= len(array)).all()
        read([bytes(block)], link, is_cooked=is_cooked)
