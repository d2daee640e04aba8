"""JWT-SVIDs from values (JWT-SVID.md §2 and §3, RFC 7515 §3.1): compact, three header fields, and never expired.

Pure: the key, the token's id and the time are arguments. Who may have which token is decided elsewhere, and
`mesh.jwtsvid` is what verifies one.
"""

from __future__ import annotations

import binascii
import dataclasses
import datetime as dt
import functools
import json
from collections.abc import Iterable, Sequence
from typing import Literal

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from ca.keys import SignAll, ecdsa_signer
from mesh.problems import Invalid
from mesh.spiffe import SpiffeId

Algorithm = Literal["ES256", "ES384", "RS256", "PS256"]
JwtKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
MIN_RSA_BITS = 2048
_CURVES: dict[str, Algorithm] = {"secp256r1": "ES256", "secp384r1": "ES384"}
_JSON = json.JSONEncoder(separators=(",", ":")).encode
_TEXT = json.encoder.encode_basestring_ascii
_URL_SAFE = bytes.maketrans(b"+/", b"-_")
_CURVES_OF: dict[str, tuple[int, hashes.SHA256 | hashes.SHA384]] = {
    "ES256": (32, hashes.SHA256()),
    "ES384": (48, hashes.SHA384()),
}
_PKCS1 = padding.PKCS1v15()
_PSS = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=padding.PSS.DIGEST_LENGTH)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class JwtSigner:
    """A JWT authority: its key, the id that the bundle names it by, and its algorithm (by default the key's own).

    ``not_after`` is when the authority itself ends, if it does: no token of it outlives that.
    """

    kid: str
    key: JwtKey = dataclasses.field(repr=False)
    algorithm: Algorithm = "ES256"
    not_after: dt.datetime | None = None
    _head: bytes = dataclasses.field(init=False, repr=False, compare=False)
    _signatures: SignAll = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        fits = (
            _CURVES.get(self.key.curve.name) == self.algorithm
            if isinstance(self.key, ec.EllipticCurvePrivateKey)
            else self.algorithm in {"RS256", "PS256"} and self.key.key_size >= MIN_RSA_BITS
        )
        if not fits or not self.kid:
            raise ValueError("a JWT authority has an id, and an algorithm that its key fits")
        head = {"alg": self.algorithm, "kid": self.kid, "typ": "JWT"}
        object.__setattr__(self, "_head", _base64url(_JSON(head).encode("ascii")) + b".")
        object.__setattr__(self, "_signatures", _maker(self.key, self.algorithm))

    def sign(self, claims: dict[str, object]) -> str:
        """A token that says these claims: the header has alg, kid and typ, and nothing else (J-3)."""
        return self.sign_texts([_JSON(claims)])[0]

    def sign_texts(self, claims: Iterable[str]) -> list[str]:
        """The same for claims of many tokens that are written already: JSON objects, ASCII.

        Signatures are made one right after the other. Each reads a table that is larger than the processor's nearest
        cache: what stood between two of them took nearly twice its time.
        """
        head = self._head
        parts = [head + _base64url(text.encode("ascii")) for text in claims]
        signatures = self._signatures(parts)
        return [(part + b"." + _base64url(made)).decode("ascii") for part, made in zip(parts, signatures, strict=True)]


def _maker(key: JwtKey, algorithm: Algorithm) -> SignAll:
    """What makes the signatures of tokens (RFC 7518 §3), by a key that the algorithm fits."""
    if isinstance(key, rsa.RSAPrivateKey):
        scheme = _PSS if algorithm == "PS256" else _PKCS1
        return lambda parts: [key.sign(part, scheme, hashes.SHA256()) for part in parts]
    # RFC 7518 §3.4: both numbers, as long as the curve's order
    size, chosen = _CURVES_OF[algorithm]
    sign = ecdsa_signer(key, chosen)
    return lambda parts: [numbers(made, size) for made in sign(parts)]


def jwt_signer(kid: str, key: JwtKey, *, not_after: dt.datetime | None = None) -> JwtSigner:
    """A JWT authority with the algorithm that its key is made for.

    Raises ValueError for a key that no JWT-SVID may be signed with.
    """
    if isinstance(key, rsa.RSAPrivateKey):
        return JwtSigner(kid=kid, key=key, algorithm="RS256", not_after=not_after)
    return JwtSigner(kid=kid, key=key, algorithm=_CURVES.get(key.curve.name, "ES256"), not_after=not_after)


def mint_jwt_svid(
    spiffe_id: SpiffeId,
    audiences: Sequence[str],
    signer: JwtSigner,
    *,
    now: dt.datetime,
    life: dt.timedelta,
    jti: str,
    issuer: str | None = None,
) -> tuple[str, dt.datetime]:
    """Mint a JWT-SVID of what `jwt_claims` writes; return it with the moment it ends. Raises what that raises."""
    claims, end = jwt_claims(spiffe_id, audiences, signer.not_after, now=now, life=life, jti=jti, issuer=issuer)
    return signer.sign_texts([claims])[0], end


def jwt_claims(
    spiffe_id: SpiffeId,
    audiences: Sequence[str],
    until: dt.datetime | None,
    *,
    now: dt.datetime,
    life: dt.timedelta,
    jti: str,
    issuer: str | None = None,
) -> tuple[str, dt.datetime]:
    """Write what a JWT-SVID claims, a JSON object; return it with the moment the token ends.

    1. `sub` is the workload's SPIFFE ID (J-9), `aud` names at least one audience, each once (J-10).
    2. It ends after its life, in whole seconds, and with its authority (``until``) at the latest (J-13); nothing that
       has expired, or that ends in this very second, is minted.
    3. `iss` stands in it only when OIDC clients need one.

    Raises Invalid LM1270 for (1), LM1204 for (2).
    """
    # (1)
    if not spiffe_id.path:
        raise ValueError("a workload's SPIFFE ID has a path")
    aud = _audience(tuple(audiences))
    # (2)
    times, end = _times(now, life, until)
    # (3)
    iss = "" if issuer is None else f',"iss":{_TEXT(issuer)}'
    return f'{{"sub":{_TEXT(str(spiffe_id))},"aud":{aud},{times},"jti":{_TEXT(jti)}{iss}}}', end


# a batch has few audiences and moments: what is said of them is written once
@functools.lru_cache(maxsize=256)
def _audience(audiences: tuple[str, ...]) -> str:
    named = list(dict.fromkeys(audiences))
    if not named or "" in named:
        raise Invalid("LM1270")
    return _JSON(named)


@functools.lru_cache(maxsize=256)
def _times(now: dt.datetime, life: dt.timedelta, until: dt.datetime | None) -> tuple[str, dt.datetime]:
    end = now + life if until is None else min(now + life, until)
    issued, expires = int(now.timestamp()), int(end.timestamp())
    if expires <= now.timestamp():
        raise Invalid("LM1204", end=end.isoformat())
    return f'"exp":{expires},"iat":{issued}', dt.datetime.fromtimestamp(expires, tz=dt.UTC)


def numbers(signature: bytes, size: int) -> bytes:
    """The two numbers of an ECDSA signature in DER (RFC 3279 §2.2.3) one after the other, of ``size`` bytes each.

    The signature is our own library's: a sequence of two integers, each shorter than 128 bytes.
    """
    first = 4 + signature[3]
    r, s = signature[4:first], signature[first + 2 :]
    return r[-size:].rjust(size, b"\0") + s[-size:].rjust(size, b"\0")


def _base64url(data: bytes) -> bytes:
    return binascii.b2a_base64(data, newline=False).translate(_URL_SAFE).rstrip(b"=")
