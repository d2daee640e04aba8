"""The bodies that the API takes: unknown fields are refused, sizes are bounded."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class Body(BaseModel):
    """A body that holds nothing but what it declares."""

    model_config = ConfigDict(extra="forbid", strict=True)


class TokenBody(Body):
    """What a join token is asked with; ``ttl_s`` is in seconds."""

    ttl_s: int = Field(default=600, ge=1, le=86400)


class ExportBody(Body):
    """An export that somebody makes by hand: where to, in which form, of which time."""

    to: str = Field(max_length=1000)
    format: str = Field(max_length=20)
    since: str | None = Field(default=None, max_length=40)
    until: str | None = Field(default=None, max_length=40)
    kinds: list[str] = Field(default=[], max_length=64)


class JoinBody(Body):
    """What an agent joins with: the token, and its public key as base64 DER."""

    token: str = Field(max_length=8192)
    spki: str = Field(max_length=4096)


class ReadmitBody(Body):
    """What an agent comes back with: name, nonce, new and last public key, and the last one's signature."""

    node: str = Field(max_length=63)
    nonce: str = Field(max_length=200)
    spki: str = Field(max_length=4096)
    key: str = Field(max_length=4096)
    signature: str = Field(max_length=4096)


class ChallengeBody(Body):
    """What a TPM shows: its endorsement and attestation key, and the first one's certificate; base64."""

    attestor: str = Field(max_length=64)
    ek: str = Field(max_length=4096)
    ak: str = Field(max_length=4096)
    certificate: str = Field(default="", max_length=32_768)


class ProofBody(Body):
    """The parts of a proof, as its attestor asks for them; base64, but for a token."""

    token: str = Field(default="", max_length=16_384)
    chain: list[Annotated[str, Field(max_length=32_768)]] = Field(default=[], max_length=6)
    signature: str = Field(default="", max_length=4096)
    ek: str = Field(default="", max_length=4096)
    ak: str = Field(default="", max_length=4096)
    certificate: str = Field(default="", max_length=32_768)
    secret: str = Field(default="", max_length=200)
    quote: str = Field(default="", max_length=8192)


class AttestBody(Body):
    """What a node attests itself with; ``fresh`` when its agent begins with an empty state."""

    attestor: str = Field(max_length=64)
    nonce: str = Field(max_length=200)
    spki: str = Field(max_length=4096)
    fresh: bool
    proof: ProofBody


class BanBody(Body):
    """Why a node is banned."""

    reason: str = Field(default="", max_length=400)


class RelationshipBody(Body):
    """A relationship with another trust domain; ``bundle`` is the first one, a SPIFFE document or PEM."""

    trust_domain: str = Field(max_length=300)
    url: str = Field(max_length=2048)
    profile: str = Field(max_length=80)
    endpoint_id: str | None = Field(default=None, max_length=2100)
    web_roots: str = Field(default="", max_length=4 << 20)
    bundle: str | None = Field(default=None, max_length=4 << 20)
    replace: bool = False


class ReachBody(Body):
    """Where a service of another trust domain is reached."""

    spiffe_id: str = Field(max_length=2100)
    address: str = Field(max_length=64)
    port: int = Field(ge=1, le=65535)
    is_gone: bool = False


class ExplainBody(Body):
    """The attested facts of a process; a key may repeat."""

    facts: list[Annotated[list[str], Field(min_length=2, max_length=2)]] = Field(max_length=512)


class ReviewBody(Body):
    """A proposed change."""

    policies: dict[str, object]
    proposer: str | None = Field(default=None, max_length=200)
    predecessor: str | None = Field(default=None, max_length=200)
    note: str = Field(default="", max_length=4000)


class ApprovalBody(Body):
    """A signed approval: a DSSE envelope."""

    envelope: dict[str, object]
