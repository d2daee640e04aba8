"""Authorities of every kind of key, as other implementations see what they sign."""

import dataclasses
import datetime as dt
import pathlib
import subprocess
import sys

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ca import mint
from ca.keys import KeyAlgorithm, SigningKey, generate, private_to_der
from ca.mint import Issuer
from mesh.bundle import TrustBundle
from mesh.clock import SystemClock
from mesh.spiffe import SpiffeId
from mesh.x509svid import verify_x509_svid
from tests.ca.upstream.chains import DOMAIN
from tests.ca.upstream.stepca import binary
from tests.tools import needs

NOW = SystemClock().now().replace(microsecond=0)
HOUR = dt.timedelta(hours=1)
NAME = SpiffeId.parse("spiffe://corp.test/ns/shop/sa/web")
P256, P384, RSA2, RSA3 = KeyAlgorithm.P256, KeyAlgorithm.P384, KeyAlgorithm.RSA_2048, KeyAlgorithm.RSA_3072
KINDS = [(P256, P256), (P384, P384), (RSA2, RSA2), (RSA3, P256), (P384, RSA2), (P256, P384)]


@dataclasses.dataclass(frozen=True)
class Chain:
    """A root, an issuing authority below it, and a leaf of P-256."""

    root: bytes
    issuing: bytes
    leaf: bytes
    key: SigningKey

    def write(self, folder: pathlib.Path) -> None:
        for name, ders in (("root", [self.root]), ("issuing", [self.issuing]), ("leaf", [self.leaf])):
            (folder / name).write_bytes(pem(*ders))
        (folder / "chain").write_bytes(pem(self.leaf, self.issuing))


def pem(*ders: bytes) -> bytes:
    return b"".join(x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM) for der in ders)


def chain(root: KeyAlgorithm, issuing: KeyAlgorithm, leaf_kind: KeyAlgorithm = P256) -> Chain:
    root_key, issuing_key, leaf_key = generate(root), generate(issuing), generate(leaf_kind)
    first = mint.mint_root(DOMAIN, root_key.key, serial=1, now=NOW, life=100 * HOUR)
    above = Issuer(certificate=x509.load_der_x509_certificate(first), key=root_key.key)
    second = mint.mint_intermediate(DOMAIN, issuing_key.public_key, above, serial=2, now=NOW, life=10 * HOUR)
    issuer = Issuer(certificate=x509.load_der_x509_certificate(second), key=issuing_key.key)
    leaf = mint.mint_svid(NAME, leaf_key.public_key, issuer, serial=3, now=NOW, life=HOUR)
    return Chain(first, second, leaf, leaf_key)


@pytest.fixture(scope="module", params=KINDS, ids="-over-".join)
def made(request: pytest.FixtureRequest) -> Chain:
    return chain(*request.param)


@pytest.mark.parametrize("leaf", [P256, KeyAlgorithm.ML_DSA_65])
@pytest.mark.parametrize("kinds", [(KeyAlgorithm.ML_DSA_65,) * 2, (P256, KeyAlgorithm.ML_DSA_65)], ids="-over-".join)
def test_our_own_verifier_accepts_post_quantum_chains(
    kinds: tuple[KeyAlgorithm, KeyAlgorithm], leaf: KeyAlgorithm
) -> None:
    test_our_own_verifier_accepts_it(chain(*kinds, leaf))


def test_our_own_verifier_accepts_it(made: Chain) -> None:
    bundles = {DOMAIN: TrustBundle(trust_domain=DOMAIN, x509_authorities=(made.root,))}
    assert verify_x509_svid([made.leaf, made.issuing], bundles, NOW).spiffe_id == NAME


# in a process of its own: its Protobuf messages have the names of ours
PY_SPIFFE = """
import pathlib, sys
from spiffe import X509Svid
print(X509Svid.parse_raw(*(pathlib.Path(name).read_bytes() for name in sys.argv[1:])).spiffe_id)
"""


def read_by_py_spiffe(folder: pathlib.Path, chain_der: bytes, key: SigningKey) -> str:
    (folder / "chain.der").write_bytes(chain_der)
    (folder / "key.der").write_bytes(private_to_der(key.key))
    command = [sys.executable, "-c", PY_SPIFFE, str(folder / "chain.der"), str(folder / "key.der")]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.strip()


def test_py_spiffe_reads_it(made: Chain, tmp_path: pathlib.Path) -> None:
    assert read_by_py_spiffe(tmp_path, made.leaf + made.issuing, made.key) == str(NAME)


@pytest.mark.peer
@needs("openssl")
@pytest.mark.parametrize("purpose", ["sslserver", "sslclient"])
def test_openssl_accepts_it_as_server_and_client(made: Chain, tmp_path: pathlib.Path, purpose: str) -> None:
    made.write(tmp_path)
    strict = ["-x509_strict", "-check_ss_sig", "-purpose", purpose]
    command = ["openssl", "verify", *strict, "-CAfile", "root", "-untrusted", "issuing", "leaf"]
    done = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr


@pytest.mark.peer
@pytest.mark.slow
def test_go_spiffe_accepts_it(made: Chain, tmp_path: pathlib.Path) -> None:
    made.write(tmp_path)
    command = [binary("spiffe-verify"), "chain", "root", "corp.test"]
    done = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True, timeout=30)
    assert done.stdout.strip() == str(NAME), done.stderr
    # and it does look: without the issuing authority nothing vouches
    alone = subprocess.run(
        [command[0], "leaf", *command[2:]], cwd=tmp_path, check=False, capture_output=True, timeout=30
    )
    assert alone.returncode == 1


@pytest.mark.peer
@pytest.mark.slow
def test_go_spiffe_on_ml_dsa_is_known(tmp_path: pathlib.Path) -> None:
    """docs/adr/0018-ml-dsa.md says that it refuses; when this fails, there is good news to tell."""
    chain(KeyAlgorithm.ML_DSA_65, KeyAlgorithm.ML_DSA_65).write(tmp_path)
    command = [binary("spiffe-verify"), "chain", "root", "corp.test"]
    assert subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, timeout=30).returncode == 1
