"""A snapshot: the release that enforcers run, immutable and named by the hash of its content (design D4).

Two snapshots with the same hash are the same in every byte, so an approval of a hash approves the content.
This module neither approves nor activates.
"""

from __future__ import annotations

import dataclasses
import hashlib

from mesh import canonicaljson
from mesh.problems import Invalid
from mesh.spiffe import SpiffeIdError, TrustDomain
from policyengine import tiers
from policyengine.dsse import exact_fields, strict_json
from policyengine.model import PolicySet, policy_set_from_json

SCHEMA = 1
MAX_SNAPSHOT_BYTES = 64 << 20
_FIELDS = (
    "schema",
    "trust_domain",
    "policies",
    "identity_rules",
    "federation",
    "jwt_issuers",
    "reviewer_set",
    "tiers",
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Everything that a release says.

    ``identity_rules`` is the text of the rules file. ``federation`` pairs a foreign trust domain with its bundle
    endpoint, ``jwt_issuers`` an issuer with what is declared of it. ``reviewer_set`` is the hash of the reviewer set
    that was in force when it was proposed: later versions may judge it, earlier ones may not. ``tiers`` is computed:
    the compiled artefact that goes with the policies. ``content`` is the canonical JSON, ``hash`` its name.
    """

    trust_domain: TrustDomain
    policies: PolicySet
    identity_rules: str = ""
    federation: tuple[tuple[str, str], ...] = ()
    jwt_issuers: tuple[tuple[str, str], ...] = ()
    reviewer_set: str
    tiers: tiers.Tiers = dataclasses.field(init=False, compare=False, repr=False)
    content: bytes = dataclasses.field(init=False, compare=False, repr=False)
    hash: str = dataclasses.field(init=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("federation", "jwt_issuers"):
            keys = [key for key, _ in getattr(self, name)]
            if keys != sorted(set(keys)):
                raise Invalid("LM2401", reason=f"`{name}` is not sorted or names one twice")
        # frozen: what is computed from the fields is set once, here
        object.__setattr__(self, "tiers", tiers.choose_tiers(self.policies))
        object.__setattr__(self, "content", canonicaljson.dumps(self.to_json()))
        object.__setattr__(self, "hash", hash_of(self.content))

    def to_json(self) -> dict[str, object]:
        """The snapshot's JSON object."""
        return {
            "schema": SCHEMA,
            "trust_domain": str(self.trust_domain),
            "policies": self.policies.to_json(),
            "identity_rules": self.identity_rules,
            "federation": dict(self.federation),
            "jwt_issuers": dict(self.jwt_issuers),
            "reviewer_set": self.reviewer_set,
            "tiers": tiers.to_json(self.tiers),
        }

    def to_bytes(self) -> bytes:
        """The canonical JSON that the hash names."""
        return self.content

    @classmethod
    def from_bytes(cls, data: bytes, expected: str | None = None) -> Snapshot:
        """Read a snapshot and check that it is the one that was asked for.

        1. The bytes have the expected hash, before anything in them is read.
        2. They parse strictly: no unknown field, no key twice, this schema.
        3. Compiled and written again they are the same bytes: the tiers that the snapshot records follow from its
           policies, and there is one way to write it.

        Raises Invalid (LM2401 malformed, LM2402 other content).
        """
        # (1)
        if expected is not None and hash_of(data) != expected:
            raise Invalid("LM2402", expected=expected, found=hash_of(data))
        if len(data) > MAX_SNAPSHOT_BYTES:
            raise Invalid("LM2401", reason="it is too large")
        # (2)
        found = snapshot_from_json(strict_json(data, "LM2401"))
        # (3)
        if found.content != data:
            raise Invalid("LM2401", reason="it is not what its own policies compile to, in canonical form")
        return found


def snapshot_from_json(value: object, expected: str | None = None) -> Snapshot:
    """Read the JSON object of a snapshot and check its hash.

    Raises Invalid (LM2401 malformed, LM2402 other content).
    """
    fields = exact_fields(value, _FIELDS, "LM2401")
    if type(fields["schema"]) is not int or fields["schema"] != SCHEMA:
        raise Invalid("LM2401", reason=f"schema {fields['schema']} is not known")
    try:
        trust_domain = TrustDomain.parse(_text(fields, "trust_domain"))
    except SpiffeIdError as err:
        raise Invalid("LM2401", reason=str(err)) from err
    found = Snapshot(
        trust_domain=trust_domain,
        policies=policy_set_from_json(fields["policies"]),
        identity_rules=_text(fields, "identity_rules"),
        federation=_pairs(fields, "federation"),
        jwt_issuers=_pairs(fields, "jwt_issuers"),
        reviewer_set=_text(fields, "reviewer_set"),
    )
    if tiers.to_json(found.tiers) != fields["tiers"]:
        raise Invalid("LM2401", reason="`tiers` do not follow from the policies")
    if expected is not None and found.hash != expected:
        raise Invalid("LM2402", expected=expected, found=found.hash)
    return found


def hash_of(data: bytes) -> str:
    """The name of some content: `sha256:` and 64 hex digits."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _text(fields: dict[str, object], name: str) -> str:
    value = fields[name]
    if not isinstance(value, str):
        raise Invalid("LM2401", reason=f"`{name}` must be text")
    return value


def _pairs(fields: dict[str, object], name: str) -> tuple[tuple[str, str], ...]:
    value = fields[name]
    if not isinstance(value, dict):
        raise Invalid("LM2401", reason=f"`{name}` must be an object")
    pairs = sorted(value.items())
    if not all(isinstance(key, str) and isinstance(text, str) for key, text in pairs):
        raise Invalid("LM2401", reason=f"`{name}` must map text to text")
    return tuple(pairs)
