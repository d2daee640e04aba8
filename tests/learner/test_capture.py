import io
import pathlib
import re
import struct
import subprocess
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learner import walk
from learner.capture import Capture
from mesh.problems import Invalid
from tests.learner.captures import LINKS, fast, pcap, pcapng, reference, save, some
from tests.learner.test_packets import block
from tests.tools import needs


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts so small that several are walked at once."""
    monkeypatch.setattr(walk, "PART_BYTES", 1024)
    monkeypatch.setattr(walk, "LOOK_BYTES", 256)


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("nanoseconds", [False, True], ids=["us", "ns"])
def test_the_fast_table_is_the_slow_one(link: int, order: str, *, nanoseconds: bool) -> None:
    data = pcap(order, link, some(link, 800, link), nanoseconds=nanoseconds)
    rows, skipped = fast(data)
    assert (rows, skipped) == reference(data)
    assert len(rows) > 50
    assert fast(data, 1 << 22)[0] == rows


@pytest.mark.parametrize("order", ["<", ">"])
def test_pcapng_of_several_interfaces_and_sections_is_read_alike(order: str) -> None:
    kinds = [1, 101, 276]
    packets = [item for at, link in enumerate(kinds) for item in [(at, data) for data in some(at, 300, link)]]
    packets = packets[::3] + packets[1::3] + packets[2::3]
    other = ">" if order == "<" else "<"
    data = pcapng(order, kinds, packets) + pcapng(other, [1], [(0, item) for item in some(9, 300, 1)])
    rows, skipped = fast(data, 5000)
    assert (rows, skipped) == reference(data)


def test_what_interfaces_dropped_and_packets_without_times_are_counted() -> None:
    def statistics(dropped: int) -> bytes:
        options = struct.pack("<HHQHHQ", 5, 8, dropped, 7, 8, 1) + struct.pack("<HH", 0, 0)
        return block("<", 5, struct.pack("<III", 0, 0, 0) + options)

    data = pcapng("<", [101], [(0, item) for item in some(1, 5, 101)]) + statistics(3) + statistics(7)
    data += block("<", 3, struct.pack("<I", 4) + b"abcd") + block("<", 6, struct.pack("<IIIII", 9, 0, 0, 0, 0))
    skipped: Counter[str] = Counter()
    capture = Capture("x", skipped)
    capture.read(io.BufferedReader(io.BytesIO(data)))  # type: ignore[arg-type]  # BytesIO is raw enough
    assert capture.dropped == {0: 8}
    assert skipped["without a time"] == 1
    assert skipped["malformed"] >= 1


@settings(max_examples=30)
@given(st.integers(0, 10**9), st.sampled_from(LINKS), st.sampled_from(["pcap", "pcapng"]), st.data())
def test_damaged_captures_are_read_alike_or_refused_alike(seed: int, link: int, kind: str, data: st.DataObject) -> None:
    packets = some(seed, 40, link)
    whole = bytearray(
        pcap("<", link, packets) if kind == "pcap" else pcapng("<", [link], [(0, item) for item in packets])
    )
    for _ in range(data.draw(st.integers(0, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    damaged = bytes(whole[: data.draw(st.integers(len(whole) // 2, len(whole)))])
    try:
        expected = reference(damaged)
    except Invalid as found:
        assert found.code == "LM4010"
        with pytest.raises(Invalid, match="LM4010"):
            fast(damaged, 2000)
        return
    try:
        rows, _ = fast(damaged, 2000)
    except Invalid as found:
        # the fast path looks at both lengths of a block of pcapng, the reference at the first
        assert kind == "pcapng"
        assert found.code == "LM4010"
    else:
        assert rows == expected[0]


def theirs(path: pathlib.Path, protocol: str) -> Counter[tuple[str, str, int, int]]:
    """tshark's conversations: it does not put fragments together, as their first ones have the ports."""
    options = ["-o", "ip.defragment:FALSE", "-o", "ipv6.defragment:FALSE", "-n"]
    command = ["tshark", "-r", path, *options, "-q", "-z", f"conv,{protocol}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    line = r"^(\S+)\s+<->\s+(\S+)(?:\s+\d+\s+\d+ \w+){2}\s+(\d+)\s+(\d+) bytes"
    return Counter(
        (*sorted((match[1], match[2])), int(match[3]), int(match[4]))
        for match in re.finditer(line, done.stdout, re.MULTILINE)
    )  # type: ignore[misc]  # two texts and two numbers


def ours(data: bytes, protocol: str) -> Counter[tuple[str, str, int, int]]:
    return Counter(
        (
            *sorted((f"{row.source_ip}:{row.source_port}", f"{row.destination_ip}:{row.destination_port}")),
            row.packets,
            row.bytes,
        )
        for row in fast(data)[0]
        if row.protocol == protocol
    )  # type: ignore[misc]  # two texts and two numbers


def made_by_scapy() -> list[bytes]:
    from scapy.contrib.geneve import GENEVE
    from scapy.layers.inet import ICMP, IP, TCP, UDP
    from scapy.layers.inet6 import (
        IPv6,
        IPv6ExtHdrDestOpt,
        IPv6ExtHdrFragment,
        IPv6ExtHdrHopByHop,
        IPv6ExtHdrRouting,
    )
    from scapy.layers.l2 import ARP, Dot1AD, Dot1Q, Ether
    from scapy.layers.vxlan import VXLAN
    from scapy.packet import Packet, Raw

    head = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
    v4, v6 = IP(src="10.0.0.1", dst="10.0.0.2"), IPv6(src="2001:db8::1", dst="2001:db8::2")
    back = IP(src="10.0.0.2", dst="10.0.0.1")
    chunk = Raw(b"x" * 30)
    out: list[Packet] = []
    for port, under in enumerate(
        [
            head / v4,
            head / Dot1Q(vlan=7) / v4,
            head / Dot1AD(vlan=7) / Dot1Q(vlan=8) / v4,
            head / v6,
            head / Dot1Q(vlan=9) / v6,
            head / v6 / IPv6ExtHdrHopByHop(),
            head / v6 / IPv6ExtHdrDestOpt() / IPv6ExtHdrRouting(),
            head / v6 / IPv6ExtHdrFragment(offset=0, m=1, id=5),
            head / IP(src="10.0.0.1", dst="10.0.0.2", options=[("NOP"), ("NOP"), ("NOP"), ("EOL")]),
            head
            / v4
            / UDP(sport=5555, dport=4789, chksum=0)
            / VXLAN(vni=42, flags=8)
            / head
            / IP(src="10.1.0.1", dst="10.1.0.2"),
            head
            / v4
            / UDP(sport=5556, dport=6081, chksum=0)
            / GENEVE(vni=42)
            / head
            / IP(src="10.2.0.1", dst="10.2.0.2"),
            head / IP(src="10.3.0.1", dst="10.3.0.2", proto=4) / IP(src="10.4.0.1", dst="10.4.0.2"),
        ]
    ):
        out += [
            under / TCP(sport=20000 + port, dport=80, flags=flags, seq=1) / chunk for flags in ("S", "A", "PA", "FA")
        ]
        out += [under / UDP(sport=30000 + port, dport=9999) / chunk]
    # the same sockets again: another conversation, to tshark too
    for seq in (100, 90000):
        out += [
            head / v4 / TCP(sport=41000, dport=81, flags="S", seq=seq),
            head / back / TCP(sport=81, dport=41000, flags="SA", seq=7, ack=seq + 1),
            head / v4 / TCP(sport=41000, dport=81, flags="A", seq=seq + 1, ack=8),
            head / v4 / TCP(sport=41000, dport=81, flags="FA", seq=seq + 1, ack=8),
            head / back / TCP(sport=81, dport=41000, flags="FA", seq=8, ack=seq + 2),
            head / v4 / TCP(sport=41000, dport=81, flags="A", seq=seq + 2, ack=9),
        ]
    out += [head / ARP(), head / v4 / ICMP()]
    big = head / v4 / UDP(sport=31000, dport=9998) / Raw(b"y" * 3000)
    from scapy.layers.inet import fragment

    out += fragment(big, 1000)
    return [bytes(item) for item in out]


@pytest.mark.peer
@needs("tshark")
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_the_table_is_tsharks_for_every_kind_of_header(order: str, protocol: str, tmp_path: pathlib.Path) -> None:
    data = pcap(order, 1, made_by_scapy(), nanoseconds=order == ">")
    expected = theirs(save(tmp_path / "x.pcap", data), protocol)
    assert ours(data, protocol) == expected
    assert sum(expected.values()) >= 12


@pytest.mark.peer
@needs("tshark")
@pytest.mark.parametrize("link", [101, 113, 276, 0, 108])
def test_the_table_is_tsharks_for_every_link_type(link: int, tmp_path: pathlib.Path) -> None:
    packets = []
    for whole in made_by_scapy()[:5] + made_by_scapy()[15:20]:
        inner = whole[14:]
        kind = whole[12:14]
        heads = {101: b"", 113: bytes(14) + kind, 276: kind + bytes(18)}
        family = 2 if kind == b"\x08\0" else 24
        heads[0], heads[108] = struct.pack("<I", family), struct.pack(">I", family)
        packets.append(heads[link] + inner)
    data = pcap("<", link, packets)
    path = save(tmp_path / "x.pcap", data)
    for protocol in ("tcp", "udp"):
        expected = theirs(path, protocol)
        assert ours(data, protocol) == expected
        assert sum(expected.values()) == 2


@pytest.mark.peer
@needs("tshark")
def test_the_table_is_tsharks_where_packets_were_cut_and_interfaces_differ(tmp_path: pathlib.Path) -> None:
    packets = [(index % 2, item[: 96 if index % 3 else 40]) for index, item in enumerate(made_by_scapy())]
    data = pcapng("<", [1, 1], packets)
    path = save(tmp_path / "x.pcapng", data)
    assert ours(data, "tcp") == theirs(path, "tcp")
    assert fast(data)[1]["cut short"] > 0
