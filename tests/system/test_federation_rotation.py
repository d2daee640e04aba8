"""A running installation whose federated peer rotates its root: callers of either root pass, until one is taken out."""

import json
import pathlib
import re
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mesh.bundle import TrustBundle
from mesh.spiffe import SpiffeId
from mesh.tls import client_context
from mesh.x509svid import X509Svid
from tests.bundleendpoint import Endpoint, context_of, serving
from tests.conformance.test_federation import LIFE, Peer
from tests.enforcer.test_agent import APP
from tests.pki import Made
from tests.ports import free_port

pytestmark = pytest.mark.system


class Caller:
    """A workload of the peer, outside any Limen: an SVID and a TLS connection that it keeps."""

    def __init__(self, made: Made, port: int) -> None:
        from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

        self.svid = X509Svid(
            spiffe_id=SpiffeId.parse("spiffe://b.test/cart"),
            chain_der=(made.der,),
            key_pkcs8_der=made.key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()),
            not_after=made.certificate.not_valid_after_utc,
        )
        self.port = port
        self.tls: ssl.SSLSocket | None = None

    def connect(self, own: TrustBundle) -> None:
        import socket

        context = client_context(self.svid, {own.trust_domain: own})
        self.tls = context.wrap_socket(socket.create_connection(("127.0.0.1", self.port), timeout=60))

    def ask(self) -> int:
        """The status of a request on the connection that is kept; 0 when it is not there any more."""
        assert self.tls is not None
        try:
            self.tls.sendall(b"GET /ok HTTP/1.1\r\nhost: db\r\n\r\n")
            data = b""
            while b"\r\n\r\n" not in data or len(data.partition(b"\r\n\r\n")[2]) < _length(data):
                found = self.tls.recv(4096)
                if not found:
                    return 0
                data += found
            return int(data.split()[1])
        except OSError:
            return 0

    def once(self, own: TrustBundle) -> int:
        """The status of a request on a connection of its own."""
        try:
            self.connect(own)
            return self.ask()
        except OSError:
            return 0
        finally:
            self.close()

    def close(self) -> None:
        if self.tls is not None:
            self.tls.close()
            self.tls = None


def _length(data: bytes) -> int:
    found = re.search(rb"content-length: ([0-9]+)", data, re.IGNORECASE)
    return int(found.group(1)) if found else 0


@pytest.fixture
def db(make_installation: Callable[..., Any], tmp_path: pathlib.Path) -> Iterator[tuple[Any, int]]:
    installation = make_installation()
    tmp_path.chmod(0o755)
    (tmp_path / "db").write_text(APP)
    installation.rules(f'rules:\n- id: s\n  match: {{"launch:script": "{tmp_path}/*"}}\n  spiffe_id: "/db"\n')
    inbound, app = free_port(), free_port()
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "db.yaml").write_text(
        "apiVersion: limen.dev/v1\nkind: Service\nmetadata: {name: db, owner: t}\nspec:\n"
        f'  identities: ["spiffe://test.limen/db"]\n  ports: [{{port: {inbound}, protocol: http}}]\n---\n'
        "apiVersion: limen.dev/v1\nkind: Policy\nmetadata: {name: p, owner: t}\nspec:\n  service: db\n  tier: app\n"
        '  rules:\n  - {id: r, effect: allow, from: ["spiffe://b.test/cart"], to: [{methods: [GET]}]}\n'
    )
    assert installation.limen("policy", "publish", "--policies", str(tree)).returncode == 0
    words = ["run", "--inbound", f"{inbound}={app}", "--", sys.executable, str(tmp_path / "db"), str(app)]
    process = subprocess.Popen([sys.executable, "-m", "limen", "--state", str(installation.state), *words])
    yield installation, inbound
    process.terminate()
    process.wait(timeout=100)


def publish(endpoint: Endpoint, peer: Peer, *roots: Made) -> None:
    peer.sequence += 1
    found = TrustBundle(
        trust_domain=peer.bundle().trust_domain,
        x509_authorities=tuple(item.der for item in roots),
        sequence=peer.sequence,
        refresh_hint=5,
    )
    endpoint.serve(found.to_json())


def metrics(installation: Any) -> str:
    with urllib.request.urlopen(installation.address("server", "metrics"), timeout=60) as answer:
        return str(answer.read().decode())


def test_the_peers_root_rotates_and_nothing_fails(
    db: tuple[Any, int], tmp_path: pathlib.Path, until: Callable[..., Any]
) -> None:
    from mesh.bundle import parse_bundle
    from mesh.spiffe import TrustDomain

    installation, port = db
    own = parse_bundle(TrustDomain.parse("test.limen"), installation.limen("bundle", "show").stdout.encode())
    peer = Peer()
    first, second = peer.roots[0], peer.root()
    with serving(context_of([peer.leaf()])) as endpoint:
        publish(endpoint, peer, first)
        (tmp_path / "b.pem").write_bytes(first.pem)
        command = ("federation", "add", "b.test", "--url", endpoint.url, "--profile", "https_spiffe")
        more = ("--endpoint-id", "spiffe://b.test/endpoint", "--bundle", str(tmp_path / "b.pem"), "-o", "json")
        assert json.loads(installation.limen(*command, *more).stdout)["failed_polls"] == 0

        old = Caller(peer.pki.leaf("/cart", issuer=first, **LIFE), port)
        new = Caller(peer.pki.leaf("/cart", issuer=second, **LIFE), port)
        until(lambda: old.once(own) == 200, 200)
        assert new.once(own) == 0
        kept = Caller(peer.pki.leaf("/cart", issuer=first, **LIFE), port)
        kept.connect(own)
        assert kept.ask() == 200

        # published: the server polls by itself, at the hint of five seconds; no request fails meanwhile
        publish(endpoint, peer, first, second)
        end = time.monotonic() + 200
        while new.once(own) != 200:
            assert kept.ask() == 200
            assert old.once(own) == 200
            assert time.monotonic() < end
        assert kept.ask() == 200

        # the old root is taken out: its callers are refused, and the connection that one of them kept is closed
        publish(endpoint, peer, second)
        until(lambda: old.once(own) == 0 or new.once(own) != 200, 200)
        assert new.once(own) == 200
        until(lambda: kept.ask() == 0, 200)
        assert 'limen_federation_failed_polls{trust_domain="b.test"}' in metrics(installation)
        assert 'limen_federation_bundle_age_seconds{trust_domain="b.test"}' in metrics(installation)
        # by now the endpoint's own SVID is of a root that is gone: it proves nothing more, and the bundle stays
        refreshed = installation.limen("federation", "refresh", "b.test", "-o", "json")
        assert json.loads(refreshed.stdout)["code"] == "LM1510"
        assert new.once(own) == 200
        kept.close()
