"""Approvals, activations and the life of a review: what was approved is what runs (design D4).

An approval is a DSSE envelope over {trust domain, snapshot hash, predecessor hash, expiry}. An activation carries
approvals and an epoch; `verify_activation` is what every agent runs before it applies one, and the server before it
sends one. The transitions of a review are one table. This module stores nothing and has no clock.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
from collections.abc import Sequence
from typing import Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mesh import canonicaljson
from mesh.clock import format_time, parse_time
from mesh.problems import Conflict, Forbidden, Invalid, Problem
from mesh.spiffe import SpiffeIdError, TrustDomain
from policyengine import dsse
from policyengine.ownership import owners_required
from policyengine.reviewers import Reviewer, ReviewerSet, lineage, verify_chain
from policyengine.snapshot import Snapshot

APPROVAL_TYPE = "application/vnd.limen.approval.v1+json"
APPROVAL_LIFETIME = dt.timedelta(days=7)
MAX_SKEW = dt.timedelta(minutes=5)
MAX_APPROVALS = 256
Direction = Literal["forward", "rollback"]


class State(enum.StrEnum):
    """Where a review stands."""

    PROPOSED = "proposed"
    APPROVED = "approved"
    SHADOWED = "shadowed"
    ACTIVE = "active"
    SUPERSEDED = "superseded"
    REJECTED = "rejected"
    ROLLED_BACK = "rolled-back"


class Event(enum.StrEnum):
    """What happens to a review."""

    APPROVE = "approve"  # the approvals suffice
    REJECT = "reject"
    SHADOW = "shadow"
    ACTIVATE = "activate"
    SUPERSEDE = "supersede"  # its successor became active
    ROLL_BACK = "rollback"
    RESTORE = "restore"  # its successor was rolled back


# Every transition there is; nothing else moves a review.
TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.PROPOSED, Event.APPROVE): State.APPROVED,
    (State.PROPOSED, Event.REJECT): State.REJECTED,
    (State.APPROVED, Event.REJECT): State.REJECTED,
    (State.APPROVED, Event.SHADOW): State.SHADOWED,
    (State.APPROVED, Event.ACTIVATE): State.ACTIVE,
    (State.SHADOWED, Event.REJECT): State.REJECTED,
    (State.SHADOWED, Event.ACTIVATE): State.ACTIVE,
    (State.ACTIVE, Event.SUPERSEDE): State.SUPERSEDED,
    (State.ACTIVE, Event.ROLL_BACK): State.ROLLED_BACK,
    (State.SUPERSEDED, Event.RESTORE): State.ACTIVE,
}


def next_state(state: State, event: Event) -> State:
    """Apply an event.

    Raises Conflict (LM2423) when the table has no such transition.
    """
    found = TRANSITIONS.get((state, event))
    if found is None:
        raise Conflict("LM2423", state=str(state), event=str(event))
    return found


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """What an approver signs: this content, in this trust domain, after that content, until then."""

    trust_domain: TrustDomain
    snapshot: str
    predecessor: str | None
    expires: dt.datetime

    def to_bytes(self) -> bytes:
        """The canonical JSON that is signed."""
        return canonicaljson.dumps(
            {
                "trust_domain": str(self.trust_domain),
                "snapshot": self.snapshot,
                "predecessor": self.predecessor,
                "expires": format_time(self.expires),
            }
        )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """A verified approval: who signed which statement."""

    reviewer: Reviewer
    statement: Statement


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Activation:
    """The order to run a snapshot. ``predecessor`` is the hash of the one that it replaces.

    A roll-back carries the approvals of the snapshot that it takes back: they authorise both ways. ``proposer`` is the
    key of the proposer if they have one; it never counts as an approver.
    """

    epoch: int
    snapshot: str
    predecessor: str | None
    approvals: tuple[dsse.Envelope, ...]
    activated: dt.datetime
    direction: Direction = "forward"
    proposer: str | None = None

    def to_json(self) -> dict[str, object]:
        """The activation's JSON object."""
        return {
            "epoch": self.epoch,
            "snapshot": self.snapshot,
            "predecessor": self.predecessor,
            "approvals": [envelope.to_json() for envelope in self.approvals],
            "activated": format_time(self.activated),
            "direction": self.direction,
            "proposer": self.proposer,
        }


def sign_approval(statement: Statement, key: Ed25519PrivateKey) -> dsse.Envelope:
    """Approve: sign the statement."""
    return dsse.sign(APPROVAL_TYPE, statement.to_bytes(), [key])


def check_approval(
    envelope: dsse.Envelope,
    *,
    trust_domain: TrustDomain,
    snapshot: str,
    predecessor: str | None,
    judges: ReviewerSet,
    proposer: str | None,
    moment: dt.datetime,
) -> tuple[Approval, ...]:
    """Read one envelope and say whose approvals of exactly this change it holds.

    1. SOME reviewer of the set signed it; before that nothing in it is believed.
    2. The statement reads strictly, in canonical form.
    3. It is about this trust domain, this content and this predecessor.
    4. It has not expired at the moment of use.
    5. The proposer is not among the signers.

    Raises Forbidden with the code of the step: LM2415, LM2411, LM2412, LM2413, LM2414, LM2418; Invalid LM2410 for (2).
    """
    # (1)
    signed = dsse.signers(envelope, APPROVAL_TYPE, [reviewer.public_key for reviewer in judges.reviewers])
    if not signed:
        names = ", ".join(item.key_id for item in envelope.signatures)
        raise Forbidden("LM2415", keys=names, version=judges.version)
    # (2)
    statement = _statement(envelope.payload)
    # (3)
    if statement.trust_domain != trust_domain or judges.trust_domain != trust_domain:
        raise Forbidden("LM2411", expected=str(trust_domain), found=str(statement.trust_domain))
    if statement.snapshot != snapshot:
        raise Forbidden("LM2412", expected=snapshot, found=statement.snapshot)
    if statement.predecessor != predecessor:
        raise Forbidden("LM2413", expected=predecessor or "none", found=statement.predecessor or "none")
    # (4)
    if moment >= statement.expires:
        raise Forbidden("LM2414", expires=format_time(statement.expires), now=format_time(moment))
    # (5)
    found = judges.reviewers_of(signed)
    if any(reviewer.key_id == proposer for reviewer in found):
        raise Forbidden("LM2418", proposer=proposer)
    return tuple(Approval(reviewer=reviewer, statement=statement) for reviewer in found)


def count_approvals(
    envelopes: Sequence[dsse.Envelope],
    *,
    trust_domain: TrustDomain,
    snapshot: str,
    predecessor: str | None,
    judges: ReviewerSet,
    proposer: str | None,
    moment: dt.datetime,
) -> tuple[tuple[Reviewer, ...], tuple[Problem, ...]]:
    """The DIFFERENT reviewers whose approvals of this change hold, and why the other envelopes do not count."""
    found: dict[bytes, Reviewer] = {}
    refused: list[Problem] = []
    for envelope in envelopes[:MAX_APPROVALS]:
        try:
            approvals = check_approval(
                envelope,
                trust_domain=trust_domain,
                snapshot=snapshot,
                predecessor=predecessor,
                judges=judges,
                proposer=proposer,
                moment=moment,
            )
        except Problem as problem:
            refused.append(problem)
            continue
        found.update((approval.reviewer.public_key, approval.reviewer) for approval in approvals)
    return tuple(found.values()), tuple(refused)


def require_approvals(
    approvers: Sequence[Reviewer],
    refused: Sequence[Problem],
    *,
    judges: ReviewerSet,
    before: Snapshot | None,
    after: Snapshot,
) -> None:
    """Check that the approvers suffice for a change.

    1. They are at least the threshold; otherwise the first refused approval, if any, is the reason.
    2. The owner of EVERY called service that the change touches is among them, as the release before names it.
       The first release has nothing before it: its services belong to nobody yet, and the threshold decides alone.

    Raises Forbidden (LM2416, LM2417), or what the first refused approval broke.
    """
    # (1)
    if len(approvers) < judges.threshold:
        if refused:
            raise refused[0]
        raise Forbidden("LM2416", have=len(approvers), need=judges.threshold)
    # (2)
    if before is None:
        return
    for owner, services in owners_required(before, after).items():
        if not any(reviewer.answers_for(owner) for reviewer in approvers):
            raise Forbidden("LM2417", owner=owner, services=", ".join(services))


def verify_activation(
    activation: Activation,
    *,
    reviewer_sets: Sequence[dsse.Envelope],
    pinned_set_hash: str,
    active: Snapshot | None,
    proposed: Snapshot,
    highest_epoch: int,
    now: dt.datetime,
    heard: dt.datetime | None = None,
) -> ReviewerSet:
    """Decide whether an agent may run what an activation orders; return the judges, whose hash is the new pin.

    1. The reviewer sets form a chain from the pinned one; its newest version judges. The sets that the active and the
       proposed snapshot name are in its line: a server cannot leave out the newer judges that a snapshot knew.
    2. The epoch is higher than ANY that was seen.
    3. The content is what the activation names, and of the judges' trust domain.
    4. It replaces what is active here. Only an agent that runs nothing yet cannot tell.
    5. The activation does not lie in the future, and the moment of use is settled: `now`; for an agent that was away,
       not before it last ``heard`` that its snapshot was current; for one that runs nothing yet, the activation's own
       time, since every approval has expired for someone who joins late enough.
    6. At the moment of use the approvals of AT LEAST the threshold of DIFFERENT reviewers hold, the proposer not
       among them. Forward, they approve this content after its predecessor; for a roll-back, the predecessor after
       this content: an approval authorises the way back.
    7. The owner of EVERY called service that the change touches is among the approvers, read from the earlier of the
       two snapshots.

    Raises Forbidden or Invalid, whose code names what failed. What raises is not applied; the last good one stays.
    """
    # (1)
    chain = verify_chain(reviewer_sets, pinned_set_hash)
    judges = chain[-1]
    known = lineage(reviewer_sets, chain)
    for snapshot in (active, proposed):
        if snapshot is not None and snapshot.reviewer_set not in known:
            raise Forbidden("LM2430", snapshot=snapshot.hash, named=snapshot.reviewer_set)
    # (2)
    if activation.epoch <= highest_epoch:
        raise Forbidden("LM2419", epoch=activation.epoch, highest=highest_epoch)
    # (3)
    if proposed.hash != activation.snapshot:
        raise Invalid("LM2402", expected=activation.snapshot, found=proposed.hash)
    if proposed.trust_domain != judges.trust_domain:
        raise Forbidden("LM2411", expected=str(judges.trust_domain), found=str(proposed.trust_domain))
    # (4)
    if active is not None and activation.predecessor != active.hash:
        raise Forbidden("LM2421", predecessor=activation.predecessor or "none", active=active.hash)
    # (5)
    moment = moment_of_use(activation, runs_nothing=active is None, now=now, heard=heard)
    # (6)
    content, before = activation.snapshot, activation.predecessor
    earlier, later = active, proposed
    if activation.direction == "rollback":
        if activation.predecessor is None:
            raise Invalid("LM2426", snapshot=activation.snapshot)
        content, before = activation.predecessor, activation.snapshot
        earlier, later = (proposed, active) if active is not None else (None, proposed)
    approvers, refused = count_approvals(
        activation.approvals,
        trust_domain=judges.trust_domain,
        snapshot=content,
        predecessor=before,
        judges=judges,
        proposer=activation.proposer,
        moment=moment,
    )
    # (6), (7)
    require_approvals(approvers, refused, judges=judges, before=earlier, after=later)
    return judges


def moment_of_use(
    activation: Activation, *, runs_nothing: bool, now: dt.datetime, heard: dt.datetime | None
) -> dt.datetime:
    """The moment at which approvals must not have expired (step 5 of `verify_activation`).

    Raises Forbidden (LM2422) for an activation in the future.
    """
    if activation.activated > now + MAX_SKEW:
        raise Forbidden("LM2422", activated=format_time(activation.activated), now=format_time(now))
    if runs_nothing:
        return activation.activated
    if heard is not None:
        return max(activation.activated, min(heard - MAX_SKEW, now))
    return now


def activation_from_json(value: object) -> Activation:
    """Read an activation strictly.

    Raises Invalid (LM2420; LM2400 for an envelope in it).
    """
    names = ("epoch", "snapshot", "predecessor", "approvals", "activated", "direction", "proposer")
    fields = dsse.exact_fields(value, names, "LM2420")
    epoch, predecessor, proposer = fields["epoch"], fields["predecessor"], fields["proposer"]
    approvals, direction = fields["approvals"], fields["direction"]
    if type(epoch) is not int or epoch < 1:
        raise Invalid("LM2420", reason="`epoch` is a whole number from 1")
    if not isinstance(approvals, list) or len(approvals) > MAX_APPROVALS:
        raise Invalid("LM2420", reason=f"`approvals` is a list of at most {MAX_APPROVALS}")
    if direction not in {"forward", "rollback"}:
        raise Invalid("LM2420", reason="`direction` is `forward` or `rollback`")
    return Activation(
        epoch=epoch,
        snapshot=_text(fields["snapshot"], "snapshot", "LM2420"),
        predecessor=None if predecessor is None else _text(predecessor, "predecessor", "LM2420"),
        approvals=tuple(dsse.envelope_from_json(row) for row in approvals),
        activated=_time(fields["activated"], "activated", "LM2420"),
        direction="forward" if direction == "forward" else "rollback",
        proposer=None if proposer is None else _text(proposer, "proposer", "LM2420"),
    )


def _statement(payload: bytes) -> Statement:
    names = ("trust_domain", "snapshot", "predecessor", "expires")
    fields = dsse.exact_fields(dsse.strict_json(payload, "LM2410"), names, "LM2410")
    predecessor = fields["predecessor"]
    try:
        trust_domain = TrustDomain.parse(_text(fields["trust_domain"], "trust_domain", "LM2410"))
    except SpiffeIdError as err:
        raise Invalid("LM2410", reason=str(err)) from err
    statement = Statement(
        trust_domain=trust_domain,
        snapshot=_text(fields["snapshot"], "snapshot", "LM2410"),
        predecessor=None if predecessor is None else _text(predecessor, "predecessor", "LM2410"),
        expires=_time(fields["expires"], "expires", "LM2410"),
    )
    if statement.to_bytes() != payload:
        raise Invalid("LM2410", reason="the payload is not in canonical form")
    return statement


def _text(value: object, name: str, code: str) -> str:
    if not isinstance(value, str):
        raise Invalid(code, reason=f"`{name}` must be text")
    return value


def _time(value: object, name: str, code: str) -> dt.datetime:
    try:
        return parse_time(_text(value, name, code))
    except ValueError as err:
        raise Invalid(code, reason=f"`{name}`: {err}") from err
