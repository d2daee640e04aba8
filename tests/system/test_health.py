"""Health checks from outside the mesh, on a real installation, whatever happens to sidecar and agent."""

import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.ports import free_port

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]
APP = """
import http.server, sys
class App(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/healthz" else 500)
        self.end_headers()
        self.wfile.write(b"secret")
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), App).serve_forever()
"""
Until = Callable[..., object]


def ask(port: int, path: str = "/healthz") -> bytes:
    """What a checker hears; nothing where nobody answers yet."""
    data = b""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 60) as sock:
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: lb\r\n\r\n".encode())
        while part := sock.recv(65536):
            data += part
    return data


class Place:
    def __init__(self, installation: Any, folder: pathlib.Path) -> None:
        self.installation, self.app, self.door, self.narrow = installation, free_port(), free_port(), free_port()
        self.script = folder / "app"
        self.script.write_text(APP, "utf-8")
        self.process: subprocess.Popen[bytes] | None = None

    def run(self, *more: str) -> subprocess.Popen[bytes]:
        words = ["--inbound", f"{free_port()}={self.app}", *more, "--", sys.executable, str(self.script), str(self.app)]
        limen = [sys.executable, "-m", "limen", "--state", str(self.installation.state)]
        return subprocess.Popen([*limen, "run", "--name", "app", *words], stderr=subprocess.PIPE)


@pytest.fixture
def place(make_installation: Callable[..., Any], tmp_path: pathlib.Path) -> Iterator[Place]:
    found = Place(make_installation(), tmp_path)
    door, narrow = f"{found.door}={found.app}/healthz@127.0.0.0/8", f"{found.narrow}={found.app}/healthz@10.0.0.0/8"
    with found.run("--health", door, "--health", narrow) as process:
        found.process = process
        yield found
        process.terminate()


def test_a_checker_is_answered_by_whatever_sidecar_is_there_and_a_stranger_by_none(place: Place, until: Until) -> None:
    """Neither policy nor SVID is needed, and what is denied explains itself and is recorded."""
    until(lambda: ask(place.door).startswith(b"HTTP/1.1 200 "))
    assert b"secret" not in ask(place.door)
    assert place.installation.limen("sidecar", "upgrade").returncode == 0
    assert ask(place.door).startswith(b"HTTP/1.1 200 ")
    os.kill(place.installation.pid("agent"), signal.SIGKILL)
    assert ask(place.door).startswith(b"HTTP/1.1 200 ")
    until(lambda: place.installation.limen("sidecar", "upgrade").returncode == 0)
    assert ask(place.door).startswith(b"HTTP/1.1 200 ")
    assert ask(place.narrow) == b""
    denied = ask(place.door, "/admin")
    assert denied.startswith(b"HTTP/1.1 403 ")
    assert b"LM3234" in denied

    def is_recorded() -> bool:
        done = place.installation.limen("audit", "tail", "-o", "jsonl")
        return "LM3233" in done.stdout and "LM3234" in done.stdout

    until(is_recorded)


def test_a_check_that_is_not_narrow_is_refused_before_the_program_runs(
    make_installation: Callable[..., Any], tmp_path: pathlib.Path
) -> None:
    found = Place(make_installation(), tmp_path)
    for networks in ("0.0.0.0/0", "", "lb.example.com"):
        with found.run("--health", f"{found.door}={found.app}/healthz@{networks}") as process:
            _, said = process.communicate(timeout=200)
        assert process.returncode == 2
        assert b"LM3705" in said
