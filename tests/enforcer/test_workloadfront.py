import asyncio
import os
import pathlib
import select
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from enforcer import workloadfront
from enforcer.order import Order, open_watch
from enforcer.sockdiag import SockDiag
from enforcer.workloadfront import read_caller
from mesh.problems import Forbidden, Invalid
from tests.handles import handles, nothing_stays_open


class OldKernel(socket.socket):
    """A socket of a kernel that has no SO_PEERPIDFD."""

    def getsockopt(self, level: int, option: int, size: int | None = None) -> object:  # type: ignore[override]
        if option == 77:
            raise OSError(92, "Protocol not available")
        return super().getsockopt(level, option) if size is None else super().getsockopt(level, option, size)


class Gone(socket.socket):
    """A socket of a kernel that has SO_PEERPIDFD, and whose peer was reaped."""

    def getsockopt(self, level: int, option: int, size: int | None = None) -> object:  # type: ignore[override]
        if option == 77:
            raise ProcessLookupError(3, "No such process")
        return super().getsockopt(level, option) if size is None else super().getsockopt(level, option, size)


@pytest.fixture
def diag() -> Iterator[SockDiag]:
    found = SockDiag()
    yield found
    found.close()


def pair(kind: type[socket.socket]) -> tuple[socket.socket, socket.socket]:
    ours, theirs = socket.socketpair()
    return kind(fileno=ours.detach()), theirs


@pytest.mark.parametrize("kind", [socket.socket, OldKernel], ids=["peerpidfd", "pidfd-open"])
def test_the_kernel_says_who_connected(kind: type[socket.socket], diag: SockDiag) -> None:
    ours, theirs = pair(kind)
    with ours, theirs:
        found = read_caller(ours, diag)
        assert (found.pid, found.uid, found.gid, found.is_alive) == (os.getpid(), os.getuid(), os.getgid(), True)
        assert not os.get_inheritable(found.pidfd)
        assert found.inode == os.fstat(theirs.fileno()).st_ino
        os.close(found.pidfd)


def test_a_process_that_the_kernel_says_is_gone_is_never_looked_up_by_its_number(diag: SockDiag) -> None:
    before = handles()
    # the number is in use: it is this process's own
    ours, theirs = pair(Gone)
    with ours, theirs, pytest.raises(ProcessLookupError):
        read_caller(ours, diag)
    assert nothing_stays_open(before)


def test_on_an_old_kernel_another_process_with_the_number_is_refused(
    monkeypatch: pytest.MonkeyPatch, diag: SockDiag
) -> None:
    real, calls = workloadfront.read_stat, []

    class Later:
        start = 1

    def read(pid: int) -> object:
        calls.append(pid)
        return real(pid) if len(calls) == 1 else Later

    monkeypatch.setattr(workloadfront, "read_stat", read)
    before = handles()
    ours, theirs = pair(OldKernel)
    with ours, theirs, pytest.raises(Forbidden):
        read_caller(ours, diag)
    assert nothing_stays_open(before)


def test_a_path_that_is_too_long_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(Invalid, match="LM5001"):
        workloadfront.Front(tmp_path / ("x" * 120), tmp_path, Order(None))


# connects the moment it begins and leaves its end open to what it might execute, as Envoy and curl do
HASTY = """
import os, socket, sys
for tries in range(1, 20):
    sock = socket.socket(socket.AF_UNIX)
    sock.set_inheritable(True)
    sock.connect(sys.argv[1])
    try:
        # one who is hung up on may hear of it here already
        sock.send(b"hello")
        answer = sock.recv(5)
    except OSError:
        answer = b""
    if answer:
        print(tries, answer.decode())
        break
"""


@pytest.mark.root
def test_a_hasty_program_has_to_connect_again_and_then_is_served(tmp_path: pathlib.Path) -> None:
    watch = open_watch(lambda reason: None)
    if watch is None:
        pytest.skip("execs are told to root in the first namespaces alone")

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.read(5))
        writer.close()

    async def run() -> list[bytes]:
        front = workloadfront.Front(tmp_path / "s", tmp_path / "p", Order(watch))
        front.prepare()
        server = await asyncio.start_unix_server(echo, str(tmp_path / "p" / "api"))
        await front.start()
        process = subprocess.Popen(  # noqa: ASYNC220  the loop must not run meanwhile
            [sys.executable, "-S", "-c", HASTY, str(tmp_path / "s")], stdout=subprocess.PIPE
        )
        # the loop does not run, and so hears of nothing, until the program has connected
        found = select.poll()
        found.register(front._listener, select.POLLIN)
        assert found.poll(60_000)
        out, _ = await asyncio.to_thread(process.communicate)
        front.close()
        server.close()
        front.remove()
        return out.split()

    assert asyncio.run(run()) == [b"2", b"hello"]
