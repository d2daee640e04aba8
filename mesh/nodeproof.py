"""What a node signs to prove that it holds a key: the statement, byte for byte, and the signature over it.

The statement names its purpose, the server, the server's nonce, the node or attestor, and the new key, so that a
signature that was made for one of them is worth nothing for another. This module keeps no nonce and knows no node.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

_LABEL = b"limen/node-proof/1"
MIN_RSA_BITS, MAX_RSA_BITS = 2048, 8192
_PSS = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=hashes.SHA256.digest_size)
_CURVES: dict[str, type[hashes.SHA256 | hashes.SHA384 | hashes.SHA512]] = {
    "secp256r1": hashes.SHA256,
    "secp384r1": hashes.SHA384,
    "secp521r1": hashes.SHA512,
}


def statement(purpose: str, *, server_pin: str, nonce: str, name: str, spki: bytes) -> bytes:
    """The bytes to sign: every part with its length before it."""
    parts = (_LABEL, purpose.encode(), server_pin.encode(), nonce.encode(), name.encode(), spki)
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def sign_statement(key: object, data: bytes) -> bytes:
    """Sign with an EC key (P-256, P-384, P-521), an RSA key (PSS) or an Ed25519 key.

    Raises ValueError for any other.
    """
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in _CURVES:
        return key.sign(data, ec.ECDSA(_CURVES[key.curve.name]()))
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(data, _PSS, hashes.SHA256())
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key.sign(data)
    raise ValueError("an attested key is RSA, Ed25519, or EC on P-256, P-384 or P-521")


def is_signed(key: object, signature: bytes, data: bytes) -> bool:
    """Whether the statement was signed with the private half of a key; a key of another kind never signed it."""
    try:
        if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _CURVES:
            key.verify(signature, data, ec.ECDSA(_CURVES[key.curve.name]()))
        elif isinstance(key, rsa.RSAPublicKey) and MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS:
            key.verify(signature, data, _PSS, hashes.SHA256())
        elif isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, data)
        else:
            return False
    except (InvalidSignature, ValueError):
        return False
    return True
