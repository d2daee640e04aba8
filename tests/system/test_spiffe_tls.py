"""spiffe-tls, unchanged, on our Workload API: mutual TLS between two programs, and no request fails in a rotation.

A handshake for every request, of SVIDs that change all the time: renewed, of another authority, of another root.
"""

import os
import pathlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from limen.client import Client

pytestmark = [pytest.mark.peer, pytest.mark.system, pytest.mark.slow]
RULES = """\
rules:
- id: programs
  match: {{"unix:uid": "{uid}"}}
  spiffe_id: "/tls/program"
  direct: true
  ttl: 1h
"""
# a context for each connection: the library changes one in place, certificate and key one after the other
SERVER = """
import socket, sys
from OpenSSL import SSL
from spiffe import SpiffeId, X509Source
from spiffetls import create_ssl_context
from spiffetls.tlsconfig.authorize import authorize_id
source = X509Source(socket_path=sys.argv[1])
with socket.create_server(("127.0.0.1", 0)) as server:
    print(server.getsockname()[1], flush=True)
    while True:
        sock, _ = server.accept()
        own = authorize_id(SpiffeId("spiffe://test.limen/tls/program"))
        try:
            tls = SSL.Connection(create_ssl_context(SSL.TLS_SERVER_METHOD, source, own), sock)
            tls.set_accept_state()
            tls.sendall(tls.recv(100))
            tls.shutdown()
        except SSL.Error as err:
            print("refused", err, file=sys.stderr, flush=True)
        sock.close()
"""
CLIENT = """
import sys
from spiffe import SpiffeId, X509Source
from spiffetls import dial
from spiffetls.tlsconfig.authorize import authorize_id
source = X509Source(socket_path=sys.argv[1])
ours = authorize_id(SpiffeId("spiffe://test.limen/tls/" + sys.argv[3]))
for line in sys.stdin:
    try:
        tls = dial("127.0.0.1:" + sys.argv[2], source, authorize_fn=ours)
        tls.sendall(line.encode())
        serial = tls.get_peer_certificate().get_serial_number()
        print("ok" if tls.recv(100) == line.encode() else "other", f"{serial:x}", flush=True)
        tls.close()
    except Exception as err:
        print("failed", repr(err).replace(chr(10), " "), flush=True)
"""


class Pair:
    """A server and a client."""

    def __init__(self, installation: Any, folder: pathlib.Path) -> None:
        self.folder = folder
        self.address = f"unix://{installation.state / 'agent.sock'}"
        self.started: list[subprocess.Popen[str]] = []
        self.server = self.start(SERVER)
        assert self.server.stdout is not None
        self.port = self.server.stdout.readline().strip()
        self.client = self.start(CLIENT, self.port, "program")
        self.serials: set[str] = set()
        self.sent = 0

    def start(self, program: str, *arguments: str) -> subprocess.Popen[str]:
        with (self.folder / f"{len(self.started)}.err").open("w") as errors:
            found = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-c", program, self.address, *arguments],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
            )  # fmt: skip
        self.started.append(found)
        return found

    def ask(self, client: subprocess.Popen[str] | None = None) -> str:
        found = client or self.client
        assert found.stdin is not None
        assert found.stdout is not None
        print("hello", file=found.stdin, flush=True)
        return found.stdout.readline().strip()

    def request(self) -> None:
        """One more, counted."""
        word, _, rest = self.ask().partition(" ")
        self.sent += 1
        assert word == "ok", (self.sent, word, rest)
        self.serials.add(rest)

    def stop(self) -> None:
        for process in self.started:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                assert stream is not None
                stream.close()


@pytest.fixture
def pair(make_installation: Callable[..., Any], tmp_path: pathlib.Path) -> Iterator[tuple[Any, Pair]]:
    installation = make_installation()
    installation.rules(RULES.format(uid=os.geteuid()))
    found = Pair(installation, tmp_path)
    yield installation, found
    found.stop()


def test_no_request_fails_while_svids_issuing_authorities_and_roots_rotate(pair: tuple[Any, Pair]) -> None:
    installation, found = pair
    client = Client(installation.state / "server.sock")
    found.request()
    for step in ("svids", "issuing", "root", "svids", "root"):
        seen = set(found.serials)
        if step != "svids":
            made = client.call("POST", "/v1/authorities/rotate", {"kind": step, "force": False})["authority"]
            while client.call("GET", f"/v1/authorities/{made}")["state"] != "active":
                found.request()
        client.call("POST", "/v1/rotate", {})
        # until the server shows what is new, and for a while after
        while not found.serials - seen:
            found.request()
        for _ in range(20):
            found.request()
    assert len(found.serials) >= 6
    assert found.sent > 100


def test_another_identity_than_the_one_that_is_asked_for_is_refused(pair: tuple[Any, Pair]) -> None:
    _, found = pair
    other = found.start(CLIENT, found.port, "other")
    said = found.ask(other)
    assert said.startswith("failed TLSConnectionError"), said
    assert found.ask().startswith("ok")
