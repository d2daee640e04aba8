"""Tokens of issuers of other people (a Kubernetes cluster, a CI system), verified against their key sets.

The algorithm is never the token's choice alone: a key has the algorithms that fit it, and the token names one of those.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import datetime as dt
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jwt

from mesh.jwks import ALGORITHMS, JwtKey, strict_json

MAX_TOKEN_BYTES = 16 * 1024
LEEWAY_S, MAX_LEEWAY_S = 30, 60
MAX_LIFE = dt.timedelta(hours=24)
# headers by which a token would bring its own key or its own rules
_FOREIGN = ("crit", "jwk", "jku", "x5u", "x5c", "b64", "zip", "enc")
_PARTS = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_TYPES = ("JWT", "JOSE", "AT+JWT")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class JwtTrust:
    """Whose tokens are taken, and for whom they must be meant: ANY of the ``audiences``.

    ``leeway_s`` is how far clocks may differ, in seconds. Where no begin is needed (`iat`), a token lives from now.
    """

    issuer: str
    audiences: tuple[str, ...]
    algorithms: tuple[str, ...] = ALGORITHMS
    max_life: dt.timedelta = MAX_LIFE
    leeway_s: int = LEEWAY_S
    needs_begin: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.leeway_s <= MAX_LEEWAY_S:
            raise ValueError(f"clocks differ by at most {MAX_LEEWAY_S} seconds")


def kid_of(token: str) -> str:
    """The key that a token names, without a check of anything; empty when it names none or cannot be read.

    For fetching a key set again that does not hold it yet; that is bounded elsewhere.
    """
    try:
        found = _header(token).get("kid", "")
    except ValueError:
        return ""
    return found if isinstance(found, str) else ""


def issuer_of(token: str) -> str:
    """The issuer that a token names, without a check of anything; empty when it names none or cannot be read.

    For choosing whose keys have to verify it.
    """
    try:
        _header(token)
        found = _object(token.split(".")[1], "claims").get("iss", "")
    except ValueError:
        return ""
    return found if isinstance(found, str) else ""


def verify_jwt(token: str, keys: Sequence[JwtKey], trust: JwtTrust, now: dt.datetime) -> Mapping[str, Any]:
    """Verify a token and return its claims.

    1. Compact, short, ASCII; header and claims are JSON objects in which no key stands twice.
    2. The header names an allowed algorithm and brings neither key nor rules of its own (`crit`, `jwk`, `jku`, `x5c`).
    3. The key is the one that `kid` names; a token without `kid` is taken only when there is just one key.
    4. The algorithm is one that fits that key, and the signature verifies.
    5. The issuer is exactly the one that is trusted, and we are in the audience.
    6. It has an end, and a begin where one is needed, lives no longer than allowed, and holds now, give or take the
       leeway.

    Raises ValueError with a sentence.
    """
    # (1)
    header = _header(token)
    # (2)
    algorithm = header.get("alg")
    if algorithm not in trust.algorithms or algorithm not in ALGORITHMS:
        raise ValueError("its algorithm is not allowed")
    if any(name in header for name in _FOREIGN):
        raise ValueError("its header brings a key or rules of its own")
    if str(header.get("typ", "JWT")).upper() not in _TYPES:
        raise ValueError("it is of another type")
    # (3)
    kid = header.get("kid")
    fitting = [key for key in keys if key.kid == kid] if kid is not None else list(keys)
    if len(fitting) != 1:
        raise ValueError("its key is not in the issuer's key set")
    # (4)
    if algorithm not in fitting[0].algorithms:
        raise ValueError("its algorithm does not fit its key")
    try:
        claims = jwt.api_jws.decode(token, fitting[0].key, algorithms=[algorithm])
        found = strict_json(claims if isinstance(claims, bytes) else bytes(claims))
    except jwt.PyJWTError as err:
        raise ValueError("its signature is not the issuer's") from err
    if not isinstance(found, dict):
        raise ValueError("its claims are no object")
    # (5)
    if found.get("iss") != trust.issuer:
        raise ValueError("it is of another issuer")
    audience = found.get("aud")
    meant = audience if isinstance(audience, list) else [audience]
    if not any(own == item for own in trust.audiences for item in meant):
        raise ValueError(f"it is not meant for `{'` or `'.join(trust.audiences)}`")
    # (6)
    check_times(found, trust, now.timestamp())
    return found


def check_times(claims: Mapping[str, Any], trust: JwtTrust, moment: float) -> None:
    """Check that verified claims hold at a moment, in seconds since 1970 (step 6 of `verify_jwt`).

    Raises ValueError with a sentence.
    """
    begin = claims.get("iat") if trust.needs_begin or "iat" in claims else moment
    end, earliest = claims.get("exp"), claims.get("nbf", 0)
    for value in (end, begin, earliest):
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 2**40:
            raise ValueError("its times are missing or no numbers")
    assert isinstance(end, int | float)
    assert isinstance(begin, int | float)
    if end - begin > trust.max_life.total_seconds():
        raise ValueError(f"it lives longer than {trust.max_life}")
    if moment >= end + trust.leeway_s:
        raise ValueError(f"it ended at {_time(end)}, and it is {_time(moment)}")
    if moment < max(begin, earliest) - trust.leeway_s:
        raise ValueError(f"it begins at {_time(max(begin, earliest))}, and it is {_time(moment)}")


def _time(moment: float) -> str:
    return f"{dt.datetime.fromtimestamp(moment, tz=dt.UTC):%Y-%m-%dT%H:%M:%SZ}"


def _header(token: str) -> dict[str, Any]:
    if len(token) > MAX_TOKEN_BYTES or _PARTS.fullmatch(token) is None:
        raise ValueError("it is no compact JWT")
    return _object(token.partition(".")[0], "header")


def _object(text: str, what: str) -> dict[str, Any]:
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as err:
        raise ValueError("it is no compact JWT") from err
    found = strict_json(data)
    if not isinstance(found, dict):
        raise ValueError(f"its {what} is no object")
    return found
