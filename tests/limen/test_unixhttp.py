import contextlib
import pathlib
import socket
import threading

import pytest

from limen.unixhttp import UnixConnection


def test_asks_whoever_listens_at_the_path(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "s.sock"
    asked: list[bytes] = []

    def serve(listener: socket.socket) -> None:
        peer, _ = listener.accept()
        with peer:
            asked.append(peer.recv(65_536))
            peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        listener.settimeout(60)
        server = threading.Thread(target=serve, args=(listener,))
        server.start()
        with contextlib.closing(UnixConnection(path, timeout=60)) as connection:
            connection.request("GET", "/ready")
            assert connection.getresponse().read() == b"ok"
        server.join()
    assert asked[0].startswith(b"GET /ready HTTP/1.1\r\nHost: localhost\r\n")


def test_does_not_wait_longer_than_it_may(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "s.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        with contextlib.closing(UnixConnection(path, timeout=0.01)) as connection:
            connection.request("GET", "/")
            with pytest.raises(TimeoutError):
                connection.getresponse()


def test_nobody_at_the_path_is_an_os_error(tmp_path: pathlib.Path) -> None:
    with contextlib.closing(UnixConnection(tmp_path / "none", timeout=1)) as connection, pytest.raises(OSError):
        connection.connect()
