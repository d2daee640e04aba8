"""Join tokens: a single-use, expiring proof that somebody with access to the server wants a node to join.

A token is a JWT (ES256) that the server's long-lived key signs; it carries the hash of that key and of the reviewer
set, which is what the agent pins. Only the token's hash is kept.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib

import jwt
from cryptography.hazmat.primitives.asymmetric import ec

from mesh.jointoken import MAX_TOKEN_BYTES, TYPE
from mesh.problems import Forbidden

_ALGORITHM = "ES256"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class JoinToken:
    """A new token: the text to hand over, the hash to keep, and when it ends."""

    text: str = dataclasses.field(repr=False)
    id: str
    expires: dt.datetime


def make_token(
    key: ec.EllipticCurvePrivateKey,
    *,
    server_pin: str,
    reviewers_pin: str,
    trust_domain: str,
    now: dt.datetime,
    ttl: dt.timedelta,
    random: bytes,
) -> JoinToken:
    """Make a token; ``random`` is 16 fresh bytes that make it unguessable and unique."""
    expires = now + ttl
    claims = {
        "jti": random.hex(),
        "iat": int(now.timestamp()),
        "exp": int(expires.timestamp()),
        "aud": "limen-join",
        "srv": server_pin,
        "rev": reviewers_pin,
        "td": trust_domain,
    }
    text = jwt.encode(claims, key, algorithm=_ALGORITHM, headers={"typ": TYPE})
    return JoinToken(text=text, id=_id(random.hex()), expires=expires)


def check_token(token: str, key: ec.EllipticCurvePublicKey, now: dt.datetime) -> str:
    """Check a token and return the id to use it up by.

    1. It is short, of our type, and signed by our key with ES256 and nothing else.
    2. It is for joining and has not expired.

    Using it up, which only works once, is the caller's next step. Raises Forbidden LM1208.
    """
    # (1)
    if len(token) > MAX_TOKEN_BYTES:
        raise Forbidden("LM1208", reason="it is too long")
    try:
        if jwt.get_unverified_header(token).get("typ") != TYPE:
            raise Forbidden("LM1208", reason="it is of another kind")
        claims = jwt.decode(
            token,
            key,
            algorithms=[_ALGORITHM],
            audience="limen-join",
            # time is checked below, against the caller's clock
            options={"require": ["jti", "exp", "aud"], "verify_exp": False, "verify_iat": False, "verify_nbf": False},
        )
    except (jwt.PyJWTError, ValueError, RecursionError) as err:
        raise Forbidden("LM1208", reason="its signature or its claims are wrong") from err
    # (2)
    expires, name = claims["exp"], claims["jti"]
    if type(expires) is not int or now.timestamp() >= expires:
        raise Forbidden("LM1208", reason="it has expired")
    if not isinstance(name, str) or not name.isascii():
        raise Forbidden("LM1208", reason="its signature or its claims are wrong")
    return _id(name)


def _id(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()
