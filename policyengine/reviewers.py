"""The reviewer set: who may approve, how many it takes, and the chain of versions that says so.

Version n + 1 counts only when the threshold of version n signed it, or version n's offline recovery key did.
A set is named by the hash of its canonical JSON; a join token carries that hash, and an agent walks the chain
from the set it pinned. This module reads no key files and approves nothing.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import hashlib
from collections.abc import Collection, Sequence

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mesh import canonicaljson
from mesh.problems import Forbidden, Invalid
from mesh.spiffe import SpiffeIdError, TrustDomain
from policyengine import dsse

REVIEWER_SET_TYPE = "application/vnd.limen.reviewer-set.v1+json"
ANY_OWNER = "*"
MAX_REVIEWERS = 256


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Reviewer:
    """A person with a key. ``teams`` are the owners they answer for; ``*`` is every owner."""

    name: str
    public_key: bytes
    teams: tuple[str, ...] = ()

    @property
    def key_id(self) -> str:
        """The name of the reviewer's key."""
        return dsse.key_id(self.public_key)

    def to_json(self) -> dict[str, object]:
        """The reviewer's JSON object, as it stands in a set and in a `.pub.json` file."""
        return {"name": self.name, "public_key": _b64(self.public_key), "teams": list(self.teams)}

    def answers_for(self, owner: str) -> bool:
        """Whether an approval of this reviewer is an approval of the owner."""
        return owner in self.teams or ANY_OWNER in self.teams


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ReviewerSet:
    """One version of who may approve. ``previous`` is the hash of the version before, None for the first."""

    trust_domain: TrustDomain
    version: int
    threshold: int
    reviewers: tuple[Reviewer, ...]
    recovery_key: bytes | None = None
    previous: str | None = None

    def __post_init__(self) -> None:
        keys = [reviewer.public_key for reviewer in self.reviewers]
        names = [reviewer.name for reviewer in self.reviewers]
        if self.recovery_key is not None:
            keys.append(self.recovery_key)
        if not 1 <= len(self.reviewers) <= MAX_REVIEWERS:
            raise Invalid("LM2403", reason=f"a set has 1 to {MAX_REVIEWERS} reviewers")
        if not 1 <= self.threshold <= len(self.reviewers):
            raise Invalid("LM2403", reason="the threshold lies between 1 and the number of reviewers")
        if not all(dsse.is_public_key(key) for key in keys):
            raise Invalid("LM2403", reason="a key is 32 bytes of Ed25519")
        if len(set(keys)) != len(keys) or len(set(names)) != len(names):
            raise Invalid("LM2403", reason="no key and no name stands twice")
        if not all(names) or not all(team for reviewer in self.reviewers for team in reviewer.teams):
            raise Invalid("LM2403", reason="names and teams are not empty")
        if self.version < 1 or (self.version == 1) != (self.previous is None):
            raise Invalid("LM2403", reason="exactly version 1 has no previous version")

    def to_json(self) -> dict[str, object]:
        """The set's JSON object."""
        return {
            "trust_domain": str(self.trust_domain),
            "version": self.version,
            "threshold": self.threshold,
            "reviewers": [reviewer.to_json() for reviewer in self.reviewers],
            "recovery_key": None if self.recovery_key is None else _b64(self.recovery_key),
            "previous": self.previous,
        }

    def to_bytes(self) -> bytes:
        """The canonical JSON that is hashed and signed."""
        return canonicaljson.dumps(self.to_json())

    @property
    def hash(self) -> str:
        """The set's name: `sha256:` and the hash of its canonical JSON."""
        return "sha256:" + hashlib.sha256(self.to_bytes()).hexdigest()

    def reviewers_of(self, keys: Collection[bytes]) -> tuple[Reviewer, ...]:
        """The reviewers whose keys these are; strangers' keys are nobody's."""
        return tuple(reviewer for reviewer in self.reviewers if reviewer.public_key in keys)

    def by_key_id(self, key_id: str) -> Reviewer | None:
        """The reviewer with the key of this name."""
        return next((reviewer for reviewer in self.reviewers if reviewer.key_id == key_id), None)


def reviewer_set_from_json(value: object) -> ReviewerSet:
    """Read a reviewer set strictly.

    Raises Invalid (LM2403) for anything that `ReviewerSet.to_json` does not write.
    """
    names = ("trust_domain", "version", "threshold", "reviewers", "recovery_key", "previous")
    fields = dsse.exact_fields(value, names, "LM2403")
    version, threshold = fields["version"], fields["threshold"]
    previous, recovery, listed = fields["previous"], fields["recovery_key"], fields["reviewers"]
    # bool is an int in Python; `type(...) is int` keeps `true` out of a threshold
    if type(version) is not int or type(threshold) is not int:
        raise Invalid("LM2403", reason="`version` and `threshold` are whole numbers")
    if previous is not None and not isinstance(previous, str):
        raise Invalid("LM2403", reason="`previous` is a hash or null")
    if not isinstance(listed, list):
        raise Invalid("LM2403", reason="`reviewers` is a list")
    try:
        trust_domain = TrustDomain.parse(_text(fields["trust_domain"], "trust_domain"))
    except SpiffeIdError as err:
        raise Invalid("LM2403", reason=str(err)) from err
    return ReviewerSet(
        trust_domain=trust_domain,
        version=version,
        threshold=threshold,
        reviewers=tuple(reviewer_from_json(row) for row in listed),
        recovery_key=None if recovery is None else _key(recovery),
        previous=previous,
    )


def reviewer_from_json(row: object) -> Reviewer:
    """Read a reviewer strictly.

    Raises Invalid (LM2403).
    """
    fields = dsse.exact_fields(row, ("name", "public_key", "teams"), "LM2403")
    teams = fields["teams"]
    if not isinstance(teams, list):
        raise Invalid("LM2403", reason="`teams` is a list")
    return Reviewer(
        name=_text(fields["name"], "name"),
        public_key=_key(fields["public_key"]),
        teams=tuple(_text(team, "teams") for team in teams),
    )


def sign_set(proposed: ReviewerSet, keys: Sequence[Ed25519PrivateKey]) -> dsse.Envelope:
    """Sign a set: with keys of the version before it, or, for a first version, with its own."""
    return dsse.sign(REVIEWER_SET_TYPE, proposed.to_bytes(), keys)


def verify_successor(current: ReviewerSet, envelope: dsse.Envelope) -> ReviewerSet:
    """Read the next version of a set and check that the current one sent it.

    1. The current version's threshold of DIFFERENT reviewers signed it, or its recovery key did.
    2. The payload reads strictly as a reviewer set, in canonical form.
    3. It is of the same trust domain, its version is the next one and it names the current set's hash.

    Raises Forbidden (LM2404) for (1) and Invalid (LM2403, LM2405) for the others.
    """
    # (1) before (2): the payload means nothing until its signatures verified
    keys = [reviewer.public_key for reviewer in current.reviewers]
    signed = len(dsse.signers(envelope, REVIEWER_SET_TYPE, keys))
    recovered = current.recovery_key is not None and bool(
        dsse.signers(envelope, REVIEWER_SET_TYPE, [current.recovery_key])
    )
    if signed < current.threshold and not recovered:
        raise Forbidden(
            "LM2404", version=current.version + 1, have=signed, need=current.threshold, before=current.version
        )
    # (2)
    successor = _read(envelope)
    # (3)
    if successor.trust_domain != current.trust_domain:
        raise Invalid("LM2405", reason=f"trust domain `{successor.trust_domain}`")
    if successor.version != current.version + 1:
        raise Invalid("LM2405", reason=f"version {successor.version} after {current.version}")
    if successor.previous != current.hash:
        raise Invalid("LM2405", reason=f"previous `{successor.previous}`")
    return successor


def verify_chain(envelopes: Sequence[dsse.Envelope], pinned: str) -> tuple[ReviewerSet, ...]:
    """Walk a chain of versions from the pinned one; return the pinned set and its successors in order.

    1. SOME envelope holds the pinned set: its hash is the pin, which needs no signature.
    2. EVERY envelope after it is the verified successor of the one before.
    3. Envelopes before the pinned one are older than what is known and count for nothing.

    Raises Invalid (LM2406) when the pinned set is missing, and what `verify_successor` raises.
    """
    # (1)
    for position, envelope in enumerate(envelopes):
        if "sha256:" + hashlib.sha256(envelope.payload).hexdigest() == pinned:
            chain = [_read(envelope)]
            # (2), (3)
            for later in envelopes[position + 1 :]:
                chain.append(verify_successor(chain[-1], later))
            return tuple(chain)
    raise Invalid("LM2406", pinned=pinned)


def lineage(envelopes: Sequence[dsse.Envelope], chain: Sequence[ReviewerSet]) -> frozenset[str]:
    """The hashes of all versions in a chain's line: the chain itself and the ancestors of its first set.

    An ancestor needs no signature to be known: its successor names it by hash.
    """
    known = {version.hash for version in chain}
    by_hash = {"sha256:" + hashlib.sha256(envelope.payload).hexdigest(): envelope for envelope in envelopes}
    previous = chain[0].previous
    while previous is not None and previous not in known:
        known.add(previous)
        envelope = by_hash.get(previous)
        previous = None if envelope is None else _read(envelope).previous
    return frozenset(known)


def _read(envelope: dsse.Envelope) -> ReviewerSet:
    found = reviewer_set_from_json(dsse.strict_json(envelope.payload, "LM2403"))
    if envelope.payload_type != REVIEWER_SET_TYPE or found.to_bytes() != envelope.payload:
        raise Invalid("LM2403", reason="the payload is not in canonical form")
    return found


def _text(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise Invalid("LM2403", reason=f"`{name}` must be text")
    return value


def _key(value: object) -> bytes:
    try:
        return base64.b64decode(_text(value, "key"), validate=True)
    except (binascii.Error, ValueError) as err:
        raise Invalid("LM2403", reason="a key is base64 text") from err


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()
