"""The one JWT-SVID verifier (JWT-SVID.md §2 to §5, RFC 7515, RFC 7519): compact tokens, and the nine algorithms only.

PyJWT reads keys and checks signatures; what stands around them is read here, because a common JWT library accepts a
header twice, JSON serialization and header fields that name keys. No key is fetched from anywhere.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import datetime as dt
import functools
import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import Algorithm, ECAlgorithm, RSAAlgorithm, RSAPSSAlgorithm
from jwt.exceptions import PyJWTError

from mesh.bundle import TrustBundle
from mesh.problems import Invalid
from mesh.spiffe import SpiffeId, SpiffeIdError, TrustDomain

MAX_TOKEN_BYTES = 16 * 1024
MAX_KEYS_TRIED = 32
LEEWAY = dt.timedelta(seconds=30)
_MIN_RSA_BITS, _MAX_RSA_BITS = 2048, 8192
_LAST = 253402300799  # the end of the year 9999
_PART = re.compile(r"[A-Za-z0-9_-]+\Z")
_HEADERS = frozenset({"alg", "kid", "typ"})
_TYPES = ("JWT", "JOSE")

_Key = ec.EllipticCurvePublicKey | rsa.RSAPublicKey

# JWT-SVID.md §2.1; the curve belongs to the algorithm (RFC 7518 §3.4)
ALGORITHMS: dict[str, Algorithm] = {
    "RS256": RSAAlgorithm(RSAAlgorithm.SHA256),
    "RS384": RSAAlgorithm(RSAAlgorithm.SHA384),
    "RS512": RSAAlgorithm(RSAAlgorithm.SHA512),
    "ES256": ECAlgorithm(ECAlgorithm.SHA256),
    "ES384": ECAlgorithm(ECAlgorithm.SHA384),
    "ES512": ECAlgorithm(ECAlgorithm.SHA512),
    "PS256": RSAPSSAlgorithm(RSAPSSAlgorithm.SHA256),
    "PS384": RSAPSSAlgorithm(RSAPSSAlgorithm.SHA384),
    "PS512": RSAPSSAlgorithm(RSAPSSAlgorithm.SHA512),
}
_CURVES = {"ES256": "secp256r1", "ES384": "secp384r1", "ES512": "secp521r1"}


class JwtSvidError(Invalid):
    """A token that is no JWT-SVID of a trusted domain; ``code`` names the rule that it breaks."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedJwtSvid:
    """What a verified token says. ``jti`` is None when the token has none; ``claims`` holds ALL claims."""

    spiffe_id: SpiffeId
    audience: tuple[str, ...]
    expiry: dt.datetime
    claims: Mapping[str, Any]
    jti: str | None = None
    kid: str | None = None


def verify_jwt_svid(
    token: str, audience: str, bundles: Mapping[TrustDomain, TrustBundle], now: dt.datetime
) -> VerifiedJwtSvid:
    """Verify a JWT-SVID for one audience, the verifier's own name, and return whose it is.

    1. The token has bounded size and is compact: three base64url parts (J-1, J-2).
    2. The header is JSON with no key twice, and its `alg` is one of the nine, before anything else (J-4, J-5).
    3. The header has alg, kid and typ and NOTHING else: no jku, jwk, x5u, x5c, crit (J-3); typ is JWT or JOSE (J-8).
    4. The claims are JSON with no key twice; `sub` is a workload's SPIFFE ID (J-9), `aud` has one value or more
       (J-10, J-11), `exp` is there (J-13, J-14).
    5. Only the `jwt-svid` keys of the bundle of the subject's OWN trust domain count (J-19, J-20).
    6. SOME key that fits verifies the signature: the one the `kid` names, or without a kid any (J-7); the curve is
       the algorithm's (J-6), and an RSA key has 2,048 bits or more.
    7. It has not expired, and `nbf` has begun, with 30 seconds of leeway (J-15); the audience is among `aud` (J-12).

    Raises JwtSvidError with the code of the first rule that is broken.
    """
    # (1)
    if len(token) > MAX_TOKEN_BYTES:
        raise JwtSvidError("LM1024", reason="it is larger than 16 KiB")
    parts = token.split(".")
    if len(parts) != 3 or not all(_PART.match(part) for part in parts):
        raise JwtSvidError("LM1024", reason="it is not three base64url parts")
    # (2), (3)
    header = _object(parts[0], "header")
    algorithm = _check_header(header)
    # (4)
    claims = _object(parts[1], "claims")
    spiffe_id, audiences, expiry, begin = _check_claims(claims)
    # (5)
    bundle = bundles.get(spiffe_id.trust_domain)
    if bundle is None or not bundle.jwt_authorities:
        raise JwtSvidError("LM1030", trust_domain=str(spiffe_id.trust_domain))
    # (6)
    kid = header.get("kid")
    signature, data = _decoded(parts[2], "signature"), f"{parts[0]}.{parts[1]}".encode("ascii")
    if not any(_is_signed(algorithm, key, data, signature) for key in _fitting(bundle, algorithm, kid)):
        raise JwtSvidError("LM1031", spiffe_id=str(spiffe_id))
    # (7)
    if now > expiry + LEEWAY or (begin is not None and now < begin - LEEWAY):
        start = "ever" if begin is None else begin.isoformat()
        raise JwtSvidError("LM1029", now=now.isoformat(), begin=start, end=expiry.isoformat())
    if audience not in audiences:
        raise JwtSvidError("LM1028", audience=audience[:200])
    jti = claims.get("jti")
    return VerifiedJwtSvid(
        spiffe_id=spiffe_id,
        audience=audiences,
        expiry=expiry,
        claims=claims,
        jti=jti if isinstance(jti, str) else None,
        kid=kid,
    )


def _decoded(part: str, what: str) -> bytes:
    try:
        found = base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True)
    except (ValueError, binascii.Error) as err:
        raise JwtSvidError("LM1024", reason=f"its {what} is not base64url") from err
    if base64.urlsafe_b64encode(found).rstrip(b"=").decode() != part:
        # two spellings of one token would be two names for it
        raise JwtSvidError("LM1024", reason=f"its {what} is not canonical base64url")
    return found


def _object(part: str, what: str) -> dict[str, Any]:
    try:
        found = json.loads(_decoded(part, what).decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_number)
    except (ValueError, RecursionError) as err:
        raise JwtSvidError("LM1024", reason=f"its {what} is not strict UTF-8 JSON") from err
    if not isinstance(found, dict):
        raise JwtSvidError("LM1024", reason=f"its {what} is not a JSON object")
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found


def _no_number(text: str) -> None:
    raise ValueError(f"JSON has no {text}")


def _check_header(header: Mapping[str, Any]) -> str:
    """Steps 2 and 3 of `verify_jwt_svid`."""
    # (2)
    algorithm = header.get("alg")
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        raise JwtSvidError("LM1025", given=str(algorithm)[:40])
    # (3)
    for name in header:
        if name not in _HEADERS:
            raise JwtSvidError("LM1026", reason=f"`{name[:40]}` may not stand in it")
    if "typ" in header and header["typ"] not in _TYPES:
        raise JwtSvidError("LM1026", reason="`typ` is JWT or JOSE")
    if "kid" in header and (not isinstance(header["kid"], str) or not header["kid"]):
        raise JwtSvidError("LM1026", reason="`kid` is a text")
    return algorithm


def _check_claims(claims: Mapping[str, Any]) -> tuple[SpiffeId, tuple[str, ...], dt.datetime, dt.datetime | None]:
    """Step 4 of `verify_jwt_svid`: the subject, the audiences, the end and the beginning."""
    subject = claims.get("sub")
    if not isinstance(subject, str):
        raise JwtSvidError("LM1027", reason="`sub` is the workload's SPIFFE ID")
    try:
        spiffe_id = SpiffeId.parse(subject)
    except SpiffeIdError as err:
        raise JwtSvidError("LM1027", reason=f"`sub` is the workload's SPIFFE ID: {err}") from err
    if not spiffe_id.path:
        raise JwtSvidError("LM1027", reason="`sub` is a workload's SPIFFE ID, which has a path")
    named = claims.get("aud")
    listed = [named] if isinstance(named, str) else named
    if not isinstance(listed, list) or not listed or not all(isinstance(item, str) and item for item in listed):
        raise JwtSvidError("LM1027", reason="`aud` names one audience or more")
    expiry = _moment(claims, "exp")
    if expiry is None:
        raise JwtSvidError("LM1027", reason="`exp` is missing")
    return spiffe_id, tuple(listed), expiry, _moment(claims, "nbf")


def _moment(claims: Mapping[str, Any], name: str) -> dt.datetime | None:
    """A NumericDate (RFC 7519 §2), None when the claim is not there."""
    if name not in claims:
        return None
    found = claims[name]
    # bool is an int in Python; `type(...)` keeps `true` out
    if type(found) not in {int, float} or not math.isfinite(found) or not 0 <= found <= _LAST:
        raise JwtSvidError("LM1027", reason=f"`{name}` is a time in seconds")
    return dt.datetime.fromtimestamp(found, tz=dt.UTC)


def _fitting(bundle: TrustBundle, algorithm: str, kid: str | None) -> Iterator[_Key]:
    """The keys of a bundle that may have signed with this algorithm, at most 32 of them."""
    tried = 0
    for jwk in bundle.jwt_authorities:
        named, says, key = _read_key(jwk)
        if key is None or (kid is not None and named != kid) or says not in {None, algorithm}:
            continue
        if isinstance(key, rsa.RSAPublicKey):
            if algorithm in _CURVES:
                continue
        elif key.curve.name != _CURVES.get(algorithm):
            continue
        yield key
        tried += 1
        if tried == MAX_KEYS_TRIED:
            return


@functools.lru_cache(maxsize=1024)
def _read_key(jwk: bytes) -> tuple[str | None, str | None, _Key | None]:
    """The `kid`, the `alg` and the public key of a JWK; no key when it cannot verify a JWT-SVID."""
    try:
        found = json.loads(jwk)
        kid, says, operations = found.get("kid"), found.get("alg"), found.get("key_ops")
        if operations is not None and "verify" not in operations:
            return kid, says, None
        # `d` would make it a private key: nobody publishes that and means it
        public = {name: value for name, value in found.items() if name in {"kty", "crv", "x", "y", "n", "e"}}
        if public.get("kty") == "EC":
            key: object = ECAlgorithm.from_jwk(public)
        elif public.get("kty") == "RSA":
            key = RSAAlgorithm.from_jwk(public)
        else:
            return kid, says, None
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError, OverflowError, PyJWTError):
        return None, None, None
    if isinstance(key, rsa.RSAPublicKey):
        return kid, says, key if _MIN_RSA_BITS <= key.key_size <= _MAX_RSA_BITS else None
    return kid, says, key if isinstance(key, ec.EllipticCurvePublicKey) else None


def _is_signed(algorithm: str, key: _Key, data: bytes, signature: bytes) -> bool:
    try:
        return bool(ALGORITHMS[algorithm].verify(data, key, signature))
    except (ValueError, TypeError, PyJWTError):
        return False
