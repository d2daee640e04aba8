"""Revocation lists: what counts, what says nothing."""

import datetime as dt
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import mldsa
from cryptography.hazmat.primitives.serialization import Encoding

from mesh.crl import is_listed
from tests.pki import NOW, Made, Pki

PKI = Pki()


def crl(
    issuer: Made, *serials: int, key: Any = None, reason: x509.ReasonFlags | None = None, stale: bool = False
) -> bytes:
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.certificate.subject)
        .last_update(NOW - dt.timedelta(days=9))
        .next_update(NOW - dt.timedelta(days=1) if stale else NOW + dt.timedelta(days=1))
    )
    for serial in serials:
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(NOW)
        if reason is not None:
            entry = entry.add_extension(x509.CRLReason(reason), critical=False)
        builder = builder.add_revoked_certificate(entry.build())
    algorithm = None if isinstance(key or issuer.key, mldsa.MLDSA65PrivateKey) else hashes.SHA256()
    return builder.sign(key or issuer.key, algorithm).public_bytes(Encoding.DER)


def test_names_what_it_lists_and_nothing_else() -> None:
    assert is_listed(7, crl(PKI.root, 7, 8), PKI.root.certificate)
    assert not is_listed(9, crl(PKI.root, 7, 8), PKI.root.certificate)


def test_a_stale_list_still_counts() -> None:
    assert is_listed(7, crl(PKI.root, 7, stale=True), PKI.root.certificate)


def test_a_list_of_an_unknown_version_says_nothing() -> None:
    changed = crl(PKI.root, 7).replace(b"\x02\x01\x01", b"\x02\x01\x09", 1)
    assert not is_listed(7, changed, PKI.root.certificate)


@pytest.mark.parametrize(
    "found", [b"", b"\x30\x00", b"x" * 100, b"0" * ((16 << 20) + 1)], ids=["empty", "short", "noise", "large"]
)
def test_what_does_not_parse_says_nothing(found: bytes) -> None:
    assert not is_listed(7, found, PKI.root.certificate)


def test_a_list_of_another_key_or_name_says_nothing() -> None:
    other = Pki()
    assert not is_listed(7, crl(PKI.root, 7, key=other.root.key), PKI.root.certificate)
    assert not is_listed(7, crl(PKI.signer(subject="other"), 7), PKI.root.certificate)


def test_what_was_removed_from_the_list_is_not_listed() -> None:
    assert not is_listed(7, crl(PKI.root, 7, reason=x509.ReasonFlags.remove_from_crl), PKI.root.certificate)
    assert is_listed(7, crl(PKI.root, 7, reason=x509.ReasonFlags.key_compromise), PKI.root.certificate)


def test_a_list_of_a_post_quantum_authority_counts() -> None:
    root = PKI.signer(subject="pq", key=mldsa.MLDSA65PrivateKey.generate())
    assert is_listed(7, crl(root, 7), root.certificate)
    twin = PKI.signer(subject="pq", key=mldsa.MLDSA65PrivateKey.generate())
    assert not is_listed(7, crl(root, 7, key=twin.key), root.certificate)
