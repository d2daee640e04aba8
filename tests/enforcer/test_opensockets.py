import ctypes
import os
import pathlib
import socket
import threading
from collections.abc import Iterator

import pytest

from enforcer.holders import holders
from enforcer.opensockets import OpenSockets

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="bpf(2) is for root")]
CLONE_FILES = 0x400


@pytest.fixture(scope="module")
def sockets() -> Iterator[OpenSockets]:
    found = OpenSockets()
    yield found
    found.close()


def test_every_holder_is_found_as_the_scan_finds_it(sockets: OpenSockets) -> None:
    ours, theirs = socket.socketpair()
    inode = os.fstat(ours.fileno()).st_ino
    pid = os.fork()
    if pid == 0:
        theirs.recv(1)
        os._exit(0)
    assert sockets.holders(inode) == holders(inode) == {os.getpid(), pid}
    ours.send(b"x")
    os.waitpid(pid, 0)
    assert sockets.holders(inode) == {os.getpid()}
    for sock in (ours, theirs):
        sock.close()
    assert sockets.holders(inode) == frozenset()


def test_a_file_of_the_same_number_is_no_socket(sockets: OpenSockets, tmp_path: pathlib.Path) -> None:
    with (tmp_path / "x").open("w") as file:
        assert sockets.holders(os.fstat(file.fileno()).st_ino) == frozenset()


def test_a_thread_with_descriptors_of_its_own_is_seen(sockets: OpenSockets) -> None:
    found: list[frozenset[int]] = []
    ours, theirs = socket.socketpair()
    ours.close()
    inode = os.fstat(theirs.fileno()).st_ino
    kept, go = threading.Event(), threading.Event()

    def keep() -> None:
        assert ctypes.CDLL(None).unshare(CLONE_FILES) == 0
        kept.set()
        go.wait(100)
        os.close(number)

    number = theirs.fileno()
    thread = threading.Thread(target=keep)
    thread.start()
    assert kept.wait(100)
    theirs.close()
    found.append(sockets.holders(inode))
    # /proc/PID/fd is the first thread's
    assert holders(inode) == frozenset()
    go.set()
    thread.join()
    assert found == [frozenset({os.getpid()})]


def test_questions_from_many_threads_get_their_own_answers(sockets: OpenSockets) -> None:
    pairs = [socket.socketpair() for _ in range(4)]
    wrong: list[object] = []

    def ask(sock: socket.socket) -> None:
        inode = os.fstat(sock.fileno()).st_ino
        for wanted, expected in ((inode, {os.getpid()}), (2**40, set())) * 20:
            found = sockets.holders(wanted)
            if found != expected:
                wrong.append(found)

    threads = [threading.Thread(target=ask, args=(pair[0],)) for pair in pairs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for pair in pairs:
        for sock in pair:
            sock.close()
    assert wrong == []
