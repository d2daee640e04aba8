"""What agents hold of a trust domain: bundle, pinned intermediates and revocations, numbered and signed by the server.

The server's pinned key signs it (ES256 JWS, RFC 7515), so an agent needs no authority to believe it, and a server
that was restored from a backup can believe its own newer words when an agent shows them. The bundle in it is the
SPIFFE document as anybody may have it; the rest is for our own verifiers.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import re
from typing import Any

import jwt
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from mesh import canonicaljson
from mesh.bundle import TrustBundle, parse_bundle
from mesh.problems import Forbidden, Invalid
from mesh.spiffe import TrustDomain

TYPE = "limen-trust+jws"
MAX_BYTES = 8 << 20
_ALGORITHM = "ES256"
_HASH = re.compile(r"[0-9a-f]{64}\Z")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TrustState:
    """One version. ``revoked`` are the ids of authorities that were revoked; ``bundle`` has pins and CRLs filled in."""

    bundle: TrustBundle
    revoked: tuple[str, ...] = ()

    @property
    def sequence(self) -> int:
        """Its number; it grows with every change."""
        return self.bundle.sequence or 0

    def payload(self) -> bytes:
        """What is signed: canonical JSON."""
        bundle = self.bundle
        return canonicaljson.dumps(
            {
                "trust_domain": str(bundle.trust_domain),
                "bundle": bundle.to_json().decode(),
                "intermediates": None if bundle.intermediates is None else sorted(bundle.intermediates),
                "crls": [base64.b64encode(der).decode() for der in bundle.crls],
                "revoked": sorted(self.revoked),
            }
        )

    def sign(self, key: ec.EllipticCurvePrivateKey) -> bytes:
        """The compact JWS."""
        return jwt.PyJWS().encode(self.payload(), key, algorithm=_ALGORITHM, headers={"typ": TYPE}).encode()

    def is_like(self, other: TrustState) -> bool:
        """Whether both say the same, whatever their numbers."""
        return dataclasses.replace(self.bundle, sequence=0) == dataclasses.replace(other.bundle, sequence=0) and sorted(
            self.revoked
        ) == sorted(other.revoked)


def read_trust_state(token: bytes, trust_domain: TrustDomain, server_certificate: bytes) -> TrustState:
    """Read what the server signed.

    1. It is short and signed by the pinned key, with ES256 and nothing else, as a trust state.
    2. It is of this trust domain, and all its parts have their form.

    Raises Forbidden LM1303 for (1), Invalid LM1304 for (2), and LM1001 for a bundle that cannot be read.
    """
    # (1)
    if len(token) > MAX_BYTES:
        raise Forbidden("LM1303", trust_domain=str(trust_domain))
    key = x509.load_der_x509_certificate(server_certificate).public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise Forbidden("LM1303", trust_domain=str(trust_domain))
    try:
        found = jwt.PyJWS().decode_complete(token, key, algorithms=[_ALGORITHM])
        if found["header"].get("typ") != TYPE:
            raise Forbidden("LM1303", trust_domain=str(trust_domain))
    except (jwt.PyJWTError, ValueError, RecursionError) as err:
        raise Forbidden("LM1303", trust_domain=str(trust_domain)) from err
    # (2)
    return parse_payload(found["payload"], trust_domain)


def parse_payload(payload: bytes, trust_domain: TrustDomain) -> TrustState:
    """Read a payload whose signature was checked, or that never left the server.

    Raises Invalid LM1304 and LM1001.
    """
    try:
        row: dict[str, Any] = json.loads(payload)
        bundle = parse_bundle(trust_domain, str(row["bundle"]).encode())
        pins, revoked = row["intermediates"], tuple(str(item) for item in row["revoked"])
        crls = tuple(base64.b64decode(item, validate=True) for item in row["crls"])
        if row["trust_domain"] != str(trust_domain) or bundle.sequence is None:
            raise Invalid("LM1304", trust_domain=str(trust_domain))
        if pins is not None and not all(_HASH.match(item) for item in pins):
            raise Invalid("LM1304", trust_domain=str(trust_domain))
        for crl in crls:
            x509.load_der_x509_crl(crl)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, x509.InvalidVersion) as err:
        raise Invalid("LM1304", trust_domain=str(trust_domain)) from err
    intermediates = None if pins is None else frozenset(pins)
    return TrustState(bundle=dataclasses.replace(bundle, intermediates=intermediates, crls=crls), revoked=revoked)
