import asyncio
import pathlib
import socket
import threading

import pytest

from enforcer.runtime.fetch import get
from tests.enforcer.runtime.stage import staged


def ask(path: str, *, limit: int = 100, within_s: float = 60.0) -> tuple[int, bytes]:
    return asyncio.run(get("http://x/a", limit=limit, within_s=within_s, socket=path))


def test_status_and_body_are_what_was_answered() -> None:
    with staged(lambda path: (203, path.encode())) as path:
        assert ask(path) == (203, b"/a")


def test_a_redirect_is_an_answer_and_nothing_more() -> None:
    with staged(lambda _: (302, b"")) as path:
        assert ask(path) == (302, b"")


@pytest.mark.parametrize(("size", "is_read"), [(100, True), (101, False)])
def test_no_more_is_read_than_was_allowed(size: int, *, is_read: bool) -> None:
    with staged(lambda _: (200, b"x" * size)) as path:
        if is_read:
            assert len(ask(path)[1]) == size
        else:
            with pytest.raises(ValueError, match="longer than 100 bytes"):
                ask(path)


def test_silence_ends_in_time() -> None:
    with staged(lambda _: None) as path, pytest.raises(TimeoutError):
        ask(path, within_s=0.2)


def test_nobody_is_an_error(tmp_path: pathlib.Path) -> None:
    with pytest.raises(OSError):
        ask(str(tmp_path / "none"))


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (b"SSH-2.0-x\r\n\r\n", "no HTTP"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabc", "no HTTP"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc", "no HTTP"),
        (b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 3\r\n\r\nabc", "compressed"),
        (b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 50_000, "no HTTP"),
    ],
    ids=["another-protocol", "two-lengths", "cut-short", "compressed", "endless-headers"],
)
def test_what_is_no_plain_answer_is_refused(tmp_path: pathlib.Path, said: bytes, reason: str) -> None:
    path = str(tmp_path / "s")

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            try:
                connection.sendall(said)
            except OSError:
                return

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(ValueError, match=reason):
            ask(path)
        thread.join()
