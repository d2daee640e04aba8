"""The values between the server's doors and `limen.app.App`: plain, frozen, without a transport's types."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from limen.limits import CONNECT_BURST, CONNECT_RATE

LEARN_DAYS = 400
"""So many days the learner remembers, unless somebody says otherwise: what happens once a year is not forgotten."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Public:
    """How the server shows itself to strangers.

    ``web`` names the files of a web certificate and its key; ``jwt_issuer`` is the OIDC issuer; ``federation`` is the
    ADDRESS[:PORT] of the https_spiffe endpoint, by default beside the public port; ``opa_readers`` may fetch the
    policies as OPA bundles, ``authzen_callers`` may ask the authorization API. Every port lets one address connect
    ``connect_burst`` times at once, and ``connect_rate`` times a second after that. What was learned is remembered for
    ``learn_days`` days; with 0 nothing is.
    """

    web: tuple[pathlib.Path, pathlib.Path] | None = None
    jwt_issuer: str | None = None
    federation: str | None = None
    opa_readers: tuple[str, ...] = ()
    authzen_callers: tuple[str, ...] = ()
    connect_rate: float = CONNECT_RATE
    connect_burst: int = CONNECT_BURST
    learn_days: int = LEARN_DAYS


class Ask(NamedTuple):
    """One workload that an agent attested: a reference, its public key, and the facts.

    There is one for every SVID, and no other kind of value is made as quickly.
    """

    ref: str
    spki: bytes
    facts: tuple[tuple[str, str], ...]


class Issued(NamedTuple):
    """The answer to an `Ask`: a chain, or the code that says why there is none."""

    ref: str
    code: str = ""
    facts: Mapping[str, str] = MappingProxyType({})
    spiffe_id: str = ""
    chain: tuple[bytes, ...] = ()
    rule: str = ""
    direct: bool = False
    hint: str = ""
    container_bound: bool = False
    federates_with: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class JwtAsk:
    """One JWT-SVID that an agent asks for: by facts, for audiences, and for the identity that they have to give."""

    ref: str
    facts: tuple[tuple[str, str], ...]
    audiences: tuple[str, ...]
    spiffe_id: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class IssuedJwt:
    """The answer to a `JwtAsk`: a token, or the code that says why there is none."""

    ref: str
    code: str = ""
    facts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    spiffe_id: str = ""
    token: str = dataclasses.field(default="", repr=False)
    not_after: str = ""
    hint: str = ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where a workload's inbound listener is reachable; ``port`` is the one that policies name."""

    spiffe_id: str
    address: str
    port: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """The full state that agents watch; ``releases`` are pairs of activation and snapshot, oldest first."""

    sequence: int
    bundle: bytes
    trust: bytes
    is_settling: bool
    releases: tuple[tuple[bytes, bytes], ...]
    epoch: int
    candidate: bytes
    reviewers: tuple[bytes, ...]
    endpoints: tuple[Endpoint, ...]
    rotation: int
    identity_rules: int
    federated: Mapping[str, bytes] = dataclasses.field(default_factory=dict)
    tainted: tuple[str, ...] = ()
