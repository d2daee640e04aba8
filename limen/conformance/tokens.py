"""The statements on JWT-SVIDs and JWT bundles (JWT-SVID.md), looked at in what a Workload API gave. Pure."""

from __future__ import annotations

import base64
import datetime as dt
import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from limen.conformance.certificates import is_workload
from limen.conformance.row import Row, each
from mesh.bundle import parse_bundle
from mesh.jwtsvid import verify_jwt_svid
from mesh.problems import Problem
from mesh.spiffe import SpiffeId

AUDIENCE = "limen-conformance"
ALGORITHMS = {f"{kind}{size}" for kind in ("RS", "ES", "PS") for size in (256, 384, 512)}
_COMPACT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\Z")


def rows(tokens: Any, bundles: Mapping[str, bytes], now: dt.datetime) -> Iterator[Row]:  # noqa: ANN401  messages
    """Every statement on the tokens and the JWT bundles of the responses."""
    for name, level, words, check in _TOKEN:
        yield each(name, level, words, tokens, check)
    yield each("J-15", "M", "a token is not given when it has ended", tokens, lambda item: _lives(item, now))
    if bundles:
        yield each(
            "J-20", "M", "a token verifies with the bundle of its trust domain", tokens,
            lambda item: _verifies(item, bundles, now),
        )  # fmt: skip
    documents = bundles.items()
    for name, words, holds in _DOCUMENT:
        yield each(name, "M", words, documents, lambda item, holds=holds: holds(item[1]), lambda item: item[0])  # type: ignore[misc]  # mypy cannot infer lambdas with defaults
    keys = [(name, key) for name, data in documents for key in _keys(data)]
    for name, level, words, good in _KEY:
        yield each(name, level, words, keys, lambda item, good=good: good(item[1]), lambda item: item[0])  # type: ignore[misc]


def is_compact(token: str) -> bool:
    """Whether a token has the form of a compact JWS whose header and claims are JSON objects."""
    try:
        return bool(_COMPACT.match(token) and decoded(token.split(".", maxsplit=1)[0]) and decoded(token.split(".")[1]))
    except (ValueError, RecursionError):
        return False


def decoded(part: str) -> dict[str, Any]:
    """The JSON object of a part of a token. Raises ValueError."""
    found = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    if not isinstance(found, dict):
        raise ValueError("it is no JSON object")
    return found


def encoded(found: Mapping[str, Any]) -> str:
    """A part of a token that holds a JSON object."""
    return base64.urlsafe_b64encode(json.dumps(found, separators=(",", ":")).encode()).rstrip(b"=").decode()


def spoilt(token: str) -> dict[str, tuple[str, str]]:
    """What a validator has to refuse, made of a good token: the statement's id and the words for each."""
    head, body, signature = token.split(".")
    none = encoded({**decoded(head), "alg": "none"})
    mac = encoded({**decoded(head), "alg": "HS256"})
    claims = decoded(body)
    other = f"{claims.get('sub')}x"
    document = json.dumps({"payload": body, "protected": head, "signature": signature})
    return {
        f"{head}.{body}.{signature[:-4]}AAAA": ("W-17", "a changed signature"),
        f"{head}.{encoded({**claims, 'sub': other})}.{signature}": ("J-9", "another subject"),
        f"{head}.{encoded({**claims, 'exp': 2**40})}.{signature}": ("J-15", "another end"),
        f"{none}.{body}.": ("J-5", "the algorithm `none`"),
        f"{mac}.{body}.{signature}": ("J-5", "the algorithm HS256"),
        document: ("J-2", "JSON serialization"),
    }


def _head(item: Any) -> dict[str, Any]:  # noqa: ANN401
    return decoded(item.svid.split(".")[0])


def _body(item: Any) -> dict[str, Any]:  # noqa: ANN401
    return decoded(item.svid.split(".")[1])


def _audiences(item: Any) -> list[str]:  # noqa: ANN401
    found = _body(item).get("aud")
    return [found] if isinstance(found, str) else list(found or ())


def _number(item: Any) -> float:  # noqa: ANN401
    found = _body(item).get("exp")
    if type(found) not in {int, float}:
        raise ValueError("`exp` is no number")
    return float(str(found))


_TOKEN: tuple[tuple[str, str, str, Callable[[Any], bool]], ...] = (
    ("J-1", "M", "a token is a compact JWS", lambda item: _COMPACT.match(item.svid) is not None),
    ("J-3", "M", "its header has alg, kid and typ alone", lambda item: set(_head(item)) <= {"alg", "kid", "typ"}),
    ("J-4", "M", "its algorithm is one of the nine", lambda item: _head(item).get("alg") in ALGORITHMS),
    ("J-8", "M", "its typ, if set, is JWT or JOSE", lambda item: _head(item).get("typ", "JWT") in {"JWT", "JOSE"}),
    ("J-9", "M", "its subject is the SPIFFE ID", lambda item: is_workload(item.spiffe_id) and _names(item)),
    ("J-10", "M", "it has an audience", lambda item: bool(_audiences(item))),
    ("J-13", "M", "it has an end", lambda item: _number(item) > 0),
    ("W-16", "M", "its audience is the one asked for", lambda item: _audiences(item) == [AUDIENCE]),
)


def _names(item: Any) -> bool:  # noqa: ANN401
    return bool(_body(item).get("sub") == item.spiffe_id)


def _lives(item: Any, now: dt.datetime) -> bool:  # noqa: ANN401
    return _number(item) > now.timestamp()


def _verifies(item: Any, bundles: Mapping[str, bytes], now: dt.datetime) -> bool:  # noqa: ANN401
    domain = SpiffeId.parse(item.spiffe_id).trust_domain
    keys = [{"use": "jwt-svid", **key} for key in _keys(bundles[str(domain.id)])]
    bundle = parse_bundle(domain, json.dumps({"keys": keys}).encode())
    try:
        found = verify_jwt_svid(item.svid, AUDIENCE, {domain: bundle}, now)
    except Problem as problem:
        raise ValueError(str(problem)) from problem
    return str(found.spiffe_id) == str(item.spiffe_id)


_DOCUMENT: tuple[tuple[str, str, Callable[[bytes], bool]], ...] = (
    ("B-1", "a JWT bundle is a JWK Set", lambda data: isinstance(json.loads(data), dict)),
    ("B-6", "a JWT bundle has `keys`", lambda data: isinstance(json.loads(data)["keys"], list)),
)
# a JWK Set of the Workload API holds JWT authorities alone (§6.2.2), so that a key need not say its use there; in the
# bundle that a trust domain publishes it must
_KEY: tuple[tuple[str, str, str, Callable[[dict[str, Any]], bool]], ...] = (
    ("J-17", "S", "a JWT key says that its use is `jwt-svid`", lambda key: key.get("use") == "jwt-svid"),
    ("J-18", "M", "a JWT key has a `kid`", lambda key: bool(key.get("kid"))),
    ("W-15", "M", "JWT bundles hold no keys of another use", lambda key: key.get("use", "jwt-svid") == "jwt-svid"),
    ("B-9", "M", "`kty` is set", lambda key: bool(key.get("kty"))),
)


def _keys(data: bytes) -> list[dict[str, Any]]:
    try:
        found = json.loads(data)["keys"]
        return [key if isinstance(key, dict) else {} for key in found]
    except (ValueError, KeyError, TypeError, RecursionError):
        return []
