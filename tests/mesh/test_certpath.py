"""Paths: pinned intermediates, revocation lists, keys of every kind, and what is remembered."""

import base64
import dataclasses
import datetime as dt
import hashlib
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, rsa

from mesh import certpath
from mesh.bundle import TrustBundle
from mesh.certpath import SvidError
from mesh.x509svid import verify_x509_svid
from tests.mesh.test_crl import crl
from tests.pki import NOW, Made, Pki

PKI = Pki()
ISSUING = PKI.signer(PKI.root, subject="issuing")
LEAF = PKI.leaf(issuer=ISSUING)


def verdict(*chain: Made, bundle: TrustBundle, now: dt.datetime = NOW) -> str:
    try:
        return str(verify_x509_svid([item.der for item in chain], {PKI.domain: bundle}, now).spiffe_id.path)
    except SvidError as err:
        return err.code


GOOD = "/ns/web/sa/front"


def pinned(*certificates: Made, **more: Any) -> TrustBundle:
    pins = frozenset(hashlib.sha256(item.der).hexdigest() for item in certificates)
    return dataclasses.replace(PKI.bundle(), intermediates=pins, **more)


def test_an_intermediate_counts_only_when_it_is_pinned_if_any_is() -> None:
    assert verdict(LEAF, ISSUING, bundle=PKI.bundle()) == GOOD
    assert verdict(LEAF, ISSUING, bundle=pinned(ISSUING)) == GOOD
    assert verdict(LEAF, ISSUING, bundle=pinned(PKI.signer(PKI.root))) == "LM1033"
    assert verdict(LEAF, ISSUING, bundle=pinned()) == "LM1033"


def test_a_leaf_right_below_an_authority_needs_no_pin() -> None:
    assert verdict(PKI.leaf(), bundle=pinned()) == GOOD


def test_ANY_revoked_certificate_on_the_path_refuses() -> None:
    for issuer, subject in ((ISSUING, LEAF), (PKI.root, ISSUING)):
        listed = crl(issuer, subject.certificate.serial_number, stale=True)
        assert verdict(LEAF, ISSUING, bundle=dataclasses.replace(PKI.bundle(), crls=(listed,))) == "LM1034"
    of_another = crl(PKI.root, LEAF.certificate.serial_number)
    assert verdict(LEAF, ISSUING, bundle=dataclasses.replace(PKI.bundle(), crls=(of_another,))) == GOOD


def test_what_was_verified_before_ends_with_the_path_and_with_the_bundle() -> None:
    short = PKI.signer(PKI.root, subject="short", end=NOW + dt.timedelta(minutes=5))
    leaf = PKI.leaf(issuer=short)
    assert verdict(leaf, short, bundle=PKI.bundle()) == GOOD
    assert verdict(leaf, short, bundle=PKI.bundle()) == GOOD
    assert verdict(leaf, short, bundle=PKI.bundle(), now=NOW + dt.timedelta(minutes=6)) == "LM1020"
    assert verdict(leaf, short, bundle=Pki().bundle()) == "LM1019"
    assert verdict(leaf, short, bundle=TrustBundle(trust_domain=PKI.domain)) == "LM1018"
    assert verdict(leaf, short, bundle=pinned()) == "LM1033"
    listed = crl(short, leaf.certificate.serial_number)
    assert verdict(leaf, short, bundle=dataclasses.replace(PKI.bundle(), crls=(listed,))) == "LM1034"


def test_a_bad_signature_is_never_remembered_as_good() -> None:
    twin = PKI.signer(subject="root of corp.test")
    below = PKI.signer(twin, subject="below")
    for _ in range(2):
        assert verdict(PKI.leaf(issuer=below), below, bundle=PKI.bundle()) == "LM1019"
    assert verdict(PKI.leaf(issuer=below), below, bundle=PKI.bundle(twin)) == GOOD
    assert verdict(PKI.leaf(issuer=below), below, bundle=PKI.bundle()) == "LM1019"


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certpath, "MAX_SIGNATURES_KEPT", 2)
    kept = certpath._Signatures()
    for _ in range(4):
        kept.check(PKI.signer(PKI.root).certificate, PKI.root.certificate)
    assert len(kept._good) == 2


KINDS = {
    "P-256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "P-384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "P-521": lambda: ec.generate_private_key(ec.SECP521R1()),
    "RSA-2048": lambda: rsa.generate_private_key(65537, 2048),
    "Ed25519": ed25519.Ed25519PrivateKey.generate,
    "ML-DSA-44": mldsa.MLDSA44PrivateKey.generate,
    "ML-DSA-65": mldsa.MLDSA65PrivateKey.generate,
    "ML-DSA-87": mldsa.MLDSA87PrivateKey.generate,
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_chain_of_any_strong_kind_of_key_verifies(kind: str) -> None:
    root: Any = PKI.signer(subject=f"root {kind}", key=KINDS[kind]())
    issuing: Any = PKI.signer(root, subject=f"issuing {kind}", key=KINDS[kind]())
    leaf = PKI.leaf(issuer=issuing, key=KINDS[kind]())
    assert verdict(leaf, issuing, bundle=PKI.bundle(root)) == GOOD
    assert verdict(leaf, issuing, bundle=PKI.bundle()) == "LM1019"


@pytest.mark.parametrize(
    "data", [b"", b"-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n", b"-----BEGIN CERTIFICATE-----\nMAA=\n"],
    ids=["nothing", "empty", "cut"],
)  # fmt: skip
def test_a_pem_text_without_a_certificate_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError, match="no PEM certificates"):
        certpath.read_pem(data)


def test_a_pem_certificate_of_an_unknown_version_is_a_value_error() -> None:
    # [0] version INTEGER 2 becomes 106; the library has an exception of its own for that, which is no ValueError
    der = LEAF.der.replace(bytes.fromhex("a003020102"), bytes.fromhex("a00302016a"), 1)
    text = b"-----BEGIN CERTIFICATE-----\n" + base64.b64encode(der) + b"\n-----END CERTIFICATE-----\n"
    with pytest.raises(ValueError, match="no PEM certificates"):
        certpath.read_pem(text)
    assert [found.serial_number for found in certpath.read_pem(LEAF.pem)] == [LEAF.certificate.serial_number]


def test_unused_bits_of_a_signature_are_refused() -> None:
    # a certificate with two encodings has two hashes: what is revoked or logged by hash would have a twin
    leaf = next(found for found in iter(lambda: PKI.leaf(issuer=ISSUING), None) if found.der[-1] & 1 == 0)
    at = len(leaf.der) - len(leaf.certificate.signature) - 1
    twin = bytes([*leaf.der[:at], 1, *leaf.der[at + 1 :]])
    assert x509.load_der_x509_certificate(twin).signature == leaf.certificate.signature
    with pytest.raises(SvidError, match="unused bits"):
        verify_x509_svid([twin, ISSUING.der], {PKI.domain: PKI.bundle()}, NOW)


def test_any_changed_bit_is_refused_with_a_code() -> None:
    for at in range(8 * len(LEAF.der)):
        raw = bytearray(LEAF.der)
        raw[at // 8] ^= 1 << at % 8
        with pytest.raises(SvidError):
            verify_x509_svid([bytes(raw), ISSUING.der], {PKI.domain: PKI.bundle()}, NOW)
