"""What an agent reads from a join token before it knows whom to trust: where the pins are.

The token came to the agent by a trusted way, so its claims are read without a signature check; the server checks its
own signature. This module verifies nothing.
"""

from __future__ import annotations

import dataclasses
import re

import jwt

from mesh.problems import Invalid
from mesh.spiffe import SpiffeIdError, TrustDomain

_PIN = re.compile(r"sha256:[0-9a-f]{64}\Z")
MAX_TOKEN_BYTES = 8192
TYPE = "limen-join+jwt"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class JoinPins:
    """What a join token pins: the server's key and the reviewer set, each ``sha256:`` and a hexadecimal hash."""

    server: str
    reviewers: str
    trust_domain: str


def read_pins(token: str) -> JoinPins:
    """Read the pins of a join token.

    Raises Invalid LM1207 for a text that is no join token.
    """
    if len(token) > MAX_TOKEN_BYTES:
        raise Invalid("LM1207")
    try:
        header = jwt.get_unverified_header(token)
        claims = jwt.decode(token, options={"verify_signature": False})
    except (jwt.PyJWTError, ValueError, RecursionError) as err:
        raise Invalid("LM1207") from err
    server, reviewers, domain = claims.get("srv"), claims.get("rev"), claims.get("td")
    if header.get("typ") != TYPE or not isinstance(domain, str):
        raise Invalid("LM1207")
    if not all(isinstance(pin, str) and _PIN.match(pin) for pin in (server, reviewers)):
        raise Invalid("LM1207")
    try:
        TrustDomain.parse(domain)
    except SpiffeIdError as err:
        raise Invalid("LM1207") from err
    return JoinPins(server=str(server), reviewers=str(reviewers), trust_domain=domain)
