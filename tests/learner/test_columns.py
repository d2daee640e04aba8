import random

import numpy as np
import pytest

from learner import columns
from tests.learner.captures import fast, linked, packet, pcap, reference, some


def test_packets_whose_hashes_collide_are_never_mixed(monkeypatch: pytest.MonkeyPatch) -> None:
    data = pcap("<", 1, some(1, 400, 1))
    expected = reference(data)
    monkeypatch.setattr(columns, "_MIX_A", np.uint64(0))
    monkeypatch.setattr(columns, "_MIX_B", np.uint64(0))
    assert fast(data) == expected


def test_plain_packets_are_read_together_and_others_handed_back() -> None:
    chance = random.Random(3)
    plain = linked(101, packet(chance), chance)
    while plain[0] != 0x45 or plain[6:8] != b"\0\0" or plain[9] != 6 or len(plain) < 40 or plain[32] != 0x50:
        plain = linked(101, packet(chance), chance)
    odd = plain[:6] + b"\x20\0" + plain[8:]
    data = np.frombuffer((plain + odd) + bytes(64), np.uint8)
    begin = np.array([0, len(plain)])
    size = np.array([len(plain)] * 2)
    groups, others = columns.fold(columns.Records(data, begin, size, size, np.array([5, 6]), 101))
    assert [item.packets for item in groups] == [[1]]
    assert others.tolist() == [1]


def test_a_link_type_that_is_not_known_is_handed_back() -> None:
    data = np.zeros(100, np.uint8)
    one = np.array([0])
    groups, others = columns.fold(columns.Records(data, one, np.array([60]), np.array([60]), one, 147))
    assert groups == []
    assert others.tolist() == [0]
