import fcntl
import os
import shutil
import struct
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from learner.bpf import compile_program
from learner.capture import Capture
from learner.live import Ring
from learner.packets import UDP
from learner.ring import read_blocks
from mesh.problems import Invalid, NotFound
from tests.enforcer.test_guard import netns  # noqa: F401  a fixture
from tests.learner.test_packets import UDP_HEADER, V4, V6, ipv4

is_possible = os.geteuid() == 0 and shutil.which("ip") is not None and os.path.exists("/dev/net/tun")
pytestmark = [
    pytest.mark.root,
    pytest.mark.usefixtures("netns"),
    pytest.mark.skipif(not is_possible, reason="a network of one's own and a tunnel take root, ip and /dev/net/tun"),
]
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 1, 0x1000


@pytest.fixture
def tun(netns: None) -> Iterator[int]:  # noqa: F811
    """An interface without a link layer: what is written to it is what it receives."""
    found = os.open("/dev/net/tun", os.O_RDWR)
    try:
        fcntl.ioctl(found, TUNSETIFF, struct.pack("16sH22x", b"t0", IFF_TUN | IFF_NO_PI))
        subprocess.run(["ip", "link", "set", "t0", "up"], check=True)
        yield found
    finally:
        os.close(found)


def make(text: str) -> Callable[[int | None], bytes]:
    def make_filter(network_at: int | None) -> bytes:
        assert network_at is not None
        return compile_program(text, network_at=network_at, snaplen=128)

    return make_filter


def read(ring: Ring, is_over: Callable[[], bool]) -> tuple[Capture, int]:
    capture = Capture("x", Counter())
    return capture, read_blocks(ring.blocks(is_over), capture, ring.link, is_cooked=ring.is_cooked)


@pytest.mark.parametrize("interface", ["t0", "any"])
def test_packets_of_an_interface_without_a_link_layer_are_filtered_and_read(tun: int, interface: str) -> None:
    with Ring(interface, make("port 80"), ring_mib=2) as ring:
        assert (ring.link, ring.is_cooked) == (101, interface == "any")
        for data in (V4, ipv4(UDP_HEADER, UDP), V6):
            os.write(tun, data)
        capture, damaged = read(ring, lambda: ring.packets >= 2)
    found = {(row.source_ip, row.source_port, row.destination_port, row.packets) for row in capture.table.rows()}
    assert found == {("10.0.0.1", 1000, 80, 1), ("::1", 1000, 80, 1)}
    assert (ring.packets, ring.dropped, ring.gaps, damaged) == (2, 0, 0, 0)


def test_a_filter_that_is_none_opens_nothing(tun: int) -> None:
    with pytest.raises(Invalid, match="LM4053"):
        Ring("t0", make("nonsense"), ring_mib=2)


def test_an_interface_that_is_not_there_is_said_before_anything_is_captured() -> None:
    with pytest.raises(NotFound, match="LM4052"):
        Ring("none0", make(""), ring_mib=2)


def test_an_interface_that_goes_down_is_a_gap_and_the_capture_goes_on(tun: int) -> None:
    with Ring("t0", make(""), ring_mib=2) as ring:
        subprocess.run(["ip", "link", "set", "t0", "down"], check=True)
        states = iter(["up"])

        def is_over() -> bool:
            if ring.gaps and next(states, None):
                subprocess.run(["ip", "link", "set", "t0", "up"], check=True)
                os.write(tun, V4)
            return ring.gaps > 0 and ring.packets > 0

        capture, _ = read(ring, is_over)
    assert ring.gaps >= 1
    assert capture.packets >= 1


def test_an_interface_that_is_gone_ends_the_capture_with_a_code(tun: int) -> None:
    subprocess.run(["ip", "link", "add", "v0", "type", "veth", "peer", "name", "v1"], check=True)
    subprocess.run(["ip", "link", "set", "v0", "up"], check=True)
    with Ring("v0", make(""), ring_mib=2) as ring:
        subprocess.run(["ip", "link", "del", "v0"], check=True)
        with pytest.raises(NotFound, match="LM4052"):
            read(ring, lambda: False)
