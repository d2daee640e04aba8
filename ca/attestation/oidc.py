"""Node attestation by the OIDC token of a CI system: this job, of this project, asked for a node.

Such a token proves itself to whoever holds it, so the first key it is shown with is the only one it works with.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from ca.attestation.evidence import Attested, collect
from mesh.jwks import JwtKey
from mesh.jwtproof import LEEWAY_S, JwtTrust, verify_jwt
from mesh.problems import Forbidden

DEFAULT_NODE = "{oidc-sub}"
FIELDS = ("oidc-issuer", "oidc-sub")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Oidc:
    """An attestor for one issuer. ALL ``claims`` must fit (exact, or a beginning); ``facts`` are claims to keep."""

    name: str
    node: str
    trust: JwtTrust
    keys: str
    claims: tuple[tuple[str, str], ...]
    facts: tuple[str, ...] = ()
    keys_ca: bytes = b""
    keys_token: str = ""
    type: str = "oidc"


def verify(attestor: Oidc, *, token: str, keys: Sequence[JwtKey], now: dt.datetime) -> Attested:
    """Verify a CI job's token.

    1. The token verifies (`jwtproof.verify_jwt`).
    2. EVERY required claim is there with the value, or the beginning, that is asked for.

    Raises Forbidden LM1248.
    """
    try:
        # (1)
        claims = verify_jwt(token, keys, attestor.trust, now)
        # (2)
        for name, wanted in attestor.claims:
            found = _text(claims, name)
            if not (found.startswith(wanted[:-1]) if wanted.endswith("*") else found == wanted):
                raise ValueError(f"its claim `{name}` is `{found[:100]}`")
        facts = collect(
            {
                "oidc-issuer": attestor.trust.issuer,
                "oidc-sub": _text(claims, "sub"),
                **{f"oidc-{name}": _text(claims, name) for name in attestor.facts},
            }
        )
    except ValueError as err:
        raise Forbidden("LM1248", attestor=attestor.name, reason=str(err)) from err
    # what was signed, not the signature: an ECDSA signature can be written in two ways
    signed = token.rpartition(".")[0]
    digest = hashlib.sha256(f"{attestor.name}\0{signed}".encode()).hexdigest()
    return Attested(facts=facts, proof_id=digest, expires=int(claims["exp"]) + LEEWAY_S)


def _text(claims: Mapping[str, Any], name: str) -> str:
    found = claims.get(name)
    if isinstance(found, bool):
        return str(found).lower()
    if isinstance(found, int):
        return str(found)
    if not isinstance(found, str) or not found:
        raise ValueError(f"it has no claim `{name}` that is a text")
    return found
