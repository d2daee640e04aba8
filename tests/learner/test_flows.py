from collections import Counter

import pytest

from learner.flows import build_table
from learner.packets import ACK, RST, SYN, UDP, Frame
from tests.learner.test_packets import ipv4

CLIENT, SERVER = 40000, 80


def frame(at: int, flags: int, *, back: bool = False, protocol: int = 6, sequence: int = 0) -> Frame:
    import struct

    ports = (SERVER, CLIENT) if back else (CLIENT, SERVER)
    if protocol == UDP:
        payload = struct.pack("!HHHH", *ports, 8, 0)
    else:
        payload = struct.pack("!HHIIBBHHH", *ports, sequence, 0, 0x50, flags, 0, 0, 0)
    data = bytearray(ipv4(payload, protocol))
    if back:
        data[12:16], data[16:20] = data[16:20], data[12:16]
    return Frame(at, 101, bytes(data), len(data))


@pytest.mark.parametrize(
    ("frames", "initiator", "established", "ambiguous"),
    [
        ([frame(1, SYN), frame(2, SYN | ACK, back=True), frame(3, ACK)], CLIENT, True, False),
        ([frame(1, SYN | ACK, back=True), frame(2, ACK)], CLIENT, True, False),
        ([frame(1, SYN)], CLIENT, False, False),
        ([frame(1, SYN), frame(2, RST | ACK, back=True)], CLIENT, False, False),
        ([frame(1, ACK, back=True), frame(2, ACK)], SERVER, True, True),
        ([frame(1, ACK)], CLIENT, False, True),
        ([frame(1, 0, protocol=UDP), frame(2, 0, back=True, protocol=UDP)], CLIENT, True, False),
        ([frame(1, 0, protocol=UDP)], CLIENT, False, False),
    ],
    ids=["handshake", "late-capture", "no-answer", "refused", "middle", "one-sided", "udp", "udp-no-answer"],
)
def test_direction_and_outcome_come_from_evidence(
    frames: list[Frame], initiator: int, *, established: bool, ambiguous: bool
) -> None:
    rows = build_table(frames, Counter())
    assert len(rows) == 1
    assert (rows[0].source_port, rows[0].established, rows[0].is_ambiguous) == (initiator, established, ambiguous)
    assert rows[0].packets == len(frames)


def test_counts_and_times_are_of_the_whole_conversation() -> None:
    rows = build_table([frame(3_000, SYN), frame(1_000, ACK, back=True), frame(9_000, ACK)], Counter())
    assert (rows[0].packets, rows[0].bytes) == (3, 120)
    assert (rows[0].last - rows[0].first).microseconds == 8
    assert set(rows[0].to_json()) == {
        "source_ip", "source_port", "destination_ip", "destination_port", "protocol", "packets", "bytes", "first",
        "last", "established",
    }  # fmt: skip


def test_a_syn_of_another_sequence_number_is_another_conversation() -> None:
    frames = [
        frame(1, SYN, sequence=7),
        frame(2, SYN, sequence=7),
        frame(3, SYN | ACK, back=True),
        frame(4, SYN, sequence=9),
        frame(5, RST | ACK, back=True),
    ]
    rows = build_table(frames, Counter())
    assert [(row.packets, row.established) for row in rows] == [(3, True), (2, False)]
