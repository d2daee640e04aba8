import ipaddress
import pathlib
import random
import struct
import subprocess
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learner import bpf
from learner.bpf import Joined, Not, Primitive, compile_program, parse
from learner.packets import TCP, TUNNEL_PORTS, UDP, Frame
from learner.packets import parse as parse_packet
from mesh.problems import Invalid
from tests.learner.captures import packet, pcap, save
from tests.learner.cbpf import run
from tests.learner.test_packets import TCP_HEADER, UDP_HEADER, V4, V6, ether, ipv4, ipv6, tunnel
from tests.tools import needs

ETHERNET = 1


def kept(program: bytes, data: bytes, *, hatype: int = ETHERNET, pkttype: int = 0) -> int:
    """What the kernel would keep of an Ethernet frame."""
    kind = int.from_bytes(data[12:14], "big")
    return run(program, data, {bpf.AD_PROTOCOL: kind, bpf.AD_HATYPE: hatype, bpf.AD_PKTTYPE: pkttype})


def takes(text: str, data: bytes) -> bool:
    return kept(compile_program(text, network_at=14, snaplen=128), data) == 128


SYN4, SYN6 = ether(0x0800, V4), ether(0x86DD, V6)
ACK4 = ether(0x0800, ipv4(TCP_HEADER[:13] + b"\x10" + TCP_HEADER[14:]))
DNS4, DNS6 = ether(0x0800, ipv4(UDP_HEADER, UDP)), ether(0x86DD, ipv6(UDP_HEADER, UDP))
LATER = ether(0x0800, ipv4(TCP_HEADER, TCP, 5))
OPTIONS = ether(0x0800, ipv4(TCP_HEADER, options=bytes(8)))
TAGGED = ether(0x8100, b"\0\7\x08\0" + V4)
TWICE = ether(0x88A8, b"\0\7\x81\0\0\7\x86\xdd" + V6)
FRAGMENT6 = ether(0x86DD, ipv6(bytes([TCP, 0, 0, 1]) + bytes(4) + TCP_HEADER, 44))


@pytest.mark.parametrize(
    ("text", "yes", "no"),
    [
        ("", [SYN4, DNS6, LATER, ether(0x0806, bytes(28))], []),
        ("ip", [SYN4, LATER, TAGGED], [SYN6, TWICE]),
        ("ip6", [SYN6, TWICE], [SYN4]),
        ("tcp", [SYN4, SYN6, LATER, FRAGMENT6, TAGGED, TWICE], [DNS4, DNS6]),
        ("udp", [DNS4, DNS6], [SYN4, FRAGMENT6]),
        ("port 80", [SYN4, SYN6, OPTIONS, TAGGED, TWICE], [DNS4, LATER]),
        ("port 53 or src port 1000", [DNS4, SYN4], [LATER]),
        ("dst port 1000", [], [SYN4, DNS6]),
        ("tcp port 53", [], [DNS4, SYN4]),
        ("udp dst portrange 50-60", [DNS4, DNS6], [SYN4]),
        ("portrange 81-999", [], [SYN4, SYN6]),
        ("host 10.0.0.1", [SYN4, TAGGED], [SYN6]),
        ("src host 10.0.0.2", [], [SYN4]),
        ("dst host 10.0.0.2", [SYN4, LATER], [SYN6]),
        ("net 10.0.0.0/8", [SYN4], [SYN6]),
        ("dst net ::/127", [], [SYN6]),
        ("host ::2", [SYN6, TWICE], [SYN4]),
        ("net 0.0.0.0/0", [SYN4], [SYN6]),
        ("control", [SYN4, SYN6, OPTIONS], [ACK4, LATER, DNS4]),
        ("not control and tcp", [ACK4, LATER], [SYN4]),
        ("!(tcp && port 80)", [DNS4, LATER], [SYN4, SYN6]),
        ("not not udp || ip6", [DNS4, SYN6], [SYN4]),
    ],
)
def test_a_filter_takes_what_it_says(text: str, yes: list[bytes], no: list[bytes]) -> None:
    assert [takes(text, data) for data in yes] == [True] * len(yes)
    assert [takes(text, data) for data in no] == [False] * len(no)


@pytest.mark.parametrize(
    "text",
    [
        "tcp and", "and tcp", "tcp udp", "(tcp", "tcp)", "port", "port http", "port 65536", "port -1", "portrange 9-1",
        "portrange 1", "host", "host example.test", "host 10.0.0.0/8", "net 10.0.0.1/8", "tcp host 10.0.0.1",
        "ether src x", "tcp and udp or ip",
        "tcp[13] & 2 != 0", "vlan 7", "less 100", "()", "not", "port 80 or 443", "src tcp port 1",
        "not " * 100 + "tcp", "(" * 100 + "tcp" + ")" * 100, " or ".join(["tcp"] * 65),
        "tcp " * 2000, "tcp\u00a0\u2028;",
    ],
)  # fmt: skip
def test_what_is_no_filter_is_refused_with_its_reason(text: str) -> None:
    with pytest.raises(Invalid, match="LM4053") as found:
        compile_program(text, network_at=14, snaplen=128)
    assert found.value.facts["reason"]


def test_what_loopback_sends_is_seen_once() -> None:
    program = compile_program("", network_at=14, snaplen=128)
    out, into = bpf.OUTGOING, 0
    assert kept(program, SYN4, hatype=bpf.HATYPE_LOOPBACK, pkttype=out) == 0
    assert kept(program, SYN4, hatype=bpf.HATYPE_LOOPBACK, pkttype=into) == 128
    assert kept(program, SYN4, pkttype=out) == 128


def test_without_a_link_layer_the_network_begins_at_once() -> None:
    program = compile_program("port 80", network_at=0, snaplen=96)
    ancillary = {bpf.AD_PROTOCOL: 0x0800, bpf.AD_HATYPE: 512, bpf.AD_PKTTYPE: 0}
    assert run(program, V4, ancillary) == 96
    assert run(program, ipv4(UDP_HEADER, UDP), ancillary) == 0


PRIMITIVES = st.one_of(
    st.sampled_from(["ip", "ip6", "tcp", "udp", "control"]),
    st.builds(
        "{}{}{} {}".format,
        st.sampled_from(["", "tcp ", "udp "]),
        st.sampled_from(["", "src ", "dst "]),
        st.just("port"),
        st.sampled_from([80, 443, 1001, 1003, 4789]),
    ),
    st.builds("{}portrange {}-1002".format, st.sampled_from(["", "src ", "dst "]), st.sampled_from([0, 80, 1001])),
    st.builds("{}net 10.0.0.{}/30".format, st.sampled_from(["", "src ", "dst "]), st.sampled_from([0, 4])),
    st.builds("{}host ::{}".format, st.sampled_from(["", "src ", "dst "]), st.integers(0, 5)),
)
FILTERS = st.recursive(
    PRIMITIVES,
    lambda inner: st.one_of(
        st.builds("not ({})".format, inner),
        st.builds("({}) and ({})".format, inner, inner),
        st.builds("({}) or ({}) or ({})".format, inner, inner, inner),
    ),
    max_leaves=6,
)


def means(found: object, data: bytes) -> bool:
    """What an expression says of a network layer packet, by the reader of headers that captures are read with."""
    if isinstance(found, Not):
        return not means(found.inner, data)
    if isinstance(found, Joined):
        return (all if found.word == "and" else any)(means(part, data) for part in found.parts)
    assert isinstance(found, Primitive)
    is_six = data[0] >> 4 == 6
    if found.kind in {"ip", "ip6"}:
        return is_six == (found.kind == "ip6")
    protocol = data[6] if is_six else data[9]
    if found.kind in {"tcp", "udp"}:
        return protocol == (TCP if found.kind == "tcp" else UDP)
    if found.net is not None:
        size, at = (16, 8) if is_six else (4, 12)
        ends = {"src": data[at : at + size], "dst": data[at + size : at + 2 * size]}
        return any(ipaddress.ip_address(end) in found.net for side, end in ends.items() if found.side in {"", side})
    header = data[40:] if is_six else data[(data[0] & 15) * 4 :]
    if protocol not in {TCP, UDP} or (not is_six and struct.unpack("!H", data[6:8])[0] & 0x1FFF):
        return False
    if found.kind == "control":
        return protocol == TCP and bool(header[13] & 7)
    if found.protocol and protocol != (TCP if found.protocol == "tcp" else UDP):
        return False
    ports = dict(zip(("src", "dst"), struct.unpack("!HH", header[:4]), strict=True))
    return any(found.low <= port <= found.high for side, port in ports.items() if found.side in {"", side})


def whole(seed: int, count: int) -> list[bytes]:
    """Packets with all their bytes, of both families."""
    chance = random.Random(seed)
    out = []
    while len(out) < count:
        data = packet(chance)
        if len(data) >= 60:
            out.append(data)
    return out


@settings(max_examples=60)
@given(FILTERS, st.integers(0, 1000))
def test_the_program_means_what_the_words_mean(text: str, seed: int) -> None:
    tree = parse(text)
    for data in whole(seed, 12):
        kind = 0x86DD if data[0] >> 4 == 6 else 0x0800
        assert takes(text, ether(kind, data)) == means(tree, data), (text, data.hex())


@pytest.mark.peer
@needs("tcpdump")
@pytest.mark.parametrize(
    "text",
    [
        "tcp", "udp", "ip", "ip6", "port 80", "src port 443", "udp port 80", "dst portrange 1001-1003", "host 10.0.0.1",
        "src net 10.0.0.0/30", "dst host ::2", "net ::/126", "not port 80", "tcp and not (port 80 or dst host ::1)",
        "(udp or ip6) and net 10.0.0.0/8", "!ip && tcp dst port 80",
    ],
)  # fmt: skip
def test_tcpdump_takes_the_same_packets_by_the_same_words(text: str, tmp_path: pathlib.Path) -> None:
    frames = [ether(0x86DD if data[0] >> 4 == 6 else 0x0800, data) for data in whole(3, 300)]
    path = save(tmp_path / "x.pcap", pcap("<", 1, frames))
    other = tmp_path / "out.pcap"
    subprocess.run(["tcpdump", "-n", "-r", path, "-w", other, text], check=True, capture_output=True)
    mine = save(tmp_path / "mine.pcap", pcap("<", 1, [data for data in frames if takes(text, data)]))

    def bodies(path: pathlib.Path) -> list[bytes]:
        from learner.packets import read_frames

        with path.open("rb") as file:
            return [frame.data for frame in read_frames(file, "x")]

    assert bodies(other) == bodies(mine)
    assert 0 < len(bodies(other)) < 300


def pair(seed: int, *, is_six: bool, ports: tuple[int, int], protocol: int = TCP) -> tuple[bytes, bytes]:
    """A packet of a flow, and one of its other direction."""
    chance = random.Random(seed)
    ends = [chance.randbytes(16 if is_six else 4) for _ in range(2)]
    out = []
    for (source, destination), order in ((ends, ports), (ends[::-1], ports[::-1])):
        header = struct.pack("!HH", *order) + (TCP_HEADER[4:] if protocol == TCP else UDP_HEADER[4:])
        data = bytearray(ipv6(header, protocol) if is_six else ipv4(header, protocol))
        at, size = (8, 16) if is_six else (12, 4)
        data[at : at + 2 * size] = source + destination
        out.append(ether(0x86DD if is_six else 0x0800, bytes(data)))
    return out[0], out[1]


@settings(max_examples=60)
@given(st.integers(0, 10**6), st.booleans(), st.integers(2, 64), st.integers(0, 2**32 - 1), st.sampled_from([TCP, UDP]))
def test_both_directions_of_a_flow_are_kept_or_neither(
    flow: int, is_six: bool, one_in: int, seed: int, protocol: int
) -> None:
    there, back = pair(flow, is_six=is_six, ports=(flow % 60000, 443), protocol=protocol)
    program = compile_program("", network_at=14, snaplen=128, one_in=one_in, seed=seed)
    assert kept(program, there) == kept(program, back)


@pytest.mark.parametrize("is_six", [False, True])
def test_one_of_so_many_flows_is_kept_and_the_seed_says_which(is_six: bool) -> None:
    flows = [pair(flow, is_six=is_six, ports=(1024 + flow, 443))[0] for flow in range(1000)]
    chosen = []
    for seed in (1, 2):
        program = compile_program("", network_at=14, snaplen=128, one_in=8, seed=seed)
        chosen.append([at for at, data in enumerate(flows) if kept(program, data)])
        # 125 are expected; six standard deviations of a fair draw
        assert 62 < len(chosen[-1]) < 188
    assert len(set(chosen[0]) & set(chosen[1])) < 62


def test_flows_that_differ_in_one_port_alone_are_told_apart() -> None:
    program = compile_program("", network_at=14, snaplen=128, one_in=4, seed=9)
    counts = Counter(kept(program, pair(1, is_six=False, ports=(port, 443))[0]) > 0 for port in range(30000, 30800))
    assert 127 < counts[True] < 273


@pytest.mark.parametrize("port", TUNNEL_PORTS)
def test_a_tunnel_is_one_flow_whatever_its_callers_ports_are(port: int) -> None:
    program = compile_program("", network_at=14, snaplen=128, one_in=2, seed=5)
    found = {
        kept(program, ether(0x0800, ipv4(struct.pack("!HHHH", sport, port, 8, 0), UDP))) for sport in range(1000, 1100)
    }
    assert len(found) == 1


def test_every_packet_of_a_fragmented_datagram_that_has_ports_goes_with_its_flow() -> None:
    program = compile_program("", network_at=14, snaplen=128, one_in=16, seed=5)
    for flow in range(64):
        plain = pair(flow, is_six=True, ports=(2000, 53), protocol=UDP)[0]
        first = bytearray(plain[:54] + bytes([UDP, 0, 0, 1, 0, 0, 0, 1]) + plain[54:])
        first[20] = 44
        assert kept(program, bytes(first)) == kept(program, plain)


def test_what_a_sampled_capture_keeps_is_still_filtered() -> None:
    program = compile_program("udp", network_at=14, snaplen=128, one_in=2, seed=5)
    assert {kept(program, pair(flow, is_six=False, ports=(9, 9))[0]) for flow in range(40)} == {0}


def test_the_parser_of_captures_agrees_on_the_ports() -> None:
    for data in whole(11, 200):
        skipped: Counter[str] = Counter()
        packets = parse_packet(Frame(0, 101, data, len(data)), skipped)
        if packets and data[0] >> 4 == 4:
            assert takes(f"src port {packets[0].source_port}", ether(0x0800, data))


def test_tunnels_are_filtered_by_their_outside() -> None:
    inside = tunnel(4789, b"\x08" + bytes(7) + SYN4)
    data = ether(0x0800, ipv4(inside, UDP))
    assert takes("port 4789", data)
    assert not takes("port 80", data)
