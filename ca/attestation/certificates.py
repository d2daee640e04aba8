"""Chains of other people's authorities: a machine's certificate, a TPM's endorsement key.

These are no SPIFFE certificates, so `mesh.x509svid` has no say: RFC 5280 path validation is pyca's, and what its
permissive policies leave out is checked here. This module knows no purpose: callers look at key usages themselves.
"""

from __future__ import annotations

import datetime as dt
import warnings

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.oid import ExtensionOID
from cryptography.x509.verification import Criticality, ExtensionPolicy, Policy, PolicyBuilder, Store, VerificationError

from mesh.certpath import ends_whole, read_pem
from mesh.crl import UNREADABLE

MAX_CHAIN = 6
MAX_CERTIFICATE_BYTES = 16 * 1024
# what may be critical in a leaf because it is understood here or by the caller
_HANDLED = frozenset(
    {
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
        ExtensionOID.CERTIFICATE_POLICIES,
    }
)


def read_certificates(pem: bytes) -> tuple[bytes, ...]:
    """The certificates of a PEM file, DER.

    Raises ValueError for a file without any.
    """
    found = read_pem(pem)
    return tuple(item.public_bytes(Encoding.DER) for item in found)


def verify_path(chain: list[bytes], authorities: tuple[bytes, ...], now: dt.datetime) -> x509.Certificate:
    """Verify a chain, leaf first, up to one of the authorities; return the leaf.

    1. It is short, and every certificate can be read, and ends in its signature.
    2. The path is valid now (RFC 5280 §6); EVERY certificate above the leaf is an authority that may sign others.
    3. The leaf is no authority, and holds nothing critical that nobody here understands.

    Raises ValueError with a sentence.
    """
    # (1)
    if not 1 <= len(chain) <= MAX_CHAIN or any(len(der) > MAX_CERTIFICATE_BYTES for der in chain):
        raise ValueError(f"a chain has 1 to {MAX_CHAIN} certificates of at most {MAX_CERTIFICATE_BYTES} bytes")
    with warnings.catch_warnings():
        # what the library will refuse one day is refused here already by what follows
        warnings.simplefilter("ignore", CryptographyDeprecationWarning)
        try:
            leaf, *others = [x509.load_der_x509_certificate(der) for der in chain]
            roots = [x509.load_der_x509_certificate(der) for der in authorities]
            extensions = list(leaf.extensions)
            if not all(ends_whole(der, found.signature) for der, found in zip(chain, [leaf, *others], strict=True)):
                raise ValueError("bits that are not used are not counted right")
            # (2)
            verifier = (
                PolicyBuilder()
                .store(Store(roots))
                .time(now)
                .max_chain_depth(MAX_CHAIN)
                .extension_policies(ca_policy=_AUTHORITY, ee_policy=ExtensionPolicy.permit_all())
                .build_client_verifier()
            )
            verifier.verify(leaf, others)
        except VerificationError as err:
            raise ValueError(f"its chain does not lead to a configured authority at {now:%Y-%m-%dT%H:%M:%SZ}") from err
        except UNREADABLE as err:
            raise ValueError("its chain cannot be read") from err
    # (3)
    for extension in extensions:
        if extension.critical and extension.oid not in _HANDLED:
            raise ValueError(f"its certificate has a critical extension {extension.oid.dotted_string}")
        if isinstance(extension.value, x509.BasicConstraints) and extension.value.ca:
            raise ValueError("its certificate is an authority's")
    return leaf


def _may_sign(policy: Policy, certificate: x509.Certificate, found: x509.BasicConstraints) -> None:
    del policy, certificate
    if not found.ca:
        raise ValueError("no authority")


def _signs(policy: Policy, certificate: x509.Certificate, found: x509.KeyUsage | None) -> None:
    del policy, certificate
    if found is not None and not found.key_cert_sign:
        raise ValueError("may not sign certificates")


_AUTHORITY = (
    ExtensionPolicy.permit_all()
    .require_present(x509.BasicConstraints, Criticality.AGNOSTIC, _may_sign)
    .may_be_present(x509.KeyUsage, Criticality.AGNOSTIC, _signs)
)
