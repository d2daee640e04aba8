"""JSON Web Key Sets of issuers of other people: which keys they hold, read strictly, one unusable key at a time.

Only asymmetric keys for signatures count, each with the algorithms that fit it. This module fetches nothing.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from mesh.problems import Invalid

MAX_BYTES = 256 * 1024
MAX_KEYS = 64
MIN_RSA_BITS, MAX_RSA_BITS = 2048, 8192
_CURVES = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
_RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
ALGORITHMS = (*_RSA, *_CURVES.values())
_PUBLIC = ("kty", "kid", "use", "alg", "crv", "x", "y", "n", "e")
Key = ec.EllipticCurvePublicKey | rsa.RSAPublicKey


@dataclasses.dataclass(frozen=True, slots=True)
class JwtKey:
    """One key and the algorithms that a token may name with it. ``jwk`` are its public members, as JSON."""

    kid: str
    key: Key
    algorithms: tuple[str, ...]
    jwk: str = dataclasses.field(default="", compare=False, repr=False)


def parse_jwks(data: bytes) -> tuple[JwtKey, ...]:
    """Read a key set.

    1. UTF-8 JSON of a bounded size, no key twice, an object with a list `keys`.
    2. An entry that is no asymmetric key for signatures is left out alone; a `kid` names one key.

    Raises Invalid LM1257 for (1) and for a `kid` that stands twice.
    """
    # (1)
    if len(data) > MAX_BYTES:
        raise Invalid("LM1257", reason=f"it is larger than {MAX_BYTES} bytes")
    try:
        document = strict_json(data)
    except ValueError as err:
        raise Invalid("LM1257", reason=str(err)) from err
    listed = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(listed, list) or len(listed) > MAX_KEYS:
        raise Invalid("LM1257", reason=f"it is an object with a list `keys` of at most {MAX_KEYS}")
    # (2)
    found = [key for key in (_key(entry) for entry in listed) if key is not None]
    names = [item.kid for item in found if item.kid]
    if len(names) != len(set(names)):
        raise Invalid("LM1257", reason="a `kid` stands twice")
    return tuple(found)


def _key(entry: object) -> JwtKey | None:
    if not isinstance(entry, dict) or entry.get("use", "sig") != "sig" or entry.get("kty") not in ("RSA", "EC"):
        return None
    kid, named = entry.get("kid", ""), entry.get("alg")
    operations = entry.get("key_ops", ["verify"])
    if not isinstance(kid, str) or not isinstance(operations, list) or "verify" not in operations or "d" in entry:
        return None
    try:
        # the algorithm only chooses the reader of the key's kind; which ones a token may name is decided here
        key = jwt.PyJWK({**entry, "alg": _reader(entry)}).key
    except (jwt.PyJWTError, ValueError, TypeError, KeyError, RecursionError, OverflowError):
        return None
    if isinstance(key, rsa.RSAPublicKey) and MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS:
        fitting: tuple[str, ...] = _RSA
    elif isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _CURVES:
        fitting = (_CURVES[key.curve.name],)
    else:
        return None
    if named is not None:
        fitting = tuple(item for item in fitting if item == named)
    public = json.dumps({name: entry[name] for name in _PUBLIC if name in entry}, sort_keys=True)
    return JwtKey(kid, key, fitting, public) if fitting else None


def format_jwks(keys: Sequence[JwtKey]) -> bytes:
    """A key set that `parse_jwks` reads as these keys."""
    return b'{"keys": [%b]}' % ", ".join(key.jwk for key in keys).encode()


def _reader(entry: dict[str, Any]) -> str:
    if entry["kty"] == "RSA":
        return "RS256"
    return {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}.get(str(entry.get("crv")), "ES256")


def strict_json(data: bytes) -> Any:  # noqa: ANN401  JSON
    """Read JSON in UTF-8 in which no key stands twice.

    Raises ValueError with a sentence.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a key stands twice in it")
        return found

    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=unique, parse_constant=_no_number)
    except json.JSONDecodeError as err:
        raise ValueError("it is no JSON") from err
    except (UnicodeDecodeError, RecursionError) as err:
        raise ValueError("it is no JSON in UTF-8") from err


def _no_number(text: str) -> None:
    raise ValueError(f"JSON has no {text}")
