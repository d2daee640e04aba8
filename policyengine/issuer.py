"""Issuers of tokens: whose claims rules may speak of, by which keys they are known, for whom their tokens are meant.

An issuer is declared in the policy tree, so that what decides whose word counts is reviewed and signed like the rules.
Nothing is fetched or verified here.
"""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Literal

from mesh.jwks import ALGORITHMS
from mesh.jwtproof import LEEWAY_S, MAX_LEEWAY_S
from mesh.problems import Span

Binding = Literal["certificate", "subject", "actor"]
BINDINGS: tuple[Binding, ...] = ("certificate", "subject", "actor")
"""What of a token names the caller: `cnf.x5t#S256` its certificate (RFC 8705 §3), `sub` or `act.sub` its SPIFFE ID."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Issuer:
    """An issuer. Exactly one of ``jwks_uri`` and ``keys`` (a key set, as canonical JSON) is there.

    ``ca`` are the authorities of the address, PEM, empty for the system's. EVERY binding of ``bind`` must hold between
    a token and the caller who presents it. ``leeway_s`` is in seconds.
    """

    name: str
    owner: str
    issuer: str
    audiences: tuple[str, ...]
    jwks_uri: str | None = None
    ca: str = ""
    keys: str | None = None
    algorithms: tuple[str, ...] = ALGORITHMS
    leeway_s: int = LEEWAY_S
    bind: tuple[Binding, ...] = ()
    span: Span | None = dataclasses.field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if (self.jwks_uri is None) is (self.keys is None):
            raise ValueError("an issuer has `jwks_uri` or `keys`")
        if not self.audiences or not self.algorithms or not 0 <= self.leeway_s <= MAX_LEEWAY_S:
            raise ValueError("an issuer has audiences, algorithms and a bounded leeway")

    @property
    def source(self) -> str:
        """The name of where the keys come from: the same address with other authorities is another source."""
        return hashlib.sha256(f"{self.jwks_uri}\0{self.ca}".encode()).hexdigest()[:32] if self.jwks_uri else ""
