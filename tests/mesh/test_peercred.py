import os
import pathlib
import socket
import subprocess
import sys

from mesh.peercred import peer_credentials

CONNECTS = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); s.recv(1)"


def test_the_kernel_says_who_connected_and_who_listens(tmp_path: pathlib.Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        with subprocess.Popen([sys.executable, "-c", CONNECTS, path]) as other:
            found, _ = listener.accept()
            with found:
                assert peer_credentials(found) == (other.pid, os.getuid(), os.getgid())
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
            assert peer_credentials(client).pid == os.getpid()


def test_a_peer_of_another_kind_is_nobody() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as found:
        assert peer_credentials(found) == (0, -1, -1)
