"""What revocation lists say (RFC 5280 §5): each is read and its signature checked once, then remembered.

A list counts for what it names also when it is stale, and whether or not its issuer's key usage has cRLSign: it can
only refuse more, and it is the issuer's key that signed it. A list that does not parse, or that somebody else signed,
says nothing. No list is fetched from anywhere.
"""

from __future__ import annotations

import functools

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import mldsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.utils import CryptographyDeprecationWarning

MAX_CRL_BYTES = 16 << 20
# what the library raises for certificates and lists that break its rules; not all of it is a ValueError
UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
    CryptographyDeprecationWarning,
)


def is_listed(serial: int, crl_der: bytes, issuer: x509.Certificate) -> bool:
    """Whether a list that this issuer signed names a serial number."""
    return serial in _listed(crl_der, issuer.public_bytes(Encoding.DER))


def is_signed(crl_der: bytes, issuer: x509.Certificate) -> bool:
    """Whether bytes are a list that this issuer signed."""
    try:
        crl = x509.load_der_x509_crl(crl_der)
        return len(crl_der) <= MAX_CRL_BYTES and crl.issuer == issuer.subject and _is_signed(crl, issuer)
    except (*UNREADABLE, InvalidSignature):
        return False


@functools.lru_cache(maxsize=64)
def _listed(crl_der: bytes, issuer_der: bytes) -> frozenset[int]:
    """The serial numbers that a list revokes; none when it is not this issuer's.

    1. The list has bounded size and parses.
    2. Its issuer is the certificate's subject, and its signature is of the certificate's key.
    3. An entry counts unless it says that the certificate is no longer listed (removeFromCRL).
    """
    # (1)
    if len(crl_der) > MAX_CRL_BYTES:
        return frozenset()
    issuer = x509.load_der_x509_certificate(issuer_der)
    try:
        crl = x509.load_der_x509_crl(crl_der)
        # (2)
        if crl.issuer != issuer.subject or not _is_signed(crl, issuer):
            return frozenset()
        # (3)
        return frozenset(item.serial_number for item in crl if not _is_removed(item))
    except (*UNREADABLE, InvalidSignature):
        return frozenset()


def _is_signed(crl: x509.CertificateRevocationList, issuer: x509.Certificate) -> bool:
    key = issuer.public_key()
    if isinstance(key, mldsa.MLDSA44PublicKey | mldsa.MLDSA65PublicKey | mldsa.MLDSA87PublicKey):
        key.verify(crl.signature, crl.tbs_certlist_bytes)
        return True
    return crl.is_signature_valid(key)  # type: ignore[arg-type]  # a key that cannot sign raises TypeError


def _is_removed(item: x509.RevokedCertificate) -> bool:
    try:
        return item.extensions.get_extension_for_class(x509.CRLReason).value.reason is x509.ReasonFlags.remove_from_crl
    except x509.ExtensionNotFound:
        return False
    except (ValueError, x509.DuplicateExtension):
        # an entry that cannot be read in full still names its certificate
        return False
