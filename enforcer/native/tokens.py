"""Bearer tokens of requests: whose they are, whether they verify, and whether this caller may present them.

A token is read only where some rule could look at its claims. The keys come from the policy tree or from the agent;
nothing here fetches any. What is wrong with a token is not told to its caller: its claims are unknown, which no allow
matches and every deny does (design D3).
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from urllib.parse import unquote_plus

from mesh.jwks import JwtKey, parse_jwks
from mesh.jwtproof import JwtTrust, check_times, issuer_of, kid_of, verify_jwt
from policyengine.issuer import Issuer

MAX_VERIFIED = 1024
MAX_SOURCES = 256
_BEARER = re.compile(rb"bearer +([A-Za-z0-9._~+/-]+=*)", re.IGNORECASE)  # RFC 6750 §2.1, RFC 9110 §11.4

Claims = Mapping[str, object]


class UnknownClaims(Exception):  # noqa: N818  not an error: the request is decided with unknown claims
    """There is a token, or what may be one, and it says nothing that counts."""


class Tokens:
    """The keys that the agent told of, and what verified a moment ago."""

    def __init__(self) -> None:
        self._told: dict[str, tuple[tuple[JwtKey, ...], dt.datetime]] = {}
        self._declared: dict[str, tuple[JwtKey, ...]] = {}
        self._verified: dict[bytes, tuple[Issuer, JwtTrust, Claims]] = {}
        self._missed: set[str] = set()

    def learn(self, sets: Iterable[tuple[str, bytes, dt.datetime]]) -> None:
        """Use these keys from now on, and no others: their source, the key set, and until when it counts.

        Raises Invalid LM1257 for what is no key set; then nothing changes.
        """
        self._told = {source: (parse_jwks(jwks), until) for source, jwks, until in sets}
        self._verified.clear()

    def take_missed(self) -> list[str]:
        """The sources that lacked the key of some token since this was asked last."""
        found, self._missed = sorted(self._missed), set()
        return found

    def claims(
        self,
        fields: Sequence[tuple[bytes, bytes]],
        target: str,
        issuers: Sequence[Issuer],
        *,
        source: str,
        certificate: str,
        now: dt.datetime | None,
    ) -> Claims | None:
        """The verified claims of a request's token; None when there is no token.

        1. One `Authorization: Bearer` brings a token. Another scheme, two fields, or `access_token` in the query, alone
           or beside it, may each be one that somebody else reads: unknown.
        2. Its `iss` is exactly that of ONE declared issuer; only that issuer's keys count, and the key that `kid` names
           is among them. Keys older than a day, and an unknown time, verify nothing.
        3. It verifies: algorithm, key, signature, audience, times (`mesh.jwtproof`).
        4. EVERY binding that the issuer declares holds for the caller's identity and certificate.

        ``certificate`` is the base64url SHA-256 of the caller's. Raises UnknownClaims.
        """
        # (1)
        found = [value for name, value in fields if name.lower() == b"authorization"]
        in_query = _has_token(target)
        if not found and not in_query:
            return None
        match = _BEARER.fullmatch(found[0]) if len(found) == 1 and not in_query else None
        if match is None:
            raise UnknownClaims
        token = match[1].decode("ascii")
        name = hashlib.sha256(match[1]).digest()
        known = self._verified.get(name)
        # (2)
        if known is not None and known[0] in issuers:
            issuer = known[0]
        else:
            known, named = None, issuer_of(token)
            found_issuer = next((item for item in issuers if item.issuer == named), None)
            if found_issuer is None:
                raise UnknownClaims
            issuer = found_issuer
        if now is None:
            raise UnknownClaims
        keys = self._keys(issuer, now)
        # (3)
        claims = (
            self._again(known[1], known[2], now) if known is not None else self._anew(name, token, keys, issuer, now)
        )
        # (4)
        if not all(_is_bound(claims, binding, source, certificate) for binding in issuer.bind):
            raise UnknownClaims
        return claims

    def _keys(self, issuer: Issuer, now: dt.datetime) -> tuple[JwtKey, ...]:
        if issuer.keys is not None:
            if issuer.keys not in self._declared:
                if len(self._declared) >= MAX_SOURCES:
                    self._declared.clear()
                self._declared[issuer.keys] = parse_jwks(issuer.keys.encode())
            return self._declared[issuer.keys]
        keys, until = self._told.get(issuer.source, ((), now))
        if now >= until:
            self._missed.add(issuer.source)
            raise UnknownClaims
        return keys

    def _anew(self, name: bytes, token: str, keys: Sequence[JwtKey], issuer: Issuer, now: dt.datetime) -> Claims:
        """The claims of a token that was not seen before, under its digest kept for the next time."""
        try:
            trust = _trust(issuer)
            claims: Claims = verify_jwt(token, keys, trust, now)
        except ValueError:
            kid = kid_of(token)
            if issuer.keys is None and kid and all(key.kid != kid for key in keys):
                self._missed.add(issuer.source)
            raise UnknownClaims from None
        if len(self._verified) >= MAX_VERIFIED:
            self._verified.clear()
        self._verified[name] = issuer, trust, claims
        return claims

    @staticmethod
    def _again(trust: JwtTrust, claims: Claims, now: dt.datetime) -> Claims:
        """The claims of a token that verified under the same keys: its times are looked at again."""
        try:
            check_times(claims, trust, now.timestamp())
        except ValueError:
            raise UnknownClaims from None
        return claims


def _trust(issuer: Issuer) -> JwtTrust:
    return JwtTrust(
        issuer=issuer.issuer,
        audiences=issuer.audiences,
        algorithms=issuer.algorithms,
        leeway_s=issuer.leeway_s,
        needs_begin=False,
    )


def thumbprint(certificate: bytes) -> str:
    """The `x5t#S256` of a certificate in DER (RFC 8705 §3.1)."""
    return base64.urlsafe_b64encode(hashlib.sha256(certificate).digest()).rstrip(b"=").decode("ascii")


def _is_bound(claims: Claims, binding: str, source: str, certificate: str) -> bool:
    """Whether a token names the caller; a caller without identity or certificate is named by none."""
    if binding == "certificate":
        named = claims.get("cnf")
        return bool(certificate) and isinstance(named, Mapping) and named.get("x5t#S256") == certificate
    if binding == "actor":
        actor = claims.get("act")
        return bool(source) and isinstance(actor, Mapping) and actor.get("sub") == source
    return bool(source) and claims.get("sub") == source


def _has_token(target: str) -> bool:
    """Whether the query has a parameter `access_token` (RFC 6750 §2.3), in any spelling that a server decodes to it."""
    _, _, query = target.partition("?")
    if "access" not in query.lower() and "%" not in query:
        return False
    names = (pair.partition("=")[0] for part in query.split("&") for pair in part.split(";"))
    return any(unquote_plus(name).strip().lower() == "access_token" for name in names)
