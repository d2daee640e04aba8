"""Signing keys: their kinds, and the small value that everything which signs holds. No certificate, no database.

P-256 is what is made by default; P-384 and RSA are for interoperation, ML-DSA-65 is an opt-in that not every peer can
verify. A key that lives in a token is a subclass of the library's own key class (its documented way for HSMs), so
that certificate, CRL and OCSP builders take it like any other. `ca.keysource` says where keys are kept.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import hashlib
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, mldsa, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from mesh.problems import Invalid

_SPKI_BYTES = 91
# SubjectPublicKeyInfo of P-256 up to the coordinates (RFC 5480 §2)
_P256_SPKI = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d03010703420004")
_P256 = ec.SECP256R1()
# FIPS 186-4 §D.1.2.3
_P = 2**256 - 2**224 + 2**192 + 2**96 - 1
_B = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B
_MAX_SPKI_BYTES = 4096
PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | mldsa.MLDSA65PrivateKey
PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey | mldsa.MLDSA65PublicKey
SignAll = Callable[[Sequence[bytes]], list[bytes]]
"""Signs each of some parts, in order."""


class _Digest(Protocol):
    def digest(self) -> bytes: ...


class KeyAlgorithm(enum.StrEnum):
    """The kinds of keys that an authority signs with."""

    P256 = "p256"
    P384 = "p384"
    RSA_2048 = "rsa-2048"
    RSA_3072 = "rsa-3072"
    RSA_4096 = "rsa-4096"
    ML_DSA_65 = "ml-dsa-65"

    @classmethod
    def of(cls, text: str) -> KeyAlgorithm:
        """Read its name.

        Raises Invalid LM1602 for any other.
        """
        try:
            return cls(text)
        except ValueError as err:
            raise Invalid("LM1602", given=text, known=", ".join(cls)) from err


LEAF_ALGORITHMS = frozenset({KeyAlgorithm.P256})
"""The kinds of public keys that an SVID may be asked for, unless an operator opted in to more."""

_CURVES = {"secp256r1": KeyAlgorithm.P256, "secp384r1": KeyAlgorithm.P384}
_RSA = {2048: KeyAlgorithm.RSA_2048, 3072: KeyAlgorithm.RSA_3072, 4096: KeyAlgorithm.RSA_4096}
_BITS = {found: bits for bits, found in _RSA.items()}
# AlgorithmIdentifier of the signatures (RFC 5758 §3.2, RFC 4055 §5, RFC 9881 §2), DER
_ECDSA_SHA256 = bytes.fromhex("300a06082a8648ce3d040302")
_ECDSA_SHA384 = bytes.fromhex("300a06082a8648ce3d040303")
_RSA_SHA256 = bytes.fromhex("300d06092a864886f70d01010b0500")
_ML_DSA_65 = bytes.fromhex("300b0609608648016503040312")


@dataclasses.dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key that signs certificates, CRLs and tokens. The key itself may be in a token and stay there."""

    key: PrivateKey = dataclasses.field(repr=False)

    @property
    def public_key(self) -> PublicKey:
        """Its public half."""
        return self.key.public_key()

    @property
    def algorithm(self) -> KeyAlgorithm:
        """Its kind."""
        return algorithm_of(self.public_key)

    @property
    def hash(self) -> hashes.SHA256 | hashes.SHA384 | None:
        """The hash that the library's builders are given with this key: none for ML-DSA."""
        return hash_for(self.key)

    @property
    def signature_algorithm(self) -> bytes:
        """The AlgorithmIdentifier of its signatures, DER."""
        if isinstance(self.key, mldsa.MLDSA65PrivateKey):
            return _ML_DSA_65
        if isinstance(self.key, rsa.RSAPrivateKey):
            return _RSA_SHA256
        return _ECDSA_SHA384 if isinstance(self.hash, hashes.SHA384) else _ECDSA_SHA256

    def sign(self, data: bytes) -> bytes:
        """Sign what a certificate says (its TBS part): the bytes that stand in the certificate's signature."""
        return self.signer()([data])[0]

    def signer(self) -> SignAll:
        """What `sign` does with this kind of key, for many parts at once."""
        key = self.key
        if isinstance(key, mldsa.MLDSA65PrivateKey):
            return lambda parts: [key.sign(part) for part in parts]
        if isinstance(key, rsa.RSAPrivateKey):
            one = functools.partial(key.sign, padding=padding.PKCS1v15(), algorithm=hashes.SHA256())
            return lambda parts: [one(part) for part in parts]
        return ecdsa_signer(key, hash_for(key) or hashes.SHA256())

    def verifier(self) -> Callable[[bytes, bytes], None]:
        """Verifies a signature of `sign` over data; raises InvalidSignature."""
        public = self.public_key
        if isinstance(public, mldsa.MLDSA65PublicKey):
            return public.verify
        if isinstance(public, rsa.RSAPublicKey):
            return functools.partial(public.verify, padding=padding.PKCS1v15(), algorithm=hashes.SHA256())
        verify, digest, scheme = public.verify, *_digested(self.hash or hashes.SHA256())
        return lambda signature, data: verify(signature, digest(data).digest(), scheme)


def ecdsa_signer(key: ec.EllipticCurvePrivateKey, chosen: hashes.SHA256 | hashes.SHA384) -> SignAll:
    """What signs with a key on a curve, many parts at once.

    The hash is the standard library's: the key's own library takes longer to get ready for one than to make it. All is
    hashed, then all is signed: what stands between two signatures costs them the processor's caches (ADR 26).
    """
    sign, digest, scheme = key.sign, *_digested(chosen)

    def sign_all(parts: Sequence[bytes]) -> list[bytes]:
        digests = [digest(part).digest() for part in parts]
        return [sign(found, scheme) for found in digests]

    return sign_all


def _digested(chosen: hashes.SHA256 | hashes.SHA384) -> tuple[Callable[[bytes], _Digest], ec.ECDSA]:
    """The hash function, and the scheme that takes what it made."""
    digest = hashlib.sha384 if isinstance(chosen, hashes.SHA384) else hashlib.sha256
    return digest, ec.ECDSA(Prehashed(chosen))


def hash_for(key: PrivateKey) -> hashes.SHA256 | hashes.SHA384 | None:
    """The hash that a key signs with; None for ML-DSA, which hashes by itself (RFC 9881 §2)."""
    if isinstance(key, mldsa.MLDSA65PrivateKey):
        return None
    if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP384R1):
        return hashes.SHA384()
    return hashes.SHA256()


def algorithm_of(key: object) -> KeyAlgorithm:
    """The kind of a public key.

    Raises Invalid LM1602 for one that no authority of ours has.
    """
    found = None
    if isinstance(key, ec.EllipticCurvePublicKey):
        found = _CURVES.get(key.curve.name)
    elif isinstance(key, rsa.RSAPublicKey):
        found = _RSA.get(key.key_size)
    elif isinstance(key, mldsa.MLDSA65PublicKey):
        found = KeyAlgorithm.ML_DSA_65
    if found is None:
        raise Invalid("LM1602", given=type(key).__name__, known=", ".join(KeyAlgorithm))
    return found


def generate(algorithm: KeyAlgorithm) -> SigningKey:
    """Make a key in this process's memory."""
    if algorithm is KeyAlgorithm.ML_DSA_65:
        return SigningKey(mldsa.MLDSA65PrivateKey.generate())
    if algorithm in _BITS:
        return SigningKey(rsa.generate_private_key(public_exponent=65537, key_size=_BITS[algorithm]))
    return SigningKey(ec.generate_private_key(ec.SECP384R1() if algorithm is KeyAlgorithm.P384 else ec.SECP256R1()))


def private_to_der(key: PrivateKey) -> bytes:
    """A key as unencrypted PKCS#8 DER, for memory only."""
    return key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def private_from_der(data: bytes, name: str = "") -> SigningKey:
    """Read what `private_to_der` wrote, or a key of the same kinds in PKCS#8.

    Raises Invalid LM1604 for bytes that are none.
    """
    try:
        key = serialization.load_der_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as err:
        raise Invalid("LM1604", name=name, reason="it is no unencrypted PKCS#8 key") from err
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | mldsa.MLDSA65PrivateKey):
        raise Invalid("LM1604", name=name, reason="it is of a kind that no authority signs with")
    algorithm_of(key.public_key())
    return SigningKey(key)


def new_key() -> ec.EllipticCurvePrivateKey:
    """Make a P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def key_to_der(key: PrivateKey) -> bytes:
    """The key as unencrypted PKCS#8 DER, for memory only."""
    return private_to_der(key)


def key_from_der(data: bytes) -> ec.EllipticCurvePrivateKey:
    """Read a P-256 key that `key_to_der` wrote."""
    key = serialization.load_der_private_key(data, password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError("this key is on a P-256 curve")
    return key


def parse_spki(data: bytes) -> ec.EllipticCurvePublicKey:
    """Read the public key that an SVID is asked for: P-256, in canonical DER.

    Raises Invalid LM1203 for anything else.
    """
    # every P-256 key is 91 bytes in canonical DER: nothing else needs to be parsed
    if len(data) != _SPKI_BYTES:
        raise Invalid("LM1203")
    key = parse_leaf_key(data, LEAF_ALGORITHMS)
    assert isinstance(key, ec.EllipticCurvePublicKey)
    return key


def parse_leaf_key(data: bytes, allowed: Collection[KeyAlgorithm]) -> PublicKey:
    """Read the public key that an SVID is asked for: of a kind that is allowed, in canonical DER.

    Raises Invalid LM1203 for anything else.
    """
    if len(data) > _MAX_SPKI_BYTES:
        raise Invalid("LM1203")
    if len(data) == _SPKI_BYTES and data.startswith(_P256_SPKI) and KeyAlgorithm.P256 in allowed:
        # the one form of a P-256 key: an uncompressed point, which the library takes only when it is on the curve
        try:
            return ec.EllipticCurvePublicKey.from_encoded_point(_P256, data[26:])
        except ValueError as err:
            raise Invalid("LM1203") from err
    try:
        key = serialization.load_der_public_key(data)
    except (ValueError, TypeError, UnsupportedAlgorithm) as err:
        raise Invalid("LM1203") from err
    if not isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey | mldsa.MLDSA65PublicKey):
        raise Invalid("LM1203")
    try:
        fits = algorithm_of(key) in allowed
    except Invalid as err:
        raise Invalid("LM1203") from err
    # one encoding for each key: nothing to confuse
    if not fits or spki_der(key) != data:
        raise Invalid("LM1203")
    return key


def check_leaf_key(data: bytes, allowed: Collection[KeyAlgorithm]) -> None:
    """Check the public key that an SVID is asked for, as `parse_leaf_key` does, without making a key of it.

    A P-256 key in its one form is a point on the curve (SEC 1 §3.2.2.1): both coordinates below p, y² = x³ - 3x + b;
    the curve's cofactor is 1. Only public numbers are looked at.

    Raises Invalid LM1203.
    """
    if len(data) != _SPKI_BYTES or not data.startswith(_P256_SPKI) or KeyAlgorithm.P256 not in allowed:
        parse_leaf_key(data, allowed)
        return
    x, y = int.from_bytes(data[27:59], "big"), int.from_bytes(data[59:], "big")
    if x >= _P or y >= _P or (y * y - (x * x - 3) * x - _B) % _P:
        raise Invalid("LM1203")


def spki_der(key: PublicKey) -> bytes:
    """The key's SubjectPublicKeyInfo, DER."""
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
