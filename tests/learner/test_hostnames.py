import io
import random
import struct
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner import hostnames
from learner.capture import Capture
from learner.hostnames import Hostnames
from mesh import dnswire
from tests.learner.captures import linked
from tests.learner.sources.accounts import DATA, read
from tests.learner.test_packets import ipv4, ipv6
from tests.mesh.test_clienthello import hello
from tests.mesh.test_dnswire import overheard

CALLER, RESOLVER, PEER, OTHER = (bytes([10, 0, 0, last]) for last in (1, 53, 7, 8))


def udp(ports: tuple[int, int], payload: bytes) -> bytes:
    return struct.pack("!HHHH", *ports, 8 + len(payload), 0) + payload


def tcp(ports: tuple[int, int], payload: bytes = b"", flags: int = 0x18) -> bytes:
    return struct.pack("!HHIIBBHHH", *ports, 1, 1, 0x50, flags, 0, 0, 0) + payload


def sent(source: bytes, destination: bytes, payload: bytes, protocol: int = 6) -> bytes:
    if len(source) == 4:
        data = bytearray(ipv4(payload, protocol))
        data[12:20] = source + destination
    else:
        data = bytearray(ipv6(payload, protocol))
        data[8:40] = source + destination
    return bytes(data)


def answered(name: str, *addresses: bytes, ttl: int = 300, to: bytes = CALLER) -> bytes:
    kind = dnswire.A if len(addresses[0]) == 4 else dnswire.AAAA
    message = overheard(name, kind, *((kind, ttl, item) for item in addresses))
    return sent(RESOLVER[:2] + bytes(len(to) - 4) + RESOLVER[2:], to, udp((53, 40000), message), 17)


def begun(port: int = 50000, peer: bytes = PEER, caller: bytes = CALLER) -> bytes:
    return sent(caller, peer, tcp((port, 443), flags=0x02))


def asked(name: str, port: int = 50000, peer: bytes = PEER) -> bytes:
    return sent(CALLER, peer, tcp((port, 443), hello(name)))


def names_of(*packets: tuple[float, bytes], link: int = 101) -> dict[str, str | None]:
    """The names of the TCP conversations of a capture, by the address and port of their called side."""
    capture = watched(*packets, link=link)
    return {
        f"{row.source_port}>{row.destination_ip}": capture.names.name_of(row)  # type: ignore[union-attr]  # it has some
        for row in capture.table.rows()
        if row.protocol == "tcp"
    }


def watched(*packets: tuple[float, bytes], link: int = 101) -> Capture:
    chance = random.Random(1)
    data = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, link)
    for time, packet in packets:
        frame = linked(link, packet, chance)
        data += struct.pack("<IIII", 1_780_000_000 + int(time), int(time % 1 * 1e6), len(frame), len(frame)) + frame
    capture = Capture("x", Counter(), names=Hostnames())
    capture.read(io.BufferedReader(io.BytesIO(data)))  # type: ignore[arg-type]  # BytesIO is raw enough
    return capture


def test_what_dig_openssl_and_curl_did_has_its_names_and_nothing_is_guessed() -> None:
    flows, _, _ = read(DATA / "names.pcap")
    assert [(flow.destination_ip, flow.host) for flow in flows if flow.protocol == "tcp"] == [
        ("203.0.113.7", "www.example.com"),
        ("2001:db8::7", "api.example.com"),
        # two names have this address, and the client said none
        ("203.0.113.8", None),
        ("203.0.113.8", "two.example.net"),
        # DNS had answered otherwise
        ("203.0.113.7", None),
        ("203.0.113.9", "plain.example.org"),
    ]
    assert {flow.host for flow in flows if flow.protocol == "udp"} == {None}


@pytest.mark.parametrize("link", [1, 113, 276, 0, 101])
def test_names_are_read_behind_any_link_layer_of_the_fast_path(link: int) -> None:
    found = names_of(
        (0, answered("api.test", PEER)),
        (1, begun()),
        (2, begun(50001, OTHER)),
        (3, asked("b.test", 50001, OTHER)),
        link=link,
    )
    assert found == {"50000>10.0.0.7": "api.test", "50001>10.0.0.8": "b.test"}


def test_ipv6_too() -> None:
    caller, peer = bytes(15) + b"\x01", bytes(15) + b"\x07"
    found = names_of((0, answered("api.test", peer, to=caller)), (1, begun(peer=peer, caller=caller)))
    assert found == {"50000>::7": "api.test"}


A, B = answered("a.test", PEER), answered("b.test", PEER)
ENDED = sent(CALLER, PEER, tcp((50000, 443), flags=4))


@pytest.mark.parametrize(
    ("packets", "name"),
    [
        pytest.param([(0, A), (400, begun())], None, id="ran-out"),
        pytest.param([(0, answered("a.test", PEER, ttl=0)), (59, begun())], "a.test", id="kept-for-a-minute"),
        pytest.param([(0, begun()), (1, A)], None, id="answered-too-late"),
        pytest.param([(0, answered("a.test", PEER, to=OTHER)), (1, begun())], None, id="told-to-somebody-else"),
        pytest.param([(0, A), (1, B), (2, begun())], None, id="two-names"),
        pytest.param(
            [(0, A), (1, B), (2, begun()), (3, asked("b.test"))], "b.test",
            id="two-names-and-the-one-that-was-asked-for",
        ),
        pytest.param([(0, A), (1, begun()), (2, asked("b.test"))], None, id="asked-for-another"),
        pytest.param([(0, begun()), (1, asked("a.test"))], "a.test", id="asked-for"),
        pytest.param([(0, asked("old.test")), (1, ENDED)], "old.test", id="ended"),
        pytest.param([(0, A), (250, A), (320, begun())], "a.test", id="renewed"),
        pytest.param([(0, answered("a b.test", PEER)), (1, begun())], None, id="no-name"),
        pytest.param([(0, begun()), (1, asked("a.test", 50001))], None, id="another-connection"),
    ],
)  # fmt: skip
def test_a_conversation_has_the_name_that_is_certain(packets: list[tuple[float, bytes]], name: str | None) -> None:
    assert names_of(*packets)["50000>10.0.0.7"] == name


def test_one_caller_takes_no_room_from_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hostnames, "MAX_OF_ONE", 3)
    monkeypatch.setattr(hostnames, "MAX_CALLERS", 2)
    many = [(0, answered(f"n{last}.test", bytes([192, 0, 2, last]))) for last in range(9)]
    late = [
        (1, answered("a.test", PEER, to=OTHER)),
        (2, begun(caller=OTHER)),
        (3, answered("a.test", PEER, to=RESOLVER)),
    ]
    hellos = [(4, asked(f"n{port}.test", port)) for port in range(50001, 50006)]
    capture = watched(*many, *late, *hellos)
    assert capture.names is not None
    assert capture.names.left_out == 6 + 1 + 2
    found = {row.source_ip: capture.names.name_of(row) for row in capture.table.rows() if row.source_ip == "10.0.0.8"}
    assert found == {"10.0.0.8": "a.test"}


@given(st.lists(st.tuples(st.booleans(), st.binary(max_size=60)), max_size=8), st.integers(0, 60))
def test_any_packets_are_named_or_not(payloads: list[tuple[bool, bytes]], cut: int) -> None:
    packets = [
        (
            0.0,
            sent(RESOLVER, CALLER, udp((53, 40000), data), 17)
            if is_dns
            else sent(CALLER, PEER, tcp((50000, 443), data)),
        )
        for is_dns, data in payloads
    ]
    names_of(*packets, (1, asked("a.test")[: 20 + cut]), (1, answered("a.test", PEER)[: 20 + cut]))
