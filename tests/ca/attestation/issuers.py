"""An issuer of tokens, for tests: its key set, and tokens with every detail that a test may want to break."""

import base64
import datetime as dt
import json
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tests.rsakeys import rsa_key

NOW = dt.datetime(2026, 11, 24, 12, 0, tzinfo=dt.UTC)
RSA_KEY = rsa_key()
EC_KEY = ec.generate_private_key(ec.SECP256R1())
ISSUER, AUDIENCE = "https://issuer.test", "limen"


def jwk(key: Any, kid: str | None, **other: object) -> dict[str, object]:
    algorithm = jwt.algorithms.RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else jwt.algorithms.ECAlgorithm
    found: dict[str, object] = algorithm.to_jwk(key.public_key(), as_dict=True)
    found.pop("key_ops", None)
    return {**found, **({"kid": kid} if kid is not None else {}), **other}


def key_set(*keys: dict[str, object]) -> bytes:
    return json.dumps({"keys": list(keys) or [jwk(RSA_KEY, "r1", use="sig", alg="RS256"), jwk(EC_KEY, "e1")]}).encode()


def claims(**other: object) -> dict[str, object]:
    now = int(NOW.timestamp())
    found = {"iss": ISSUER, "aud": AUDIENCE, "sub": "s", "iat": now - 10, "exp": now + 600, **other}
    return {name: value for name, value in found.items() if value is not None}


def token(
    key: Any = RSA_KEY, algorithm: str = "RS256", headers: dict[str, object] | None = None, **other: object
) -> str:
    kid = {"kid": "r1" if key is RSA_KEY else "e1"}
    return jwt.encode(claims(**other), key, algorithm=algorithm, headers={**kid, **(headers or {})})


def raw(header: object, payload: object, signature: bytes = b"x") -> str:
    parts = [json.dumps(item).encode() if not isinstance(item, bytes) else item for item in (header, payload)]
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in (*parts, signature))
