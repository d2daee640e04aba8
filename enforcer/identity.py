"""Keys and SVIDs of workloads: made and kept in memory, asked for in batches, renewed at half their life."""

from __future__ import annotations

import dataclasses
import datetime as dt
import secrets
from collections.abc import Sequence
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from mesh.problems import Forbidden
from mesh.proto import node_pb2 as pb
from mesh.spiffe import SpiffeId
from mesh.x509svid import X509Svid

_JITTER = 10


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """An SVID and what came with it. ``renew_at`` is half its life, give or take a tenth; ``facts`` gave it."""

    svid: X509Svid
    rule: str
    hint: str
    direct: bool
    renew_at: dt.datetime
    federates_with: tuple[str, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()


Facts = Sequence[tuple[str, str]]


def new_ask(ref: str, facts: Facts) -> tuple[pb.Ask, bytes]:
    """An ask with a fresh P-256 key; return it with the key, PKCS#8 DER."""
    key = ec.generate_private_key(ec.SECP256R1())
    ask = pb.Ask(
        ref=ref,
        spki=key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        facts=[pb.Fact(key=name, value=value) for name, value in facts],
    )
    return ask, key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def read_issued(found: pb.IssuedSvid, key: bytes, now: dt.datetime, facts: Facts = ()) -> Identity:
    """Read what was issued for a key.

    Raises Forbidden with the server's code when nothing was.
    """
    if found.code:
        told: dict[str, Any] = dict(found.facts)
        raise Forbidden(found.code, **told)
    chain = tuple(bytes(item) for item in found.chain)
    not_after = x509.load_der_x509_certificate(chain[0]).not_valid_after_utc
    return Identity(
        svid=X509Svid(
            spiffe_id=SpiffeId.parse(found.spiffe_id), chain_der=chain, key_pkcs8_der=key, not_after=not_after
        ),
        rule=found.rule,
        hint=found.hint,
        direct=found.direct,
        renew_at=half_life(now, not_after),
        federates_with=tuple(found.federates_with),
        facts=tuple(facts),
    )


def half_life(now: dt.datetime, not_after: dt.datetime) -> dt.datetime:
    """When to renew: at half the life that is left, a tenth earlier or later at random."""
    half = (not_after - now) / 2
    share = (secrets.randbelow(2 * _JITTER + 1) - _JITTER) / 100
    return now + half * (1 + share)
