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


class BanBody(Body):
    """Why a node is banned."""

    reason: str = Field(default="", max_length=400)


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
