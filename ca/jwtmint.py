"""JWT-SVIDs from values (JWT-SVID.md §2 and §3, RFC 7515 §3.1): compact, three header fields, and never expired.

Pure: the key, the token's id and the time are arguments. Who may have which token is decided elsewhere, and
`mesh.jwtsvid` is what verifies one.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime as dt
import json
from collections.abc import Sequence
from typing import Any, Literal

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from mesh.problems import Invalid
from mesh.spiffe import SpiffeId

Algorithm = Literal["ES256", "ES384", "RS256", "PS256"]
JwtKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
MIN_RSA_BITS = 2048
_CURVES: dict[str, Algorithm] = {"secp256r1": "ES256", "secp384r1": "ES384"}
_JSON = json.JSONEncoder(separators=(",", ":")).encode
_SHA256, _SHA384 = ec.ECDSA(hashes.SHA256()), ec.ECDSA(hashes.SHA384())
_CURVES_OF = {"ES256": (32, _SHA256), "ES384": (48, _SHA384)}
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

    def __post_init__(self) -> None:
        fits = (
            _CURVES.get(self.key.curve.name) == self.algorithm
            if isinstance(self.key, ec.EllipticCurvePrivateKey)
            else self.algorithm in {"RS256", "PS256"} and self.key.key_size >= MIN_RSA_BITS
        )
        if not fits or not self.kid:
            raise ValueError("a JWT authority has an id, and an algorithm that its key fits")
        head = {"alg": self.algorithm, "kid": self.kid, "typ": "JWT"}
        object.__setattr__(self, "_head", _encoded(head) + b".")

    def sign(self, claims: dict[str, object]) -> str:
        """A token that says these claims: the header has alg, kid and typ, and nothing else (J-3)."""
        data = self._head + _encoded(claims)
        return (data + b"." + _base64url(self._signature(data))).decode("ascii")

    def _signature(self, data: bytes) -> bytes:
        # the algorithm is the key's own: that was held when this was made, and a look at the type costs more
        if self.algorithm not in _CURVES_OF:
            key: Any = self.key
            return bytes(key.sign(data, _PSS if self.algorithm == "PS256" else _PKCS1, hashes.SHA256()))
        # RFC 7518 §3.4: both numbers, as long as the curve's order
        size, scheme = _CURVES_OF[self.algorithm]
        curve: Any = self.key
        first, second = decode_dss_signature(curve.sign(data, scheme))
        return first.to_bytes(size, "big") + second.to_bytes(size, "big")


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
    """Mint a JWT-SVID; return it with the moment it ends.

    1. `sub` is the workload's SPIFFE ID (J-9), `aud` names at least one audience, each once (J-10).
    2. It ends after its life, in whole seconds, and with its authority at the latest (J-13); nothing that has expired,
       or that ends in this very second, is minted.
    3. `iss` stands in it only when OIDC clients need one.

    Raises Invalid LM1270 for (1), LM1204 for (2).
    """
    # (1)
    if not spiffe_id.path:
        raise ValueError("a workload's SPIFFE ID has a path")
    named = list(dict.fromkeys(audiences))
    if not named or "" in named:
        raise Invalid("LM1270")
    # (2)
    end = now + life if signer.not_after is None else min(now + life, signer.not_after)
    issued, expires = int(now.timestamp()), int(end.timestamp())
    if expires <= now.timestamp():
        raise Invalid("LM1204", end=end.isoformat())
    claims: dict[str, object] = {"sub": str(spiffe_id), "aud": named, "exp": expires, "iat": issued, "jti": jti}
    # (3)
    if issuer is not None:
        claims["iss"] = issuer
    return signer.sign(claims), dt.datetime.fromtimestamp(expires, tz=dt.UTC)


def _encoded(found: object) -> bytes:
    return _base64url(_JSON(found).encode())


def _base64url(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")
