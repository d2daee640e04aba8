import contextlib
import ctypes
import errno
import os
import pathlib
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from enforcer import guard
from enforcer.guard import Guarded, table
from mesh.problems import Unavailable
from tests.tools import needs

ITEM = Guarded(app_port=18980, sidecar_uid=61184, listener=("127.0.0.2", 18980))


def test_the_rules_name_port_and_user_and_let_the_listener_pass() -> None:
    text = table("limen_x", [ITEM])
    assert text.index("ip daddr 127.0.0.2 tcp dport 18980 accept") < text.index("meta skuid != 61184")
    assert 'iifname != "lo" tcp dport 18980 drop' in text
    assert text.splitlines()[1] == "delete table inet limen_x"
    assert "ip6 daddr ::1" in table("limen_x", [Guarded(app_port=1, sidecar_uid=2, listener=("::1", 1))])


def test_what_is_left_out_has_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() != 0:
        assert "root" in guard.left_out()
        return
    monkeypatch.setenv("PATH", "/none")
    assert "nft" in guard.left_out()
    with pytest.raises(Unavailable, match="LM3702"):
        guard.apply("limen_x", [ITEM])


CLONE_NEWNET = 0x40000000


def connected(address: str, uid: int, port: int = ITEM.app_port) -> str:
    """How an attempt to connect as a user ended: the name of the error, empty when it was made."""
    pid = os.fork()
    if pid == 0:
        os.setresuid(uid, uid, uid)
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as sock:
            sock.settimeout(60)
            number = sock.connect_ex((address, port))
        os._exit(number)
    number = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return errno.errorcode[number] if number else ""


@pytest.fixture
def netns() -> Iterator[None]:
    """A network of this thread's own: what is done to it reaches nobody, and it goes with the thread."""
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.unshare(CLONE_NEWNET) == 0
    try:
        for command in ("link set lo up", "addr add 10.77.0.1/24 dev lo"):
            subprocess.run(["ip", *command.split()], check=True)
        yield
    finally:
        assert libc.setns(before, CLONE_NEWNET) == 0
        os.close(before)


def needs_root(test: Callable[..., None]) -> Callable[..., None]:
    """A test with a network of its own."""
    is_possible = os.geteuid() == 0 and shutil.which("nft") is not None and shutil.which("ip") is not None
    reason = "packet filters and networks of one's own take root, nft and ip"
    test = pytest.mark.usefixtures("netns")(test)
    return pytest.mark.root(pytest.mark.skipif(not is_possible, reason=reason)(test))


def tables() -> str:
    return subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=True).stdout


@needs_root
@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.9", "10.77.0.1", "::1"])
def test_only_the_sidecars_user_reaches_the_application(address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server(("::" if ":" in address else "0.0.0.0", ITEM.app_port), family=family):
        assert connected(address, 0) == ""
        guard.apply("limen_test", [ITEM])
        assert connected(address, ITEM.sidecar_uid) == ""
        assert {connected(address, uid) for uid in (0, 61000, ITEM.sidecar_uid + 1)} == {"ECONNREFUSED"}
        guard.remove("limen_test")
        assert connected(address, 61000) == ""


@needs_root
def test_a_listener_on_the_same_port_number_stays_open_to_all() -> None:
    with socket.create_server(("127.0.0.1", ITEM.app_port)), socket.create_server(ITEM.listener):
        guard.apply("limen_test", [ITEM])
        assert connected(ITEM.listener[0], 61000) == ""
        assert connected("127.0.0.1", 61000) == "ECONNREFUSED"


@needs_root
def test_other_ports_are_left_alone() -> None:
    with socket.create_server(("127.0.0.1", ITEM.app_port + 1)):
        guard.apply("limen_test", [ITEM])
        assert connected("127.0.0.1", 61000, ITEM.app_port + 1) == ""


@needs_root
def test_writing_the_table_again_replaces_it_whole() -> None:
    other = Guarded(app_port=18990, sidecar_uid=61185, listener=("127.0.0.2", 18991))
    guard.apply("limen_test", [ITEM, other])
    assert "18980" in tables()
    guard.apply("limen_test", [other])
    assert "18980" not in tables()
    assert "18990" in tables()


@needs_root
def test_after_removal_nothing_is_left_and_removing_again_is_no_error() -> None:
    guard.apply("limen_test", [ITEM])
    guard.apply("limen_other", [ITEM])
    guard.remove("limen_test")
    guard.remove("limen_test")
    assert "limen_test" not in tables()
    assert "limen_other" in tables()


@contextlib.contextmanager
def another_host(here: str, there: str) -> Iterator[list[str]]:
    """A second host on one cable; what to put before a command that runs there."""
    with subprocess.Popen(["unshare", "-n", "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        other.stdin.write(b"x")
        other.stdin.flush()
        other.stdout.read(1)
        inside = ["nsenter", "-t", str(other.pid), "-n"]
        for command in (
            ["ip", "link", "add", "here", "type", "veth", "peer", "name", "there", "netns", str(other.pid)],
            ["ip", "addr", "add", here, "dev", "here", *(["nodad"] if ":" in here else [])],
            ["ip", "link", "set", "here", "up"],
            [*inside, "ip", "addr", "add", there, "dev", "there", *(["nodad"] if ":" in there else [])],
            [*inside, "ip", "link", "set", "there", "up"],
        ):
            subprocess.run(command, check=True)
        yield inside
        other.stdin.close()


two_hosts = pytest.mark.parametrize(
    ("here", "there"),
    [("10.78.0.1/24", "10.78.0.2/24"), ("fd78::1/64", "fd78::2/64")],
    ids=["ipv4", "ipv6"],
)


@needs_root
@needs("unshare", "nsenter")
@two_hosts
def test_from_another_host_nothing_reaches_the_application(here: str, there: str) -> None:
    with another_host(here, there) as inside:
        address = (here.partition("/")[0], ITEM.app_port)
        family = socket.AF_INET6 if ":" in here else socket.AF_INET
        program = f"import os, socket, sys; s = socket.socket({int(family)}); s.settimeout(int(sys.argv[1])); "
        program += f"os._exit(s.connect_ex({address}))"
        call = [*inside, sys.executable, "-S", "-c", program]
        with socket.create_server(address, family=family):
            assert subprocess.run([*call, "60"], check=False).returncode == 0
            guard.apply("limen_test", [ITEM])
            # dropped, not refused: nobody answers
            assert subprocess.run([*call, "1"], check=False).returncode == errno.EAGAIN


def sent(inside: list[str], here: str, port: int) -> None:
    """Send one datagram from the other host."""
    family = socket.AF_INET6 if ":" in here else socket.AF_INET
    program = f"import socket; socket.socket({int(family)}, socket.SOCK_DGRAM).sendto(b'x', ({here!r}, {port}))"
    subprocess.run([*inside, sys.executable, "-S", "-c", program], check=True)


# says who asked, to whoever asks
ECHO = """
import socket, sys
sock = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
sock.bind((sys.argv[1], int(sys.argv[2]))); print("ready", flush=True)
data, peer = sock.recvfrom(100); sock.sendto(data, peer)
"""


@needs_root
@needs("unshare", "nsenter")
@two_hosts
def test_datagrams_from_another_host_do_not_reach_the_applications_port(here: str, there: str) -> None:
    family = socket.AF_INET6 if ":" in here else socket.AF_INET
    address, far = here.partition("/")[0], there.partition("/")[0]
    with (
        another_host(here, there) as inside,
        socket.socket(family, socket.SOCK_DGRAM) as app,
        socket.socket(family, socket.SOCK_DGRAM) as beside,
    ):
        for sock, port in ((app, ITEM.app_port), (beside, ITEM.app_port + 1)):
            sock.bind((address, port))
            sock.settimeout(60)
        sent(inside, address, ITEM.app_port)
        assert app.recv(100) == b"x"
        guard.apply("limen_test", [ITEM])
        sent(inside, address, ITEM.app_port)
        # what comes after it on the same cable has arrived: so would it have
        sent(inside, address, ITEM.app_port + 1)
        assert beside.recv(100) == b"x"
        app.setblocking(False)
        with pytest.raises(BlockingIOError):
            app.recv(100)
        # an answer to what was sent from here comes in, though it goes to that number
        app.settimeout(60)
        echo = [*inside, sys.executable, "-S", "-c", ECHO, far, "18999"]
        with subprocess.Popen(echo, stdout=subprocess.PIPE) as other:
            assert other.stdout is not None
            assert other.stdout.readline() == b"ready\n"
            app.sendto(b"asked", (far, 18999))
            assert app.recv(100) == b"asked"


@needs_root
@pytest.mark.parametrize("address", ["127.0.0.1", "10.77.0.1", "::1"])
def test_datagrams_on_loopback_are_rejected_and_answers_pass(address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as app, socket.socket(family, socket.SOCK_DGRAM) as other:
        app.bind((address, ITEM.app_port))
        other.bind((address, 18999))
        for sock in (app, other):
            sock.settimeout(60)
        guard.apply("limen_test", [ITEM])
        with socket.socket(family, socket.SOCK_DGRAM) as stranger:
            stranger.settimeout(60)
            stranger.connect((address, ITEM.app_port))
            with pytest.raises((PermissionError, ConnectionRefusedError)):
                stranger.send(b"x")
                stranger.recv(100)
        app.sendto(b"asked", (address, 18999))
        data, peer = other.recvfrom(100)
        other.sendto(data, peer)
        assert app.recv(100) == b"asked"


@needs_root
def test_rules_that_the_kernel_refuses_are_a_problem() -> None:
    with pytest.raises(Unavailable, match="LM3702"):
        guard.apply("limen test; flush ruleset", [ITEM])
    assert tables() == ""


def test_an_agents_table_keeps_its_name_and_no_other_agent_has_it(tmp_path: pathlib.Path) -> None:
    (tmp_path / "other").symlink_to(tmp_path)
    assert guard.table_name(tmp_path) == guard.table_name(tmp_path / "other")
    assert guard.table_name(tmp_path) != guard.table_name(tmp_path / "x")
