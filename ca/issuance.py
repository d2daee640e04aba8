"""Issuing, in order: read the key, find the identity, mint, and check our own work before it leaves.

Nothing that this module returns was not checked against our own bundle, as peers check it (`ca.owncheck`): a mistake in
a profile shows here, at once, and not in a peer.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Collection, Sequence
from typing import NamedTuple

from ca import keys
from ca.authority import NODE_LIFE, Authority, SignedSvid, SvidOrder
from ca.keys import LEAF_ALGORITHMS, KeyAlgorithm
from ca.owncheck import Meant
from ca.registration import Entitlement, Facts, Refusal, RuleSet
from mesh.problems import Invalid, Problem
from mesh.spiffe import SpiffeId, TrustDomain

_NODE_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{0,62}\Z")
_NOT_YET = Refusal(code="LM0002", facts={})


class IssuedSvid(NamedTuple):
    """A checked SVID: its chain, leaf first, what it was given for, and the hash of its leaf, hexadecimal."""

    spiffe_id: SpiffeId
    chain: tuple[bytes, ...]
    entitlement: Entitlement | None
    not_after: dt.datetime
    serial: int
    sha256: str


def node_id(trust_domain: TrustDomain, name: str) -> SpiffeId:
    """The SPIFFE ID of a node's agent.

    Raises Invalid LM1230 for a name that is no path segment of at most 63 characters.
    """
    if not _NODE_NAME.match(name):
        raise Invalid("LM1230", given=name[:80])
    return SpiffeId.from_segments(trust_domain, "limen", "agent", name)


def issue_workload(
    authority: Authority,
    rules: RuleSet,
    *,
    facts: Facts,
    spki: bytes,
    node: str,
    now: dt.datetime,
    leaf_algorithms: Collection[KeyAlgorithm] = LEAF_ALGORITHMS,
) -> IssuedSvid | Refusal:
    """Issue a workload's SVID.

    1. The public key is of a kind that is allowed (P-256, unless somebody opted in to more), in canonical DER.
    2. The rules give exactly one identity for the attested facts; it is not one of Limen's own.
    3. The certificate is minted and recorded (`Authority.sign`).
    4. The finished chain passes the verifier that peers run, and says what was meant and nothing more.

    Raises Invalid LM1203 for (1), LM1204, and Conflict LM1205; a refusal of (2) is a value.
    """
    asked = WorkloadAsk(facts=facts, spki=spki)
    (found,) = issue_workloads(authority, rules, [asked], node=node, now=now, leaf_algorithms=leaf_algorithms)
    if isinstance(found, Problem):
        raise found
    return found


class WorkloadAsk(NamedTuple):
    """What a workload's SVID is asked with: attested facts, and its public key, DER."""

    facts: Facts
    spki: bytes


def issue_workloads(
    authority: Authority,
    rules: RuleSet,
    asks: Sequence[WorkloadAsk],
    *,
    node: str,
    now: dt.datetime,
    leaf_algorithms: Collection[KeyAlgorithm] = LEAF_ALGORITHMS,
) -> list[IssuedSvid | Refusal | Problem]:
    """Issue a batch in the steps of `issue_workload`, with one write for all; what one ask breaks harms no other.

    Raises Invalid LM1204 and Conflict LM1205, which are nobody's own.
    """
    answers: list[IssuedSvid | Refusal | Problem] = []
    orders: list[SvidOrder] = []
    meant: list[tuple[int, Entitlement, Meant]] = []
    for facts, spki in asks:
        try:
            # (1)
            keys.check_leaf_key(spki, leaf_algorithms)
        except Problem as problem:
            answers.append(problem)
            continue
        # (2)
        entitled = rules.entitle(facts, authority.trust_domain)
        answers.append(_NOT_YET)
        if isinstance(entitled, Refusal):
            answers[-1] = entitled
            continue
        spiffe_id, life, dns_names = entitled.spiffe_id, entitled.ttl, entitled.dns_names
        orders.append(SvidOrder(spiffe_id, spki, life, node, entitled.rule, dns_names))
        meant.append((len(answers) - 1, entitled, Meant(spiffe_id, spki, dns_names, now + life)))
    # (3)
    signed = authority.sign_many(orders, now=now)
    # (4)
    checked = authority.own_check.check_all(
        [chain for chain, _ in signed], [wanted for _, _, wanted in meant], authority.bundle, now
    )
    for (chain, sha256), (place, entitled, wanted), found in zip(signed, meant, checked, strict=True):
        answers[place] = IssuedSvid(wanted.spiffe_id, chain, entitled, found.not_after, found.serial, sha256)
    return answers


def issue_node(authority: Authority, *, name: str, spki: bytes, now: dt.datetime) -> IssuedSvid:
    """Issue a node's own SVID, in the same steps.

    Raises Invalid LM1203, LM1204, LM1230, Conflict LM1205.
    """
    keys.parse_spki(spki)
    spiffe_id = node_id(authority.trust_domain, name)
    (made,) = authority.sign_many([SvidOrder(spiffe_id, spki, NODE_LIFE, name)], now=now)
    return _checked(authority, made, Meant(spiffe_id, spki, (), now + NODE_LIFE), now)


def issue_by_hand(
    authority: Authority,
    *,
    spiffe_id: SpiffeId,
    spki: bytes,
    life: dt.timedelta,
    dns_names: tuple[str, ...],
    now: dt.datetime,
    leaf_algorithms: Collection[KeyAlgorithm] = LEAF_ALGORITHMS,
) -> IssuedSvid:
    """Issue what a person asks for, in the same steps; whether they may have it is the caller's to know.

    Raises Invalid LM1203, LM1204, Conflict LM1205.
    """
    keys.check_leaf_key(spki, leaf_algorithms)
    (made,) = authority.sign_many([SvidOrder(spiffe_id, spki, life, "", "by hand", dns_names)], now=now)
    return _checked(authority, made, Meant(spiffe_id, spki, dns_names, now + life), now)


def _checked(authority: Authority, made: SignedSvid, meant: Meant, now: dt.datetime) -> IssuedSvid:
    chain, sha256 = made
    found = authority.own_check.check(chain, meant, authority.bundle, now)
    return IssuedSvid(meant.spiffe_id, chain, None, found.not_after, found.serial, sha256)
