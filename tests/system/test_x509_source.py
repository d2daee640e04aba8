"""py-spiffe's X509Source, unchanged, through a rotation of the X.509 authorities: both roots, then the new SVID.

Two programs, each with a source of its own, shake hands with OpenSSL's verification of what their sources hold at that
moment. Nothing of Limen is in either of them.
"""

import json
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
  spiffe_id: "/source/program"
  direct: true
  ttl: 1h
"""
BOTH = """
import hashlib, json, os, socket, ssl, sys
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from spiffe import TrustDomain, X509Source
source = X509Source(socket_path=sys.argv[1])
OURS = [("URI", "spiffe://test.limen/source/program")]

def authorities():
    return source.get_bundle_for_trust_domain(TrustDomain("test.limen")).x509_authorities

def context(kind):
    svid, made = source.svid, ssl.SSLContext(kind)
    made.check_hostname, made.verify_mode = False, ssl.CERT_REQUIRED
    made.load_verify_locations(cadata="".join(c.public_bytes(Encoding.PEM).decode() for c in authorities()))
    handle = os.memfd_create("svid")
    pem = svid.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    os.write(handle, pem + b"".join(c.public_bytes(Encoding.PEM) for c in svid.cert_chain))
    made.load_cert_chain(f"/proc/self/fd/{handle}")
    os.close(handle)
    return made

def is_ours(tls):
    return [name for name in tls.getpeercert()["subjectAltName"]] == OURS
"""
SERVER = (
    BOTH
    + """
with socket.create_server(("127.0.0.1", 0)) as server:
    print(server.getsockname()[1], flush=True)
    while True:
        sock, _ = server.accept()
        try:
            with context(ssl.PROTOCOL_TLS_SERVER).wrap_socket(sock, server_side=True) as tls:
                tls.sendall(tls.recv(100) if is_ours(tls) else b"another")
        except OSError as err:
            print("refused", err, file=sys.stderr, flush=True)
"""
)
CLIENT = (
    BOTH
    + """
for line in sys.stdin:
    said = {"ok": False, "error": ""}
    try:
        sock = socket.create_connection(("127.0.0.1", int(sys.argv[2])), timeout=60)
        with context(ssl.PROTOCOL_TLS_CLIENT).wrap_socket(sock) as tls:
            tls.sendall(line.encode())
            said["ok"] = tls.recv(100) == line.encode() and is_ours(tls)
            said["peer"] = tls.getpeercert()["serialNumber"]
    except OSError as err:
        said["error"] = repr(err)
    said["own"] = f"{source.svid.leaf.serial_number:X}"
    said["roots"] = sorted(hashlib.sha256(c.public_bytes(Encoding.DER)).hexdigest() for c in authorities())
    print(json.dumps(said), flush=True)
"""
)


class Pair:
    """A server and a client, each with its own X509Source."""

    def __init__(self, installation: Any, folder: pathlib.Path) -> None:
        self.address, self.folder = f"unix://{installation.state / 'agent.sock'}", folder
        self.started: list[subprocess.Popen[str]] = []
        server = self._start(SERVER)
        assert server.stdout is not None
        self.client = self._start(CLIENT, server.stdout.readline().strip())
        self.sent = 0

    def _start(self, program: str, *arguments: str) -> subprocess.Popen[str]:
        with (self.folder / f"{len(self.started)}.err").open("w") as errors:
            found = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-c", program, self.address, *arguments],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
            )  # fmt: skip
        self.started.append(found)
        return found

    def shake(self) -> dict[str, Any]:
        """One more handshake, which succeeds, and what the client's source holds after it."""
        assert self.client.stdin is not None
        assert self.client.stdout is not None
        print("hello", file=self.client.stdin, flush=True)
        said: dict[str, Any] = json.loads(self.client.stdout.readline())
        self.sent += 1
        assert said["ok"], (self.sent, said)
        return said

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


def test_a_source_sees_the_new_root_before_the_new_svid_and_no_handshake_fails(pair: tuple[Any, Pair]) -> None:
    installation, found = pair
    client = Client(installation.state / "server.sock")
    before = found.shake()
    assert len(before["roots"]) == 1
    # another root: prepared, shown to every validator, and only then signed with
    made = client.call("POST", "/v1/authorities/rotate", {"kind": "root", "force": False})["authority"]
    seen: list[dict[str, Any]] = []
    while client.call("GET", f"/v1/authorities/{made}")["state"] != "active":
        seen.append(found.shake())
    both = found.shake()
    while len(both["roots"]) < 2:
        both = found.shake()
    assert set(before["roots"]) < set(both["roots"])
    # SVIDs of the new authority reach the open streams of both programs
    client.call("POST", "/v1/rotate", {})
    after = found.shake()
    while after["own"] == before["own"] or after["peer"] == before["peer"]:
        seen.append(after)
        after = found.shake()
    assert set(before["roots"]) < set(after["roots"])
    # whoever shows an SVID of the new authority trusts its root already
    assert all(len(item["roots"]) == 2 for item in seen if item["own"] != before["own"])
    for _ in range(20):
        found.shake()
    # and the old root goes, where it is told to: with it the old SVIDs would fail, the new ones do not
    old = next(
        row["id"]
        for row in client.call("GET", "/v1/authorities")["authorities"]
        if row["kind"] == "root" and row["state"] == "old"
    )
    for verb in ("taint", "revoke"):
        client.call("POST", f"/v1/authorities/{old}/{verb}", {"force": True})
    while (last := found.shake())["roots"] != sorted(set(after["roots"]) - set(before["roots"])):
        pass
    assert len(last["roots"]) == 1
    assert found.sent > 30
