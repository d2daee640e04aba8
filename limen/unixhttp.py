"""HTTP/1.1 over a Unix socket: how this host's server, and an OPA or an Envoy that a command started, are asked."""

from __future__ import annotations

import http.client
import pathlib
import socket


class UnixConnection(http.client.HTTPConnection):
    """An HTTP connection to the socket at ``path``; connecting and each answer may take ``timeout`` seconds.

    Raises OSError where nobody listens.
    """

    def __init__(self, path: pathlib.Path, *, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        """Connect, before the first request."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))
