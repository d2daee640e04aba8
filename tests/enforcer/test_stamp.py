import ctypes
import os
import pathlib
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

import pytest

from enforcer.sockdiag import SockDiag
from enforcer.stamp import Stamps, unified_root
from mesh.problems import Unavailable

is_root = os.geteuid() == 0
root_alone = pytest.mark.skipif(not is_root, reason="bpf(2) is for root")
SO_COOKIE = 57
HOLDER = """
import sys
from enforcer.stamp import Stamps
stamps = Stamps(sys.argv[1])
print("attached", flush=True)
sys.stdin.read()
"""


def cookie_of(sock: socket.socket) -> int:
    return int(struct.unpack("=Q", sock.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8))[0])


@pytest.fixture
def stamps() -> Iterator[Stamps]:
    found = Stamps(unified_root())
    yield found
    found.close()


@pytest.fixture
def group() -> Iterator[pathlib.Path]:
    """A control group of this test alone, with nobody in it."""
    path = pathlib.Path(tempfile.mkdtemp(prefix="limen-test-", dir=unified_root()))
    yield path
    path.rmdir()


def attached(group: pathlib.Path) -> int:
    """How many programs are attached to a group's connects, IPv4 and IPv6 (BPF_PROG_QUERY)."""
    count = 0
    handle = os.open(group, os.O_RDONLY)
    for attach in (10, 11):
        query = ctypes.create_string_buffer(struct.pack("=IIIIQI", handle, attach, 0, 0, 0, 0), 64)
        number = {"x86_64": 321}.get(os.uname().machine, 280)
        assert ctypes.CDLL(None, use_errno=True).syscall(number, 16, query, 64) == 0
        count += struct.unpack_from("=I", query, 24)[0]
    os.close(handle)
    return count


@pytest.mark.root
@root_alone
@pytest.mark.parametrize(
    ("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")], ids=["v4", "v6"]
)
def test_who_began_a_connection_is_noted_with_the_time(stamps: Stamps, family: int, host: str) -> None:
    before = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    diag = SockDiag()
    with (
        socket.create_server((host, 0), family=family) as server,
        socket.create_connection(server.getsockname()[:2]) as client,
    ):
        found = diag.find(client.getsockname()[:2], server.getsockname()[:2])
        assert found.cookie == cookie_of(client)
        stamp = stamps.find(found.cookie)
    diag.close()
    assert stamp is not None
    assert stamp.pid == os.getpid()
    assert before <= stamp.began <= time.clock_gettime_ns(time.CLOCK_BOOTTIME)


@pytest.mark.root
@root_alone
def test_a_socket_of_both_families_is_found_by_its_ipv4_coordinates(stamps: Stamps) -> None:
    diag = SockDiag()
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_INET6) as client:
        # as programs in Java do
        client.connect(("::ffff:127.0.0.1", server.getsockname()[1]))
        accepted, peer = server.accept()
        with accepted:
            stamp = stamps.find(diag.find(peer, server.getsockname()).cookie)
    diag.close()
    assert stamp is not None
    assert stamp.pid == os.getpid()


@pytest.mark.root
@root_alone
def test_a_thread_connects_as_its_process_and_a_child_as_itself(stamps: Stamps) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            client = socket.create_connection(server.getsockname())
            theirs.send(struct.pack("=Q", cookie_of(client)))
            theirs.recv(1)
            os._exit(0)
        stamp = stamps.find(struct.unpack("=Q", ours.recv(8))[0])
        ours.send(b"x")
        os.waitpid(pid, 0)
        ours.close()
        theirs.close()
    assert stamp is not None
    assert stamp.pid == pid


@pytest.mark.root
@root_alone
def test_datagram_sockets_and_older_connections_have_no_stamp() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as older:
        stamps = Stamps(unified_root())
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
            datagrams.connect(("127.0.0.1", 9))
            assert (stamps.find(cookie_of(datagrams)), stamps.find(cookie_of(older))) == (None, None)
        stamps.close()


@pytest.mark.root
@root_alone
def test_what_is_attached_ends_with_its_holder_also_when_that_is_killed(group: pathlib.Path) -> None:
    stamps = Stamps(str(group))
    assert attached(group) == 2
    stamps.close()
    assert attached(group) == 0
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(group)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"attached\n"
        assert attached(group) == 2
        holder.kill()
        holder.wait()
    deadline = time.monotonic() + 60
    # the kernel lets go of what a process had after it is seen to be dead
    while attached(group) and time.monotonic() < deadline:
        os.sched_yield()
    assert attached(group) == 0


@pytest.mark.root
@root_alone
def test_a_folder_that_is_no_control_group_is_refused_with_the_error(tmp_path: pathlib.Path) -> None:
    with pytest.raises(Unavailable, match=r"LM3407.*errno \d+"):
        Stamps(str(tmp_path))
    with pytest.raises(Unavailable, match=r"LM3407.*errno 2"):
        Stamps(str(tmp_path / "none"))
