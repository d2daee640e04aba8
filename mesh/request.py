"""What the policy decision point is asked and what it answers.

A `Request` is one thing somebody wants to do, as the listener saw it; a `Decision` says what happens and why.
Both are plain values. This module neither canonicalises nor decides.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
from collections.abc import Mapping
from typing import Literal

Protocol = Literal["http", "grpc", "tcp"]


class Effect(enum.StrEnum):
    """What a rule does when it decides, or what a decision came to."""

    ALLOW = "allow"
    DENY = "deny"
    PASS = "pass"  # noqa: S105  a rule's effect, not a secret


class Mode(enum.StrEnum):
    """How a service applies decisions: enforce them, or only observe (until a date)."""

    ENFORCE = "enforce"
    OBSERVE = "observe"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request to a service, before canonicalisation.

    ``source`` is the string of the peer's single URI SAN, or None for a caller without a verified identity.
    ``service`` is the called service's name or the called workload's SPIFFE ID. ``path`` is the raw request
    target; its code points up to U+00FF are bytes of the wire. ``headers`` keeps order and repetition.
    ``peer_ip`` is the address of the connection, ``forwarded_ip`` the one a trusted proxy reported.
    ``unknown`` names attributes that exist but could not be determined (``claims``, ``headers.x-tenant``).
    ``time`` None means that the clock cannot be trusted (design D13), not "now".
    """

    service: str
    port: int
    protocol: Protocol
    source: str | None = None
    method: str | None = None
    host: str | None = None
    path: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    claims: Mapping[str, object] | None = None
    peer_ip: str | None = None
    forwarded_ip: str | None = None
    time: dt.datetime | None = None
    unknown: frozenset[str] = frozenset()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class NearestMiss:
    """The rule that would have allowed with the smallest change."""

    policy: str
    rule: str
    differs: tuple[str, ...]
    fix: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What happens to a request, and why.

    ``effect`` is what happens (mode included); ``policy_effect`` is what the rules say. ``tier``, ``policy``
    and ``rule`` name what decided, empty strings where nothing did; ``code`` is a catalogue code.
    """

    effect: Effect
    policy_effect: Effect
    mode: Mode
    snapshot: str
    tier: str
    policy: str
    rule: str
    code: str

    @property
    def is_allowed(self) -> bool:
        """Whether the request goes through."""
        return self.effect is Effect.ALLOW
