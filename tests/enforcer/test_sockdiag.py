import os
import pathlib
import socket
import threading

import pytest

from enforcer.sockdiag import SockDiag
from mesh.problems import NotFound


@pytest.fixture
def diag() -> object:
    found = SockDiag()
    yield found
    found.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_the_client_socket_is_found_by_its_four_coordinates(diag: SockDiag, host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with (
        socket.create_server((host, 0), family=family) as server,
        socket.create_connection(server.getsockname()[:2]) as c,
    ):
        found = diag.find(c.getsockname()[:2], server.getsockname()[:2])
        assert found.uid == os.geteuid()
        assert os.readlink(f"/proc/self/fd/{c.fileno()}") == f"socket:[{found.inode}]"


def test_a_socket_that_is_not_there_is_not_found(diag: SockDiag) -> None:
    with pytest.raises(NotFound, match="LM3410"):
        diag.find(("127.0.0.1", 1), ("127.0.0.1", 2))


def test_questions_from_many_threads_get_their_own_answers(diag: SockDiag) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        clients = [socket.create_connection(server.getsockname()) for _ in range(20)]
        wrong: list[object] = []

        def ask(client: socket.socket) -> None:
            expected = os.readlink(f"/proc/self/fd/{client.fileno()}")
            for _ in range(50):
                found = diag.find(client.getsockname(), server.getsockname())
                if f"socket:[{found.inode}]" != expected:
                    wrong.append(found)

        threads = [threading.Thread(target=ask, args=(client,)) for client in clients]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for client in clients:
            client.close()
        assert wrong == []


def test_a_unix_sockets_other_end_is_found_by_its_inode(diag: SockDiag, tmp_path: pathlib.Path) -> None:
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind(str(tmp_path / "s"))
        server.listen()
        client.connect(str(tmp_path / "s"))
        accepted, _ = server.accept()
        with accepted:
            inode = os.fstat(accepted.fileno()).st_ino
            assert diag.find_peer(inode) == os.fstat(client.fileno()).st_ino
    with pytest.raises(NotFound, match="LM3410"):
        diag.find_peer(inode)
