import io
import struct
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner.packets import ACK, SYN, TCP, UDP, Frame, address, parse, read_frames
from mesh.problems import Invalid

TCP_HEADER = struct.pack("!HHIIBBHHH", 1000, 80, 0, 0, 0x50, SYN, 0, 0, 0)
UDP_HEADER = struct.pack("!HHHH", 1000, 53, 8, 0)


def tunnel(port: int, payload: bytes) -> bytes:
    return struct.pack("!HHHH", 1000, port, 8 + len(payload), 0) + payload


def ipv4(payload: bytes, protocol: int = TCP, fragment: int = 0, options: bytes = b"") -> bytes:
    length = 20 + len(options)
    head = struct.pack("!BBHHHBBH", 0x40 | length // 4, 0, length + len(payload), 0, fragment, 64, protocol, 0)
    return head + bytes([10, 0, 0, 1]) + bytes([10, 0, 0, 2]) + options + payload


def ipv6(payload: bytes, following: int = TCP) -> bytes:
    return (
        struct.pack("!IHBB", 6 << 28, len(payload), following, 64) + bytes(15) + b"\x01" + bytes(15) + b"\x02" + payload
    )


def ether(kind: int, payload: bytes) -> bytes:
    return bytes(12) + struct.pack("!H", kind) + payload


def found(link: int, data: bytes) -> object:
    skipped: Counter[str] = Counter()
    packets = parse(Frame(5, link, data, len(data)), skipped)
    if not packets:
        return next(iter(skipped))
    facts = [(item.source_port, item.destination_port, item.protocol, item.flags) for item in packets]
    return facts[0] if len(facts) == 1 else facts


V4, V6 = ipv4(TCP_HEADER), ipv6(TCP_HEADER)


@pytest.mark.parametrize(
    ("link", "data", "expected"),
    [
        pytest.param(1, ether(0x0800, V4), (1000, 80, TCP, SYN), id="ethernet-ipv4"),
        pytest.param(1, ether(0x86DD, V6), (1000, 80, TCP, SYN), id="ethernet-ipv6"),
        pytest.param(1, ether(0x8100, b"\0\1\x08\0" + V4), (1000, 80, TCP, SYN), id="vlan"),
        pytest.param(1, ether(0x88A8, b"\0\1\x81\0\0\2\x08\0" + V4), (1000, 80, TCP, SYN), id="qinq"),
        pytest.param(113, bytes(14) + b"\x08\0" + V4, (1000, 80, TCP, SYN), id="linux-cooked"),
        pytest.param(276, b"\x86\xdd" + bytes(18) + V6, (1000, 80, TCP, SYN), id="linux-cooked-2"),
        pytest.param(101, V4, (1000, 80, TCP, SYN), id="raw-ipv4"),
        pytest.param(12, V6, (1000, 80, TCP, SYN), id="raw-ipv6"),
        pytest.param(0, b"\2\0\0\0" + V4, (1000, 80, TCP, SYN), id="null"),
        pytest.param(108, b"\0\0\0\x18" + V6, (1000, 80, TCP, SYN), id="loop"),
        pytest.param(101, ipv4(UDP_HEADER, UDP), (1000, 53, UDP, 0), id="udp"),
        pytest.param(101, ipv4(TCP_HEADER, options=bytes(8)), (1000, 80, TCP, SYN), id="ip-options"),
        pytest.param(101, ipv6(b"\x06\0" + bytes(6) + TCP_HEADER, 0), (1000, 80, TCP, SYN), id="hop-by-hop"),
        pytest.param(101, ipv6(b"\x06\0\0\0\0\0\0\1" + TCP_HEADER, 44), (1000, 80, TCP, SYN), id="first-fragment-v6"),
        pytest.param(101, ipv6(b"\x06\0\0\x10\0\0\0\1" + TCP_HEADER, 44), "later fragment", id="later-fragment-v6"),
        pytest.param(101, ipv4(TCP_HEADER, fragment=0x2000), (1000, 80, TCP, SYN), id="first-fragment"),
        pytest.param(101, ipv4(TCP_HEADER, fragment=5), "later fragment", id="later-fragment"),
        pytest.param(101, ipv6(b"\x06\x01" + bytes(10) + TCP_HEADER, 51), (1000, 80, TCP, SYN), id="authentication"),
        pytest.param(101, ipv4(V4, 4), (1000, 80, TCP, SYN), id="ip-in-ip"),
        pytest.param(101, ipv4(V6, 41), (1000, 80, TCP, SYN), id="6-in-4"),
        pytest.param(113, bytes(14) + b"\x81\0\0\1\x08\0" + V4, (1000, 80, TCP, SYN), id="linux-cooked-vlan"),
        pytest.param(
            101,
            ipv4(tunnel(4789, b"\x08" + bytes(7) + ether(0x0800, V4)), UDP),
            [(1000, 4789, UDP, 0), (1000, 80, TCP, SYN)],
            id="vxlan",
        ),
        pytest.param(
            101,
            ipv4(tunnel(6081, b"\x01\0\x65\x58" + bytes(8) + ether(0x8100, b"\0\1\x86\xdd" + V6)), UDP),
            [(1000, 6081, UDP, 0), (1000, 80, TCP, SYN)],
            id="geneve-with-an-option-and-vlan",
        ),
        pytest.param(
            101,
            ipv4(tunnel(6081, b"\0\0\x08\0" + bytes(4) + V4), UDP),
            [(1000, 6081, UDP, 0), (1000, 80, TCP, SYN)],
            id="geneve-of-ip",
        ),
        pytest.param(101, ipv4(tunnel(4789, b"\0" * 30), UDP), (1000, 4789, UDP, 0), id="vxlan-without-its-flag"),
        pytest.param(101, ipv4(tunnel(6081, b"\xc0" + bytes(30)), UDP), (1000, 6081, UDP, 0), id="geneve-of-later"),
        pytest.param(101, ipv4(TCP_HEADER[:12] + b"\x10" + TCP_HEADER[13:]), "malformed", id="tcp-header-too-short"),
        pytest.param(101, ipv4(struct.pack("!HHHH", 1, 2, 7, 0), UDP), "malformed", id="udp-length-too-short"),
        pytest.param(101, ipv4(b"", 1), "neither TCP nor UDP", id="icmp"),
        pytest.param(101, ipv4(TCP_HEADER)[:26], "cut short", id="snaplen-cut"),
        pytest.param(1, ether(0x0806, bytes(28)), "not IP", id="arp"),
        pytest.param(1, b"", "cut short", id="empty"),
        pytest.param(101, b"\x41" + V4[1:], "malformed", id="header-too-short"),
        pytest.param(101, ipv6(b"\0\0" * 40, 0), "malformed", id="endless-extensions"),
        pytest.param(147, b"x", "link type 147", id="unknown-link"),
    ],
)
def test_headers_of_every_kind(link: int, data: bytes, expected: object) -> None:
    assert found(link, data) == expected


def pcap(order: str = "<", magic: int = 0xA1B2C3D4, fraction: int = 7, *frames: bytes) -> bytes:
    head = struct.pack(f"{order}IHHiIII", magic, 2, 4, 0, 0, 65535, 101)
    return head + b"".join(struct.pack(f"{order}IIII", 3, fraction, len(f), len(f) + 10) + f for f in frames)


@pytest.mark.parametrize(
    ("order", "magic", "ns"),
    [("<", 0xA1B2C3D4, 7000), (">", 0xA1B2C3D4, 7000), ("<", 0xA1B23C4D, 7), (">", 0xA1B23C4D, 7)],
)
def test_pcap_in_both_byte_orders_and_resolutions(order: str, magic: int, ns: int) -> None:
    frames = list(read_frames(io.BytesIO(pcap(order, magic, 7, V4, V6)), "x"))
    assert [(f.time_ns, f.link, f.data, f.wire_bytes) for f in frames] == [
        (3_000_000_000 + ns, 101, V4, len(V4) + 10),
        (3_000_000_000 + ns, 101, V6, len(V6) + 10),
    ]


def block(order: str, kind: int, body: bytes) -> bytes:
    body += bytes(-len(body) % 4)
    size = len(body) + 12
    return struct.pack(f"{order}II", kind, size) + body + struct.pack(f"{order}I", size)


def pcapng(order: str = "<", options: bytes = b"") -> bytes:
    section = block(order, 0x0A0D0D0A, struct.pack(f"{order}IHHq", 0x1A2B3C4D, 1, 0, -1))
    interface = block(order, 1, struct.pack(f"{order}HHI", 101, 0, 0) + options)
    packet = block(order, 6, struct.pack(f"{order}IIIII", 0, 0, 5, len(V4), len(V4)) + V4)
    return section + interface + block(order, 99, b"abc") + packet


@pytest.mark.parametrize("order", ["<", ">"])
def test_pcapng_in_both_byte_orders(order: str) -> None:
    frames = list(read_frames(io.BytesIO(pcapng(order)), "x"))
    assert [(f.time_ns, f.data) for f in frames] == [(5000, V4)]
    nanoseconds = struct.pack(f"{order}HHB3x", 9, 1, 9)
    assert next(iter(read_frames(io.BytesIO(pcapng(order, nanoseconds)), "x"))).time_ns == 5
    again = list(read_frames(io.BytesIO(pcapng(order) + pcapng(">" if order == "<" else "<")), "x"))
    assert len(again) == 2


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"abcd",
        pcap()[:10],
        pcap("<", 0xA1B2C3D4, 7, V4)[:-1],
        pcap() + struct.pack("<IIII", 0, 0, 1 << 30, 0),
        pcap() + b"\0" * 5,
        pcapng()[:-1],
        pcapng()[:20],
        pcapng() + b"\1",
        pcapng() + struct.pack("<II", 6, 7),
        b"\x0a\x0d\x0d\x0a" + bytes(8),
    ],
    ids=lambda data: f"{len(data)}-bytes",
)
def test_a_file_that_breaks_off_or_is_none_is_a_problem(data: bytes) -> None:
    with pytest.raises(Invalid, match="LM4010"):
        list(read_frames(io.BytesIO(data), "x"))


def test_addresses_have_one_spelling() -> None:
    assert address(bytes([10, 0, 0, 1])) == "10.0.0.1"
    assert address(bytes(15) + b"\x01") == "::1"
    assert address(bytes(10) + b"\xff\xff" + bytes([10, 0, 0, 1])) == "10.0.0.1"
    assert ACK


@given(st.binary(max_size=200), st.sampled_from(["", "pcap", "pcapng"]))
def test_any_bytes_are_read_or_a_problem(data: bytes, begin: str) -> None:
    head = {"": b"", "pcap": pcap(), "pcapng": pcapng()}[begin]
    try:
        for frame in read_frames(io.BytesIO(head + data), "x"):
            parse(frame, Counter())
    except Invalid as err:
        assert err.code == "LM4010"


@given(st.binary(max_size=120), st.sampled_from([0, 1, 12, 101, 108, 113, 276, 999]))
def test_any_frame_is_a_packet_or_counted(data: bytes, link: int) -> None:
    skipped: Counter[str] = Counter()
    packets = parse(Frame(0, link, data, len(data)), skipped)
    # what is in a tunnel may be counted as well as the tunnel itself
    assert sum(skipped.values()) <= 1
    assert packets or skipped
