"""Keys and SVIDs of workloads: made and kept in memory, asked for in batches, renewed at half their life."""

from __future__ import annotations

import dataclasses
import datetime as dt
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
)

from mesh.certpath import parse, uris
from mesh.problems import Forbidden, Problem, Unavailable, catalogue, shortened
from mesh.proto import node_pb2 as pb
from mesh.spiffe import SpiffeId
from mesh.x509svid import MAX_CHAIN, X509Svid

_JITTER = 10
# facts that would be taken for something else of a Problem
_NO_FACTS = frozenset({"self", "code", "span"})


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
    """Read what was issued for a key, PKCS#8 DER.

    1. A refusal is raised as one.
    2. What was issued is a short chain whose leaf can be read and certifies this key.
    3. The leaf names the SPIFFE ID that the answer names, and no other.

    Raises Forbidden with the server's code for (1), Unavailable LM3453 for (2) and (3).
    """
    # (1)
    if found.code:
        raise refusal(found.code, found.facts)
    # (2)
    chain = tuple(bytes(item) for item in found.chain)
    leaf = read_leaf(chain, key)
    # (3)
    if uris(leaf) != [found.spiffe_id]:
        raise Unavailable("LM3453", reason=f"the certificate is not `{shortened(found.spiffe_id)}`'s")
    try:
        spiffe_id = SpiffeId.parse(found.spiffe_id)
    except Problem as err:
        raise Unavailable("LM3453", reason=err.message) from err
    not_after = leaf.not_valid_after_utc
    return Identity(
        svid=X509Svid(spiffe_id=spiffe_id, chain_der=chain, key_pkcs8_der=key, not_after=not_after),
        rule=found.rule,
        hint=found.hint,
        direct=found.direct,
        renew_at=half_life(now, not_after),
        federates_with=tuple(found.federates_with),
        facts=tuple(facts),
    )


def read_leaf(chain: Sequence[bytes], key: bytes) -> x509.Certificate:
    """The leaf of a chain that the server issued for a key, PKCS#8 DER.

    Raises Unavailable LM3453.
    """
    if not 1 <= len(chain) <= MAX_CHAIN:
        raise Unavailable("LM3453", reason=f"a chain has 1 to {MAX_CHAIN} certificates: {len(chain)}")
    try:
        leaf, *_ = [parse(der) for der in chain]
    except Problem as err:
        raise Unavailable("LM3453", reason=err.message) from err
    if leaf.public_key() != load_der_private_key(key, None).public_key():
        raise Unavailable("LM3453", reason="the certificate is for another key")
    return leaf


def refusal(code: str, facts: Mapping[str, str]) -> Forbidden:
    """What the server refused with; a code of another version is told as it came."""
    if code not in catalogue():
        return Forbidden("LM3454", given=shortened(code))
    told: dict[str, Any] = {name: facts[name] for name in facts if name not in _NO_FACTS}
    return Forbidden(code, **told)


def half_life(now: dt.datetime, not_after: dt.datetime) -> dt.datetime:
    """When to renew: at half the life that is left, a tenth earlier or later at random."""
    half = (not_after - now) / 2
    share = (secrets.randbelow(2 * _JITTER + 1) - _JITTER) / 100
    return now + half * (1 + share)
