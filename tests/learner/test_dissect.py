from collections import Counter

from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import GRE
from scapy.layers.ppp import PPP

from learner.dissect import dissect
from learner.packets import SYN, Frame

PPP_LINK = 9


def test_an_unusual_link_type_is_dissected() -> None:
    data = bytes(PPP() / IP(src="10.0.0.1", dst="10.0.0.2") / TCP(sport=1000, dport=80, flags="S"))
    found = dissect(Frame(5, PPP_LINK, data, len(data)), Counter())
    assert found is not None
    assert (found.source_port, found.destination_port, found.flags, found.wire_bytes) == (1000, 80, SYN, len(data))
    data = bytes(PPP() / IP() / UDP(sport=1, dport=53))
    found = dissect(Frame(5, PPP_LINK, data, len(data)), Counter())
    assert found is not None
    assert found.flags == 0


def test_what_it_cannot_read_is_counted() -> None:
    skipped: Counter[str] = Counter()
    assert dissect(Frame(0, 9999, b"x", 1), skipped) is None
    assert dissect(Frame(0, PPP_LINK, bytes(PPP() / GRE()), 9), skipped) is None
    assert dissect(Frame(0, PPP_LINK, b"", 0), skipped) is None
    assert sum(skipped.values()) == 3
