import json
import pathlib
import socket
import threading

import pytest

from limen.client import Client
from mesh.problems import Conflict, Forbidden, Problem, Unavailable


def read_request(found: socket.socket) -> None:
    """Read a whole request, body and all: a body may come in a segment of its own."""
    with found.makefile("rb") as stream:
        length = 0
        while (line := stream.readline()) not in {b"\r\n", b""}:
            name, _, value = line.decode().partition(":")
            if name.lower() == "content-length":
                length = int(value)
        stream.read(length)


def serve_once(path: pathlib.Path, status: int, body: bytes) -> threading.Thread:
    """Answer one request with bytes, as a server of another version might."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def answer() -> None:
        with listener, listener.accept()[0] as found:
            read_request(found)
            head = f"HTTP/1.1 {status} X\r\ncontent-length: {len(body)}\r\n\r\n"
            found.sendall(head.encode() + body)

    thread = threading.Thread(target=answer)
    thread.start()
    return thread


@pytest.mark.parametrize(
    ("status", "body", "kind", "code"),
    [
        (
            403,
            {"problem": {"class": "Forbidden", "code": "LM2416", "facts": {"have": 1, "need": 2}}},
            Forbidden,
            "LM2416",
        ),
        (409, {"problem": {"class": "Conflict", "code": "LM2428", "facts": {}}}, Conflict, "LM2428"),
        (500, {"detail": "x"}, Unavailable, "LM5202"),
    ],
    ids=["forbidden", "conflict", "no-problem"],
)
def test_problems_come_back_as_they_were_raised(
    tmp_path: pathlib.Path, status: int, body: object, kind: type[Problem], code: str
) -> None:
    thread = serve_once(tmp_path / "s", status, json.dumps(body).encode())
    with pytest.raises(kind) as caught:
        Client(tmp_path / "s").call("GET", "/v1/x")
    thread.join()
    assert caught.value.code == code


def test_an_answer_is_its_json(tmp_path: pathlib.Path) -> None:
    thread = serve_once(tmp_path / "s", 200, b'{"a": 1}')
    assert Client(tmp_path / "s").call("POST", "/v1/x", {"b": 2}) == {"a": 1}
    thread.join()


def test_nobody_listening_is_unavailable(tmp_path: pathlib.Path) -> None:
    with pytest.raises(Unavailable, match="LM5201"):
        Client(tmp_path / "none").call("GET", "/v1/x")
