"""ML-DSA-65 (FIPS 204) for roots, issuing authorities and leaves: the same demands as of P-256."""

import base64
import datetime as dt
import json
import pathlib
import socket
import threading

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL

from ca.keys import KeyAlgorithm, SigningKey, generate, parse_leaf_key, spki_der
from ca.upstream.chain import accept, build_csr
from ca.upstream.local import LocalUpstream, own_root
from mesh.bundle import TrustBundle, parse_bundle
from mesh.clock import SystemClock
from mesh.problems import Problem
from mesh.spiffe import TrustDomain
from mesh.x509svid import verify_x509_svid
from tests.ca.test_interop import read_by_py_spiffe
from tests.ca.upstream.chains import DAY, DOMAIN, Made, make

NOW = SystemClock().now().replace(microsecond=0)
PQ, EC = KeyAlgorithm.ML_DSA_65, KeyAlgorithm.P256


class World:
    """Root, issuing authority and leaves of given kinds."""

    def __init__(self, root: KeyAlgorithm, issuing: KeyAlgorithm) -> None:
        key = generate(root)
        self.root = own_root(DOMAIN, key, now=NOW)
        self.issuing_key = generate(issuing)
        upstream = LocalUpstream(DOMAIN, self.root, key)
        answer = upstream.mint(build_csr(self.issuing_key, DOMAIN), NOW)
        self.chain = accept(answer, self.issuing_key, DOMAIN, NOW, upstream="own").chain
        self.issuing = Made(x509.load_der_x509_certificate(self.chain[0]), self.issuing_key)
        self.bundle = TrustBundle(trust_domain=DOMAIN, x509_authorities=(self.root.public_bytes(Encoding.DER),))

    def leaf(self, name: str, kind: KeyAlgorithm, **facts: object) -> Made:
        key = generate(kind)
        every = {"ca": False, "signs": False, "begin": NOW - dt.timedelta(seconds=5), "end": NOW + DAY, **facts}
        return Made(make("leaf", key.public_key, self.issuing, uri=name, **every), key)  # type: ignore[arg-type]

    def verify(self, leaf: bytes, *more: bytes, now: dt.datetime = NOW) -> str:
        return str(verify_x509_svid([leaf, *(more or self.chain)], {DOMAIN: self.bundle}, now).spiffe_id)


NAME = "spiffe://corp.test/ns/shop/sa/web"


@pytest.mark.parametrize(
    ("root", "issuing", "leaf"),
    [(PQ, PQ, PQ), (PQ, PQ, EC), (EC, PQ, PQ), (PQ, EC, EC), (EC, EC, PQ), (KeyAlgorithm.RSA_3072, PQ, PQ)],
)
def test_chains_of_any_mixture_verify(root: KeyAlgorithm, issuing: KeyAlgorithm, leaf: KeyAlgorithm) -> None:
    world = World(root, issuing)
    assert world.verify(world.leaf(NAME, leaf).der) == NAME


@pytest.fixture(scope="module")
def world() -> World:
    return World(PQ, PQ)


@pytest.mark.parametrize("position", [0.1, 0.5, 0.9, 0.999])
def test_a_changed_leaf_does_not_verify(world: World, position: float) -> None:
    data = bytearray(world.leaf(NAME, PQ).der)
    data[int(position * (len(data) - 1))] ^= 1
    with pytest.raises(Problem, match=r"LM10\d\d"):
        world.verify(bytes(data))


def test_another_root_does_not_vouch(world: World) -> None:
    other = World(PQ, PQ)
    with pytest.raises(Problem, match="LM1019"):
        other.verify(world.leaf(NAME, PQ).der, *world.chain)


@pytest.mark.parametrize(
    ("facts", "code"),
    [
        ({"ca": True, "signs": True}, "LM1014"),
        ({"end": NOW - dt.timedelta(seconds=1)}, "LM1020"),
        ({"begin": NOW + dt.timedelta(seconds=1)}, "LM1020"),
    ],
)
def test_the_rules_for_leaves_are_the_same(world: World, facts: dict[str, object], code: str) -> None:
    with pytest.raises(Problem, match=code):
        world.verify(world.leaf(NAME, PQ, **facts).der)


def test_a_leaf_key_is_an_opt_in() -> None:
    data = spki_der(generate(PQ).public_key)
    assert spki_der(parse_leaf_key(data, {EC, PQ})) == data
    with pytest.raises(Problem, match="LM1203"):
        parse_leaf_key(data, {EC})


def test_a_bundle_with_such_a_root_reads_back(world: World) -> None:
    document = world.bundle.to_json()
    (key,) = json.loads(document)["keys"]
    assert (key["kty"], key["alg"], key["use"]) == ("AKP", "ML-DSA-65", "x509-svid")
    raw = world.root.public_key().public_bytes_raw()  # type: ignore[union-attr]  # an ML-DSA key
    assert base64.urlsafe_b64decode(key["pub"] + "=") == raw
    assert parse_bundle(TrustDomain("corp.test"), document).x509_authorities == world.bundle.x509_authorities


def context(world: World, made: Made, folder: pathlib.Path, method: int) -> SSL.Context:
    """Mutual TLS 1.3, X25519MLKEM768, with an SVID; the chain is for our own verifier, after OpenSSL's."""
    found = SSL.Context(method)
    found.set_min_proto_version(SSL.TLS1_3_VERSION)
    pems = [made.pem, *(x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM) for der in world.chain)]
    (folder / "chain.pem").write_bytes(b"".join(pems))
    (folder / "key.pem").write_bytes(pem(made.key))
    (folder / "root.pem").write_bytes(world.root.public_bytes(Encoding.PEM))
    # pyOpenSSL takes no ML-DSA key objects, but files
    found.use_certificate_chain_file(str(folder / "chain.pem"))
    found.use_privatekey_file(str(folder / "key.pem"))
    found.load_verify_locations(str(folder / "root.pem"))
    found.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, lambda *facts: bool(facts[-1]))
    return found


def pem(key: SigningKey) -> bytes:
    return key.key.private_bytes(Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def test_a_mutual_handshake_between_two_such_svids(world: World, tmp_path: pathlib.Path) -> None:
    ends = socket.socketpair()
    made = {}
    for name, end, method in (("db", ends[0], SSL.TLS_SERVER_METHOD), ("web", ends[1], SSL.TLS_CLIENT_METHOD)):
        folder = tmp_path / name
        folder.mkdir()
        svid = world.leaf(f"spiffe://corp.test/ns/shop/sa/{name}", PQ)
        end.settimeout(None)
        made[name] = SSL.Connection(context(world, svid, folder, method), end)
    made["db"].set_accept_state()
    made["web"].set_connect_state()
    said: list[bytes] = []

    def serve() -> None:
        made["db"].do_handshake()
        said.append(made["db"].recv(100))
        made["db"].sendall(b"hello web")

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    made["web"].do_handshake()
    made["web"].sendall(b"hello db")
    assert made["web"].recv(100) == b"hello web"
    thread.join(10)
    assert said == [b"hello db"]
    assert made["web"].get_protocol_version_name() == "TLSv1.3"
    for end, name in (("web", "db"), ("db", "web")):
        found = made[end].get_peer_certificate(as_cryptography=True)
        assert found is not None
        assert world.verify(found.public_bytes(Encoding.DER)) == f"spiffe://corp.test/ns/shop/sa/{name}"
    for end in ends:
        end.close()


def test_py_spiffe_reads_such_an_svid_and_pythons_ssl_does_not(world: World, tmp_path: pathlib.Path) -> None:
    """What docs/adr/0018-ml-dsa.md says of clients."""
    import ssl

    made = world.leaf(NAME, PQ)
    assert read_by_py_spiffe(tmp_path, made.der + world.chain[0], made.key) == NAME
    (tmp_path / "pair.pem").write_bytes(made.pem + pem(made.key))
    with pytest.raises(ssl.SSLError):
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(str(tmp_path / "pair.pem"))
