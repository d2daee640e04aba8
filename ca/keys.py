"""Private keys of the authority: P-256, in memory; `mesh.wrapping` wraps them at rest. No certificate, no database."""

from __future__ import annotations

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from mesh.problems import Invalid

_SPKI_BYTES = 91


def new_key() -> ec.EllipticCurvePrivateKey:
    """Make a P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def key_to_der(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The key as unencrypted PKCS#8 DER, for memory only."""
    return key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def key_from_der(data: bytes) -> ec.EllipticCurvePrivateKey:
    """Read what `key_to_der` wrote."""
    key = serialization.load_der_private_key(data, password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError("the authority's keys are on a P-256 curve")
    return key


def parse_spki(data: bytes) -> ec.EllipticCurvePublicKey:
    """Read the public key that an SVID is asked for: P-256, in canonical DER.

    Raises Invalid LM1203 for anything else.
    """
    # every P-256 key is 91 bytes in canonical DER: nothing else needs to be parsed
    if len(data) != _SPKI_BYTES:
        raise Invalid("LM1203")
    try:
        key = serialization.load_der_public_key(data)
    except (ValueError, TypeError, UnsupportedAlgorithm) as err:
        raise Invalid("LM1203") from err
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise Invalid("LM1203")
    if spki_der(key) != data:
        raise Invalid("LM1203")
    return key


def spki_der(key: ec.EllipticCurvePublicKey) -> bytes:
    """The key's SubjectPublicKeyInfo, DER."""
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
