"""`limen flows capture` on a pair of interfaces of its own, beside tcpdump on the same one."""

import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from learner.sources.ledger import Ledger
from limen.__main__ import run
from mesh.problems import Diagnostic
from tests.learner.rings import block_of
from tests.learner.test_packets import V4, V6, ether
from tests.tools import needs

HERE, THERE = "10.78.0.1", "10.78.0.2"
HERE6, THERE6 = "fd78::1", "fd78::2"
MARK = b"the end of what both saw"
# one tag, which the kernel takes out of the packet, and two, of which one stays
TAGGED = [ether(0x8100, b"\0\7\x08\0" + V4), ether(0x88A8, b"\0\7\x81\0\0\7\x86\xdd" + V6)]
LIMEN = [sys.executable, "-m", "limen", "flows"]
pytestmark = [
    pytest.mark.root,
    pytest.mark.system,
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="networks of one's own take root"),
]


def eventually(holds: Callable[[], object], what: str) -> None:
    """Wait for a condition; a machine that is ten times slower is no reason to fail."""
    end = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


class Pair:
    """Two network namespaces with a cable between them; what is asked runs in one of them."""

    def __init__(self, number: int) -> None:
        self.names = (f"limen-cap-{number}-a", f"limen-cap-{number}-b")

    def make(self) -> None:
        here, there = self.names
        for name in self.names:
            ip("netns", "add", name)
            # no neighbour or router talks of its own accord
            self.run(name, "sysctl", "-qw", "net.ipv6.conf.default.router_solicitations=0")
        ip("link", "add", "v0", "netns", here, "type", "veth", "peer", "name", "v0", "netns", there)
        for name, address, address6 in ((here, HERE, HERE6), (there, THERE, THERE6)):
            self.ip(name, "addr", "add", f"{address}/24", "dev", "v0")
            self.ip(name, "addr", "add", f"{address6}/64", "dev", "v0", "nodad")
            for link in ("lo", "v0"):
                self.ip(name, "link", "set", link, "up")
            other = THERE if address == HERE else HERE
            tunnel = ["type", "vxlan", "id", "5", "dstport", "4789", "local", address, "remote", other]
            self.ip(name, "link", "add", "x0", "address", f"02:00:00:00:00:0{address[-1]}", *tunnel)
            # what looks for neighbours in the tunnel comes when it likes, and is a packet outside of it
            self.run(name, "sysctl", "-qw", "net.ipv6.conf.x0.disable_ipv6=1")
            self.ip(name, "link", "set", "x0", "up")
            self.ip(name, "addr", "add", f"{address.replace('.78.', '.80.')}/24", "dev", "x0")
            near = [other.replace(".78.", ".80."), "lladdr", f"02:00:00:00:00:0{other[-1]}"]
            self.ip(name, "neigh", "replace", *near, "dev", "x0", "nud", "permanent")

    def remove(self) -> None:
        for name in self.names:
            subprocess.run(["ip", "netns", "del", name], check=False, stderr=subprocess.DEVNULL)

    def ip(self, name: str, *words: str) -> None:
        ip("-n", name, *words)

    def run(self, name: str, *words: str) -> str:
        done = subprocess.run(["ip", "netns", "exec", name, *words], capture_output=True, text=True, check=True)
        return done.stdout

    def start(self, name: str, *words: str, **options: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen(["ip", "netns", "exec", name, *words], **options)


@pytest.fixture
def pair() -> Iterator[Pair]:
    found = Pair(os.getpid())
    found.remove()
    try:
        found.make()
        yield found
    finally:
        found.remove()


@contextlib.contextmanager
def entered(name: str) -> Iterator[None]:
    """This thread in a network namespace: sockets made meanwhile are in it."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    there = os.open(f"/run/netns/{name}", os.O_RDONLY)
    try:
        assert libc.setns(there, 0x40000000) == 0
        yield
    finally:
        assert libc.setns(before, 0x40000000) == 0
        os.close(before)
        os.close(there)


def running(pair: Pair, name: str) -> int:
    """How many packet sockets of a namespace are bound and running."""
    rows = pair.run(name, "cat", "/proc/net/packet").splitlines()[1:]
    return sum(row.split()[3:6:2] == ["0003", "1"] for row in rows)


class Watching:
    """One `limen flows capture` in a namespace; it watches when its socket is bound and its privileges are gone."""

    def __init__(self, pair: Pair, name: str, *words: str) -> None:
        before = running(pair, name)
        self.process = pair.start(
            name, *LIMEN, "capture", *words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=pathlib.Path.cwd()
        )
        eventually(lambda: self.process.poll() is not None or running(pair, name) > before, "the ring is not open")
        eventually(lambda: self.process.poll() is not None or self.privileges() == {0}, "privileges are not given up")

    def privileges(self) -> set[int]:
        """The effective and permitted capabilities of all threads."""
        out = set()
        for task in pathlib.Path(f"/proc/{self.process.pid}/task").glob("*/status"):
            lines = dict(line.split(":\t", 1) for line in task.read_text().splitlines() if ":\t" in line)
            out |= {int(lines[name], 16) for name in ("CapEff", "CapPrm")}
        return out

    def end(self, expected: int = 0) -> tuple[bytes, str]:
        self.process.send_signal(signal.SIGINT)
        out, err = self.process.communicate(timeout=300)
        assert self.process.returncode == expected, err.decode()
        return out, err.decode()


def serve(address: tuple[str, int], family: int = socket.AF_INET) -> socket.socket:
    found = socket.create_server(address, family=family, backlog=64)
    found.settimeout(120)
    return found


def exchange(server: socket.socket, address: tuple[str, int], pair: Pair, size: int) -> tuple[str, int]:
    """One conversation that the caller begins and ends; who called."""
    with entered(pair.names[0]):
        client = socket.create_connection(address, timeout=120)
    here = client.getsockname()[:2]
    with client:
        peer, _ = server.accept()
        with peer:
            peer.settimeout(120)
            client.sendall(b"x" * size)
            client.shutdown(socket.SHUT_WR)
            while peer.recv(65536):
                pass
            peer.sendall(b"y" * (size // 2))
        while client.recv(65536):
            pass
    return here


def quiet(pair: Pair) -> bool:
    """Whether no TCP connection of either namespace has anything to say any more."""
    lines = [
        line
        for name in pair.names
        for line in pair.run(name, "cat", "/proc/net/tcp", "/proc/net/tcp6").splitlines()
        if not line.lstrip().startswith("sl")
    ]
    return {line.split()[3] for line in lines} <= {"06", "0A"}


def without_times(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found = [{name: value for name, value in row.items() if name not in {"first", "last"}} for row in rows]
    return sorted(found, key=lambda row: json.dumps(row, sort_keys=True))


@needs("tcpdump", "ip")
@pytest.mark.parametrize("interface", ["v0", "any"])
def test_the_table_is_the_one_of_tcpdumps_capture_of_the_same_traffic(
    interface: str, pair: Pair, tmp_path: pathlib.Path
) -> None:
    here, there = pair.names
    theirs = tmp_path / "theirs.pcap"
    watching = Watching(pair, there, "--interface", interface, "-o", "json")
    before = running(pair, there)
    dumping = pair.start(
        there, "tcpdump", "-Z", "root", "-n", "-U", "--immediate-mode", "-i", interface, "-s", "256", "-w", str(theirs)
    )
    opened = contextlib.ExitStack()
    try:
        # it writes the header of its file when it has begun
        eventually(lambda: running(pair, there) > before, "tcpdump does not watch")
        eventually(lambda: theirs.exists() and theirs.stat().st_size >= 24, "tcpdump does not write")
        with entered(there):
            servers = [
                serve((THERE, 8001)),
                serve((THERE6, 8002), socket.AF_INET6),
                serve((THERE.replace(".78.", ".80."), 8003)),
            ]
            dns = opened.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            dns.bind((THERE, 5353))
            dns.settimeout(120)
        callers = []
        for server in servers:
            address = server.getsockname()[:2]
            callers += [(*exchange(server, address, pair, size), *address) for size in (10, 5000, 200_000)]
        with entered(here):
            asking = opened.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            asking.settimeout(120)
            refused = opened.enter_context(socket.socket())
            assert refused.connect_ex((THERE, 9)) != 0
            with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as wire:
                wire.bind(("v0", 0))
                for frame in TAGGED:
                    wire.send(frame)
        asking.sendto(b"question", (THERE, 5353))
        _, caller = dns.recvfrom(100)
        dns.sendto(b"answer", caller)
        asking.recvfrom(100)
        for server in servers:
            server.close()
        eventually(lambda: quiet(pair), "a connection is not closed")
        # the last packet of all: who wrote it has seen everything
        asking.sendto(MARK, (THERE, 5353))
        dns.recvfrom(100)
        eventually(lambda: MARK in theirs.read_bytes(), "tcpdump did not write the last packet")
        mine, said = watching.end()
        dumping.send_signal(signal.SIGINT)
        assert dumping.wait(timeout=120) == 0
    finally:
        opened.close()
        for process in (watching.process, dumping):
            if process.poll() is None:
                process.kill()
                process.wait()
    done = subprocess.run([*LIMEN, "table", "--from", theirs, "-o", "json"], capture_output=True, check=True)
    rows = json.loads(mine)
    assert without_times(rows) == without_times(json.loads(done.stdout))
    assert "were lost" not in said
    seen = {(row["source_ip"], row["source_port"], row["destination_ip"], row["destination_port"]) for row in rows}
    assert set(callers) - seen == set()
    # the tunnel is a conversation, and so is what is in it
    assert {row["destination_port"] for row in rows} >= {4789, 5353, 9, 80}
    assert {row["established"] for row in rows if row["destination_port"] == 9} == {False}


@needs("ip")
def test_a_connection_older_than_the_capture_has_its_direction_from_the_sockets(
    pair: Pair, tmp_path: pathlib.Path
) -> None:
    here, there = pair.names
    with entered(there):
        server = serve((THERE, 8001))
        # nobody says anything on this one: no packet shows it
        idle = serve((THERE, 8002))
    with entered(here):
        client = socket.create_connection((THERE, 8001), timeout=120)
        silent = socket.create_connection((THERE, 8002), timeout=120)
    with server, idle, client, silent, server.accept()[0] as peer, idle.accept()[0]:
        peer.settimeout(120)
        watching = Watching(pair, there, "-o", "jsonl")
        # the callee speaks first, so that the first packet names the wrong one
        peer.sendall(b"x")
        assert client.recv(1) == b"x"
        client.sendall(b"y")
        assert peer.recv(1) == b"y"
        out, _ = watching.end()
        path = tmp_path / "flows.jsonl"
        path.write_bytes(out)
        account, *flows = map(json.loads, out.splitlines())
        assert account["capture"]["ambiguous"] == 0
        assert {
            (row["source_ip"], row["source_port"], row["destination_ip"], row["destination_port"], row["sensor"])
            for row in flows
        } == {
            (HERE, client.getsockname()[1], THERE, 8001, "live"),
            (HERE, silent.getsockname()[1], THERE, 8002, "sockets"),
        }
        listed = pair.run(there, *LIMEN, "sockets", "-o", "json")
        assert {(row["source_port"], row["destination_port"]) for row in json.loads(listed)} == {
            (client.getsockname()[1], 8001),
            (silent.getsockname()[1], 8002),
        }
        unasked = Watching(pair, there, "--no-sockets", "-o", "jsonl")
        peer.sendall(b"x")
        assert client.recv(1) == b"x"
        out, said = unasked.end()
        assert json.loads(out.splitlines()[0])["capture"]["ambiguous"] == 1
        assert "LM4012" in said
    # what was captured is read by whoever learns
    proposed = subprocess.run(
        [sys.executable, "-m", "limen", "learn", "propose", "--from", path, "--out", tmp_path / "out", "-o", "json"],
        capture_output=True,
        check=True,
    )
    assert json.loads(proposed.stdout)["unattributed"] > 0


@needs("ip")
def test_a_filter_and_a_sample_are_done_by_the_kernel_and_said(pair: Pair) -> None:
    there = pair.names[1]
    with entered(there):
        servers = [serve((THERE, port)) for port in (8001, 8002)]
    filtered = Watching(pair, there, "--interface", "v0", "--filter", "tcp and not port 8002", "-o", "json")
    sampled = Watching(pair, there, "--interface", "v0", "--sample", "4", "-o", "jsonl")
    callers = [exchange(server, server.getsockname(), pair, 10) for server in servers for _ in range(40)]
    for server in servers:
        server.close()
    eventually(lambda: quiet(pair), "a connection is not closed")
    rows = json.loads(filtered.end()[0])
    assert {row["destination_port"] for row in rows} == {8001}
    assert {row["source_port"] for row in rows} == {port for _, port in callers[:40]}
    out, said = sampled.end()
    account, *flows = map(json.loads, out.splitlines())
    assert account["capture"]["sampled"] == 4
    assert "it keeps one of 4" in said
    # whole conversations or none of it
    assert all(flow["established"] for flow in flows)
    assert {flow["source_port"] for flow in flows} <= {port for _, port in callers}
    assert len(flows) < len(callers)
    assert account["capture"]["ambiguous"] == 0


@needs("ip")
def test_what_the_kernel_had_no_room_for_is_counted_and_lowers_the_claim(pair: Pair) -> None:
    here, there = pair.names
    watching = Watching(pair, there, "--interface", "v0", "--ring", "2", "--snaplen", "1500", "-o", "jsonl")
    # it does not read, and the ring has room for some 1,400 of these
    watching.process.send_signal(signal.SIGSTOP)
    with entered(here):
        wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        wire.bind(("v0", 0))
    with wire:
        for _ in range(8000):
            wire.send(ether(0x0800, V4).ljust(1400, b"x"))
    watching.process.send_signal(signal.SIGCONT)
    out, said = watching.end()
    account = json.loads(out.splitlines()[0])["capture"]
    assert account["lost"] > 0
    assert account["seen"] > 0
    assert f"{account['lost']} records were lost before they were written" in said
    assert "LM4015" in said


@needs("setpriv")
def test_without_the_capability_the_command_says_which_one_it_lacks() -> None:
    unprivileged = ["setpriv", "--bounding-set=-net_raw", "--inh-caps=-all"]
    done = subprocess.run(
        [*unprivileged, *LIMEN, "capture", "--seconds", "1"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 4, done.stderr
    assert "LM4051" in done.stderr
    assert "CAP_NET_RAW" in done.stderr


@pytest.mark.parametrize(
    ("words", "code"),
    [
        pytest.param(["--interface", "none0"], "LM4052", id="no-such-interface"),
        pytest.param(["--filter", "tcp and"], "LM4053", id="no-filter"),
    ],
)
def test_what_cannot_be_watched_is_refused_with_a_code(words: list[str], code: str) -> None:
    done = subprocess.run([*LIMEN, "capture", "--seconds", "1", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert code in done.stderr


class Endless:
    """A ring that never ends by itself, of blocks with conversations that nobody saw before."""

    link, is_cooked = 101, False

    def blocks(self, is_over: Callable[[], bool]) -> Iterator[memoryview]:
        number = 0
        while not is_over():
            packets = []
            for _ in range(50):
                number += 1
                data = bytearray(V4)
                data[20:22] = number.to_bytes(2, "big")
                packets.append((number, 40, bytes(data)))
            yield memoryview(bytearray(block_of(packets, 1 << 14)))


def test_too_many_conversations_end_a_capture_and_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    from limen.cli import flowcapture

    monkeypatch.setattr(flowcapture, "MAX_CONVERSATIONS", 120)
    findings: list[Diagnostic] = []
    ledger = Ledger(file="any", source="live")
    found, _ = flowcapture._watch(Endless(), ledger, findings, None, lambda: False, asks=False)  # type: ignore[arg-type]
    assert len(found.table) == 150
    assert [item.code for item in findings] == ["LM4055"]


def test_time_that_is_up_ends_a_capture(pair: Pair) -> None:
    done = pair.run(pair.names[1], *LIMEN, "capture", "--interface", "lo", "--seconds", "0.5", "-o", "json")
    assert json.loads(done) == []


def test_sockets_are_listed_to_whoever_asks(capsys: pytest.CaptureFixture[str]) -> None:
    with serve(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        assert run(["flows", "sockets", "-o", "jsonl"]) == 0
        account, *flows = map(json.loads, capsys.readouterr().out.splitlines())
        assert account["capture"]["source"] == "sockets"
        ends = (client.getsockname()[1], server.getsockname()[1])
        assert ends in {(row["source_port"], row["destination_port"]) for row in flows}
