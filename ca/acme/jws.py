"""JWS as ACME allows it (RFC 8555 §6.2): flattened, protected header only, one of four algorithms, no duplicate key.

Pure. A message is read in two steps: `read` takes it apart and trusts nothing, `verify` checks it with a key.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import hmac
import json
import re
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils

from mesh import canonicaljson
from mesh.problems import Invalid

ALGORITHMS = ("ES256", "ES384", "RS256", "EdDSA")
AccountKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey
Json = Any
_BASE64URL = re.compile(r"[A-Za-z0-9_-]*\Z")
_CURVES: dict[str, tuple[ec.EllipticCurve, int, str]] = {
    "P-256": (ec.SECP256R1(), 32, "ES256"),
    "P-384": (ec.SECP384R1(), 48, "ES384"),
}
_MEMBERS = {"EC": ("crv", "kty", "x", "y"), "RSA": ("e", "kty", "n"), "OKP": ("crv", "kty", "x")}
_MAX_DEPTH_BYTES = 65_536


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Jws:
    """A message whose signature nobody checked yet. Exactly one of ``jwk`` and ``kid`` is given."""

    algorithm: str
    url: str
    nonce: str | None
    jwk: dict[str, Json] | None
    kid: str | None
    payload: bytes
    signed: bytes
    signature: bytes

    @property
    def body(self) -> dict[str, Json]:
        """The payload as a JSON object.

        Raises Invalid LM1400.
        """
        return strict_object(self.payload, "payload")


def malformed(reason: str) -> Invalid:
    """What is said of a message that breaks a rule."""
    return Invalid("LM1400", reason=reason)


def strict_object(data: bytes, what: str) -> dict[str, Json]:
    """Read a JSON object: UTF-8, no duplicate key, no NaN.

    Raises Invalid LM1400.
    """

    def pairs(found: list[tuple[str, Json]]) -> dict[str, Json]:
        made = dict(found)
        if len(made) != len(found):
            raise ValueError("a key stands twice")
        return made

    def constant(name: str) -> Json:
        raise ValueError(name)

    if len(data) > _MAX_DEPTH_BYTES:
        raise malformed(f"{what}: it is too long")
    try:
        found = json.loads(data.decode("utf-8"), object_pairs_hook=pairs, parse_constant=constant)
    except (ValueError, RecursionError) as err:
        raise malformed(f"{what}: it is no JSON object with each key once") from err
    if not isinstance(found, dict):
        raise malformed(f"{what}: it is no JSON object")
    return found


def decode(text: object, what: str) -> bytes:
    """Read base64url without padding, in its one form (RFC 7515 §2).

    Raises Invalid LM1400.
    """
    if not isinstance(text, str) or not _BASE64URL.match(text) or len(text) % 4 == 1:
        raise malformed(f"{what}: it is no base64url without padding")
    found = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if encode(found) != text:
        raise malformed(f"{what}: its last character has bits that belong to nothing")
    return found


def encode(data: bytes) -> str:
    """Write base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def read(data: bytes, *, has_nonce: bool = True) -> Jws:
    """Take a message apart.

    1. A JSON object with exactly `protected`, `payload` and `signature`: no unprotected header, no list of signatures.
    2. The protected header has `alg` of the list, `url`, exactly one of `jwk` and `kid`, and `nonce` where one belongs.
    3. Nothing in it that we would have to understand (`crit`, `b64`).

    Raises Invalid LM1400, LM1402.
    """
    # (1)
    outer = strict_object(data, "JWS")
    if set(outer) != {"protected", "payload", "signature"}:
        raise malformed("JWS: it has exactly `protected`, `payload` and `signature`")
    # (2)
    header = strict_object(decode(outer["protected"], "protected"), "protected header")
    if "crit" in header or "b64" in header:
        # (3)
        raise malformed("protected header: no extensions are understood")
    _check_header(header, has_nonce=has_nonce)
    return Jws(
        algorithm=header["alg"],
        url=header["url"],
        nonce=header.get("nonce"),
        jwk=header.get("jwk"),
        kid=header.get("kid"),
        payload=decode(outer["payload"], "payload"),
        signed=f"{outer['protected']}.{outer['payload']}".encode(),
        signature=decode(outer["signature"], "signature"),
    )


def _check_header(header: dict[str, Json], *, has_nonce: bool) -> None:
    algorithm, nonce = header.get("alg"), header.get("nonce")
    if not isinstance(algorithm, str):
        raise malformed("protected header: `alg` is text")
    if algorithm not in ALGORITHMS:
        raise Invalid("LM1402", given=algorithm[:40], known=", ".join(ALGORITHMS))
    if ("jwk" in header) == ("kid" in header):
        raise malformed("protected header: it has `jwk` or `kid`, and not both")
    for name, kind in (("url", str), ("jwk", dict), ("kid", str)):
        if (name in header or name == "url") and not isinstance(header.get(name), kind):
            raise malformed(f"protected header: `{name}` is of another type")
    if has_nonce and not isinstance(nonce, str):
        raise Invalid("LM1401", reason="there is none")
    if not has_nonce and "nonce" in header:
        raise malformed("protected header: an inner message has no `nonce`")


def key_of(jwk: dict[str, Json]) -> AccountKey:
    """The public key of a JWK: P-256, P-384, RSA of 2048 to 4096 bits, or Ed25519.

    Raises Invalid LM1412.
    """
    kind = jwk.get("kty")
    try:
        if "d" in jwk:
            raise ValueError("it holds a private key")
        if kind == "EC" and isinstance(jwk.get("crv"), str) and jwk["crv"] in _CURVES:
            curve, size, _ = _CURVES[jwk["crv"]]
            x, y = decode(jwk.get("x"), "x"), decode(jwk.get("y"), "y")
            if len(x) != size or len(y) != size:
                raise ValueError("its coordinates have the wrong length")
            return ec.EllipticCurvePublicNumbers(int.from_bytes(x), int.from_bytes(y), curve).public_key()
        if kind == "RSA":
            n, e = decode(jwk.get("n"), "n"), decode(jwk.get("e"), "e")
            if n[:1] in {b"", b"\0"} or e[:1] in {b"", b"\0"} or not 256 <= len(n) <= 512 or len(e) > 4:
                raise ValueError("RSA keys have 2048 to 4096 bits")
            if int.from_bytes(e) < 65537 or int.from_bytes(n).bit_length() < 2048:
                raise ValueError("RSA keys have 2048 to 4096 bits and an exponent of 65537 or more")
            return rsa.RSAPublicNumbers(int.from_bytes(e), int.from_bytes(n)).public_key()
        if kind == "OKP" and jwk.get("crv") == "Ed25519":
            return ed25519.Ed25519PublicKey.from_public_bytes(decode(jwk.get("x"), "x"))
    except (ValueError, Invalid) as err:
        reason = err.facts.get("reason", "") if isinstance(err, Invalid) else err
        raise Invalid("LM1412", reason=str(reason)[:200]) from err
    raise Invalid("LM1412", reason="its kind is none of EC P-256, EC P-384, RSA, Ed25519")


def canonical(jwk: dict[str, Json]) -> dict[str, Json]:
    """The members of a key that make it up, and no other (RFC 7638 §3.2). Call after `key_of`."""
    return {name: jwk[name] for name in _MEMBERS[jwk["kty"]]}


def thumbprint(jwk: dict[str, Json]) -> str:
    """The key's thumbprint (RFC 7638): SHA-256, base64url."""
    return encode(hashlib.sha256(canonicaljson.dumps(canonical(jwk))).digest())


def verify(message: Jws, key: AccountKey) -> None:
    """Check the signature; the algorithm is the one that the key has, whatever the header would like.

    Raises Invalid LM1402 for another algorithm than the key's, LM1400 for a signature that is not this key's.
    """
    expected = "EdDSA"
    if isinstance(key, rsa.RSAPublicKey):
        expected = "RS256"
    elif isinstance(key, ec.EllipticCurvePublicKey):
        expected = "ES256" if isinstance(key.curve, ec.SECP256R1) else "ES384"
    if message.algorithm != expected:
        raise Invalid("LM1402", given=message.algorithm, known=expected)
    try:
        _check(message, key)
    except (InvalidSignature, ValueError) as err:
        raise malformed("the signature is not this key's") from err


def _check(message: Jws, key: AccountKey) -> None:
    if isinstance(key, rsa.RSAPublicKey):
        key.verify(message.signature, message.signed, padding.PKCS1v15(), hashes.SHA256())
    elif isinstance(key, ed25519.Ed25519PublicKey):
        key.verify(message.signature, message.signed)
    else:
        size = (key.curve.key_size + 7) // 8
        if len(message.signature) != 2 * size:
            raise ValueError("wrong length")
        r, s = int.from_bytes(message.signature[:size]), int.from_bytes(message.signature[size:])
        digest = hashes.SHA256() if size == 32 else hashes.SHA384()
        key.verify(utils.encode_dss_signature(r, s), message.signed, ec.ECDSA(digest))


def read_binding(found: object) -> tuple[str, str, dict[str, Json], bytes, bytes]:
    """Take an external account binding apart (RFC 8555 §7.3.4): kid, url, the bound JWK, what is signed, its MAC.

    Raises Invalid LM1400, LM1402.
    """
    if not isinstance(found, dict) or set(found) != {"protected", "payload", "signature"}:
        raise malformed("externalAccountBinding: it has exactly `protected`, `payload` and `signature`")
    header = strict_object(decode(found["protected"], "binding"), "binding header")
    if header.get("alg") != "HS256":
        raise Invalid("LM1402", given=str(header.get("alg"))[:40], known="HS256")
    kid, url = header.get("kid"), header.get("url")
    if not isinstance(kid, str) or not isinstance(url, str) or not set(header) <= {"alg", "kid", "url"}:
        raise malformed("binding header: it has `alg`, `kid` and `url`, and nothing else")
    jwk = strict_object(decode(found["payload"], "binding payload"), "binding payload")
    signed = f"{found['protected']}.{found['payload']}".encode()
    return kid, url, jwk, signed, decode(found["signature"], "binding signature")


def is_bound(signed: bytes, mac: bytes, key: bytes) -> bool:
    """Whether a binding was made with this key."""
    return hmac.compare_digest(hmac.digest(key, signed, "sha256"), mac)
