"""Three HTTP servers of other people that say what they read: uvicorn with h11, Node, and nginx before uvicorn."""

from __future__ import annotations

import base64
import contextlib
import json
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

from tests.ports import free_port

PEERS = pathlib.Path(__file__).parent / "peers"
PATIENCE_S = 60.0
SENTINEL = b"GET /sentinel HTTP/1.1\r\nhost: sentinel\r\nx-limen-source: sentinel\r\nconnection: close\r\n\r\n"
_SEEN = re.compile(rb"HTTP/1\.1 200 (?:(?!\r\n\r\n).)*?x-seen: ([A-Za-z0-9+/=]+)\r\n", re.DOTALL | re.IGNORECASE)
_NGINX = """
daemon off; master_process off; pid {place}/pid; error_log stderr crit; worker_rlimit_core 0;
events {{ worker_connections 256; }}
http {{
  access_log off; client_body_temp_path {place}/body; proxy_temp_path {place}/proxy; fastcgi_temp_path {place}/f;
  uwsgi_temp_path {place}/u; scgi_temp_path {place}/s; client_max_body_size 64m; large_client_header_buffers 8 64k;
  keepalive_timeout 60s; server_tokens off;
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://127.0.0.1:{upstream}; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_set_header Host $http_host; proxy_set_header x-nginx-method $request_method;
      proxy_set_header x-nginx-target $request_uri; proxy_set_header x-nginx-host $http_host;
    }}
  }}
}}
"""


class Peer:
    """A running server, spoken to over loopback."""

    def __init__(self, name: str, port: int) -> None:
        self.name, self.port = name, port

    def read(self, raw: bytes) -> tuple[list[dict[str, Any]], bytes]:
        """What the server says it read from these bytes on a connection of their own, and all that it answered."""
        with socket.create_connection(("127.0.0.1", self.port), PATIENCE_S) as sock:
            answer = b""
            with contextlib.suppress(ConnectionError):
                sock.sendall(raw)
                if SENTINEL not in raw:
                    sock.shutdown(socket.SHUT_WR)
                while part := sock.recv(65536):
                    answer += part
        return [self._seen(json.loads(base64.b64decode(found))) for found in _SEEN.findall(answer)], answer

    def _seen(self, found: dict[str, Any]) -> dict[str, Any]:
        said = found.pop("nginx", {})
        if self.name == "nginx":
            assert (said["x-nginx-method"], said["x-nginx-target"].rstrip("?")) == (
                found["method"],
                found["target"].rstrip("?"),
            )
            assert [said["x-nginx-host"]] == found["host"]
        return found


@contextlib.contextmanager
def servers(place: pathlib.Path) -> Iterator[list[Peer]]:
    """Start all three; where Node is not installed, two of them."""
    with contextlib.ExitStack() as stack:
        upstream = _inherited(stack, [sys.executable, str(PEERS / "asgi.py")])
        found = [Peer("uvicorn", upstream)]
        if (node := tool("node")) is not None:
            found.append(Peer("node", _inherited(stack, [node, str(PEERS / "node.js")])))
        port = free_port()
        config = place / "nginx.conf"
        config.write_text(_NGINX.format(place=place, port=port, upstream=upstream))
        nginx = tool("nginx")
        assert nginx is not None
        _started(stack, [nginx, "-p", str(place), "-c", str(config), "-e", "stderr"])
        end = time.monotonic() + PATIENCE_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert time.monotonic() < end, "nginx does not listen"
        yield [*found, Peer("nginx", port)]


def tool(name: str) -> str | None:
    """Where a program is: on PATH, or where Debian keeps those of the system."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")


def _inherited(stack: contextlib.ExitStack, command: list[str]) -> int:
    """Start a server with a listening socket, so that nobody has to wait for it to listen."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        _started(stack, [*command, str(listener.fileno())], listener.fileno())
        return int(listener.getsockname()[1])


def _started(stack: contextlib.ExitStack, command: list[str], *fds: int) -> None:
    process = subprocess.Popen(command, pass_fds=fds, stdin=subprocess.DEVNULL)
    stack.callback(process.wait, PATIENCE_S)
    stack.callback(process.kill)
