"""Keys that stay in their token, as the library's own key classes: its documented way for HSMs.

Certificate, CRL and OCSP builders take them like any other key. Every signature is verified before it is given out:
a token that errs, or lies, signs nothing. How a token is reached is `ca.pkcs11token`'s.
"""

from __future__ import annotations

from typing import Any, Protocol

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature

from mesh.problems import Unavailable


class Signer(Protocol):
    """What signs with a key of a label, by a PKCS#11 mechanism, and returns what the token said."""

    def sign(self, label: str, data: bytes, mechanism: str) -> bytes:
        """The token's raw signature."""
        ...


class EcTokenKey(ec.EllipticCurvePrivateKey):
    """A key on a NIST curve that stays in its token."""

    def __init__(self, token: Signer, label: str, public: ec.EllipticCurvePublicKey) -> None:
        self._token, self._label, self._public = token, label, public

    def sign(self, data: Any, signature_algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:  # noqa: ANN401  bytes-like, as the library says
        """Hash here, unless that was done, sign there, verify here. Raises Unavailable LM1603."""
        chosen = signature_algorithm.algorithm
        if isinstance(chosen, Prehashed):
            digest = bytes(data)
            if len(digest) != chosen.digest_size:
                raise ValueError("the hash is not as long as the algorithm makes one")
        else:
            hasher = hashes.Hash(chosen)
            hasher.update(data)
            digest = hasher.finalize()
        raw = self._token.sign(self._label, digest, "ECDSA")
        half = (self.key_size + 7) // 8
        if len(raw) != 2 * half:
            raise _erred(self._label)
        made = encode_dss_signature(int.from_bytes(raw[:half], "big"), int.from_bytes(raw[half:], "big"))
        try:
            self._public.verify(made, data, ec.ECDSA(chosen))
        except InvalidSignature as err:
            raise _erred(self._label) from err
        return made

    def public_key(self) -> ec.EllipticCurvePublicKey:
        """Its public half."""
        return self._public

    @property
    def curve(self) -> ec.EllipticCurve:
        """Its curve."""
        return self._public.curve

    @property
    def key_size(self) -> int:
        """The bits of its curve."""
        return self._public.key_size

    def exchange(self, algorithm: ec.ECDH, peer_public_key: ec.EllipticCurvePublicKey) -> bytes:
        """Nothing here agrees on keys."""
        raise UnsupportedAlgorithm("a signing key signs")

    def private_numbers(self) -> ec.EllipticCurvePrivateNumbers:
        """Nobody has them."""
        raise UnsupportedAlgorithm("the key stays in its token")

    def private_bytes(
        self,
        encoding: serialization.Encoding,
        format: serialization.PrivateFormat,
        encryption_algorithm: serialization.KeySerializationEncryption,
    ) -> bytes:
        """Nobody has them."""
        raise UnsupportedAlgorithm("the key stays in its token")

    def __copy__(self) -> EcTokenKey:
        return self

    def __deepcopy__(self, memo: dict[Any, Any]) -> EcTokenKey:
        return self


class RsaTokenKey(rsa.RSAPrivateKey):
    """An RSA key that stays in its token."""

    def __init__(self, token: Signer, label: str, public: rsa.RSAPublicKey) -> None:
        self._token, self._label, self._public = token, label, public

    def sign(self, data: Any, padding: object, algorithm: object) -> bytes:  # noqa: ANN401  bytes-like, as the library says
        """Sign there with PKCS#1 v1.5 and SHA-256, verify here. Raises Unavailable LM1603."""
        _check_rsa(padding, algorithm)
        made = self._token.sign(self._label, bytes(data), "SHA256_RSA_PKCS")
        try:
            self._public.verify(made, data, _PKCS1, hashes.SHA256())
        except InvalidSignature as err:
            raise _erred(self._label) from err
        return made

    def public_key(self) -> rsa.RSAPublicKey:
        """Its public half."""
        return self._public

    @property
    def key_size(self) -> int:
        """The bits of its modulus."""
        return self._public.key_size

    def decrypt(self, ciphertext: bytes, padding: object) -> bytes:
        """Nothing here decrypts."""
        raise UnsupportedAlgorithm("a signing key signs")

    def private_numbers(self) -> rsa.RSAPrivateNumbers:
        """Nobody has them."""
        raise UnsupportedAlgorithm("the key stays in its token")

    def private_bytes(
        self,
        encoding: serialization.Encoding,
        format: serialization.PrivateFormat,
        encryption_algorithm: serialization.KeySerializationEncryption,
    ) -> bytes:
        """Nobody has them."""
        raise UnsupportedAlgorithm("the key stays in its token")

    def __copy__(self) -> RsaTokenKey:
        return self

    def __deepcopy__(self, memo: dict[Any, Any]) -> RsaTokenKey:
        return self


_PKCS1 = padding.PKCS1v15()


def _check_rsa(scheme: object, algorithm: object) -> None:
    if not isinstance(scheme, padding.PKCS1v15) or not isinstance(algorithm, hashes.SHA256):
        raise UnsupportedAlgorithm("a token's RSA key signs with PKCS#1 v1.5 and SHA-256")


def _erred(label: str) -> Unavailable:
    return Unavailable("LM1603", source="pkcs11", reason=f"the token's signature with `{label}` does not verify")
