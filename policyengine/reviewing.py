"""The review service: what happens when people propose, approve, shadow, activate and roll back.

Every function takes a connection (the caller holds the transaction), `now` and, where it names something, random
bytes. The rules are those of `policyengine.review`: the server runs `verify_activation` before it stores one, exactly
as every agent will. Who may call a function is the caller's question.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Iterable

import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mesh import canonicaljson
from mesh.clock import format_time
from mesh.problems import Conflict, Invalid, NotFound, Problem
from mesh.spiffe import TrustDomain
from mesh.ulid import new_ulid
from policyengine import dsse, store
from policyengine.analysis import broken_invariants
from policyengine.issuerreading import issuer_to_json
from policyengine.model import PolicySet
from policyengine.ownership import owners_required
from policyengine.review import (
    Activation,
    Direction,
    Event,
    State,
    check_approval,
    count_approvals,
    next_state,
    require_approvals,
    verify_activation,
)
from policyengine.reviewers import ANY_OWNER, Reviewer, ReviewerSet, sign_set, verify_chain
from policyengine.snapshot import Snapshot
from policyengine.store import Review

MAX_NOTE_LENGTH = 10_000
_OPEN = {State.PROPOSED, State.APPROVED, State.SHADOWED}


def local_set(trust_domain: TrustDomain, key: Ed25519PrivateKey, name: str = "local") -> ReviewerSet:
    """The reviewer set that `limen up` begins with: one key, which answers for every owner."""
    reviewer = Reviewer(name=name, public_key=dsse.public_bytes(key), teams=(ANY_OWNER,))
    return ReviewerSet(trust_domain=trust_domain, version=1, threshold=1, reviewers=(reviewer,))


def begin(connection: sa.Connection, judges: ReviewerSet) -> None:
    """Install the first reviewer set; later calls change nothing.

    Raises Conflict (LM2405) when another first set is installed: a set is replaced by its successor, not by a file.
    """
    chain = store.reviewer_chain(connection)
    if not chain:
        if judges.version != 1:
            raise Invalid("LM2405", reason=f"version {judges.version} cannot be the first")
        # the first set needs no signature: agents pin its hash when they join
        store.put_reviewer_set(connection, judges.version, judges.hash, sign_set(judges, []))
    elif chain[0][0] != judges.hash:
        raise Conflict("LM2405", reason="another first set is installed")


def extend(connection: sa.Connection, envelope: dsse.Envelope) -> ReviewerSet:
    """Install the next version of the reviewer set.

    Raises Forbidden (LM2404) when the one before did not sign it, Invalid (LM2403, LM2405).
    """
    pinned, chain = chain_of(connection)
    newest = verify_chain((*chain, envelope), pinned)[-1]
    store.put_reviewer_set(connection, newest.version, newest.hash, envelope)
    return newest


def chain_of(connection: sa.Connection) -> tuple[str, tuple[dsse.Envelope, ...]]:
    """The hash of the first reviewer set and the envelopes of all versions.

    Raises NotFound (LM2431) before one was installed.
    """
    chain = store.reviewer_chain(connection)
    if not chain:
        raise NotFound("LM2431")
    return chain[0][0], tuple(envelope for _, envelope in chain)


def judges_of(connection: sa.Connection) -> ReviewerSet:
    """The reviewer set that is in force.

    Raises NotFound (LM2431).
    """
    pinned, chain = chain_of(connection)
    return verify_chain(chain, pinned)[-1]


def active(connection: sa.Connection) -> tuple[Activation, Snapshot] | None:
    """The activation with the highest epoch and its snapshot; None before the first."""
    latest = store.latest_activation(connection)
    return None if latest is None else (latest[0], store.get_snapshot(connection, latest[0].snapshot))


def candidate(connection: sa.Connection) -> Snapshot | None:
    """The snapshot that is decided beside the active one: of the newest review that is shadowed on top of it."""
    current = store.latest_activation(connection)
    predecessor = None if current is None else current[0].snapshot
    for review in store.list_reviews(connection):
        if review.state is State.SHADOWED and review.predecessor == predecessor:
            return store.get_snapshot(connection, review.snapshot)
    return None


def propose(
    connection: sa.Connection,
    *,
    policies: PolicySet,
    trust_domain: TrustDomain,
    predecessor: str | None,
    now: dt.datetime,
    random: bytes,
    proposer: str | None = None,
    note: str = "",
    identity_rules: str = "",
    federation: Iterable[tuple[str, str]] = (),
    jwt_issuers: Iterable[tuple[str, str]] = (),
) -> Review:
    """Make a review of a new release.

    1. It changes the release that is active, and says so: a plan against another one is worth nothing.
    2. It changes something.
    3. The snapshot names the reviewer set in force.
    4. EVERY invariant of its own holds in it, from now on.

    Raises Conflict (LM2428 for 1, LM2429 for 2, LM2441 for 4), NotFound (LM2431), Invalid (LM2433).
    """
    if len(note) > MAX_NOTE_LENGTH:
        raise Invalid("LM2433", reason=f"a note has at most {MAX_NOTE_LENGTH} characters")
    # (3)
    judges = judges_of(connection)
    snapshot = Snapshot(
        trust_domain=trust_domain,
        policies=policies,
        identity_rules=identity_rules,
        federation=tuple(sorted(federation)),
        jwt_issuers=tuple(sorted({**dict(jwt_issuers), **_issuers(policies)}.items())),
        reviewer_set=judges.hash,
    )
    # (1)
    current = active(connection)
    running = None if current is None else current[1]
    _require_active(predecessor, running)
    # (2)
    if running is not None and _is_same(running, snapshot):
        raise Conflict("LM2429", snapshot=running.hash)
    # (4)
    broken = broken_invariants(policies, now)
    if broken:
        raise Conflict("LM2441", invariants=", ".join(broken))
    store.put_snapshot(connection, snapshot, now)
    review = Review(
        id=new_ulid(now, random),
        snapshot=snapshot.hash,
        predecessor=predecessor,
        proposer=proposer,
        note=note,
        state=State.PROPOSED,
        created=now,
        changed=now,
    )
    store.put_review(connection, review)
    return review


def _issuers(policies: PolicySet) -> dict[str, str]:
    """The issuers of a policy set, each with all that is declared of it: a review shows that one changed."""
    return {item.issuer: canonicaljson.dumps(issuer_to_json(item)).decode() for item in policies.issuers}


def approve(connection: sa.Connection, review_id: str, envelope: dsse.Envelope, *, now: dt.datetime) -> Review:
    """Take an approval in; the review is approved when they suffice.

    1. The review is open, and its predecessor is still active.
    2. The envelope holds approvals of exactly this change by reviewers in force, unexpired, none by the proposer.
    3. No key approves twice.
    4. The approvals suffice: the threshold, and the owner of EVERY called service that the change touches.

    Raises Conflict (LM2423, LM2427, LM2428), Forbidden as `check_approval` does, NotFound (LM2424).
    """
    review = store.get_review(connection, review_id)
    # (1)
    if review.state not in _OPEN:
        raise Conflict("LM2423", state=str(review.state), event=str(Event.APPROVE))
    current = active(connection)
    running = None if current is None else current[1]
    _require_active(review.predecessor, running)
    # (2)
    judges = judges_of(connection)
    proposed = store.get_snapshot(connection, review.snapshot)
    approvals = check_approval(
        envelope,
        trust_domain=judges.trust_domain,
        snapshot=review.snapshot,
        predecessor=review.predecessor,
        judges=judges,
        proposer=review.proposer,
        moment=now,
    )
    # (3)
    for approval in approvals:
        stored = store.StoredApproval(
            key_id=approval.reviewer.key_id, name=approval.reviewer.name, envelope=envelope, time=now
        )
        store.put_approval(connection, review_id, stored)
    # (4)
    review = store.get_review(connection, review_id)
    if review.state is State.PROPOSED and _shortfall(review, judges, running, proposed, now) is None:
        _move(connection, review, Event.APPROVE, now)
    return store.get_review(connection, review_id)


def reject(connection: sa.Connection, review_id: str, *, now: dt.datetime) -> Review:
    """Reject an open review.

    Raises Conflict (LM2423), NotFound (LM2424).
    """
    return _move(connection, store.get_review(connection, review_id), Event.REJECT, now)


def shadow(connection: sa.Connection, review_id: str, *, now: dt.datetime) -> Review:
    """Decide the review's snapshot beside the active one, and only record it. A review shadowed before goes on waiting.

    Raises Conflict (LM2423, LM2428), NotFound (LM2424).
    """
    review = store.get_review(connection, review_id)
    current = active(connection)
    _require_active(review.predecessor, None if current is None else current[1])
    return _move(connection, review, Event.SHADOW, now)


def activate(connection: sa.Connection, review_id: str, *, now: dt.datetime) -> Activation:
    """Make a review's snapshot the one that runs.

    1. Its predecessor is still active and its approvals still suffice: they may have expired since.
    2. The state table lets it become active; the review before it is superseded.
    3. The activation, with the next epoch, passes what every agent will ask of it.

    Raises Conflict (LM2423, LM2428), Forbidden as `verify_activation` does, NotFound (LM2424).
    """
    review = store.get_review(connection, review_id)
    latest = store.latest_activation(connection)
    running = None if latest is None else store.get_snapshot(connection, latest[0].snapshot)
    proposed = store.get_snapshot(connection, review.snapshot)
    # (1)
    if review.state in _OPEN:
        _require_active(review.predecessor, running)
        shortfall = _shortfall(review, judges_of(connection), running, proposed, now)
        if shortfall is not None:
            raise shortfall
        if review.state is State.PROPOSED:
            # the judges or the owners changed since: what did not suffice then does now
            review = _move(connection, review, Event.APPROVE, now)
    # (2)
    review = _move(connection, review, Event.ACTIVATE, now)
    if latest is not None:
        _move(connection, store.get_review(connection, latest[1]), Event.SUPERSEDE, now)
    # (3)
    return _order(connection, review, running, proposed, "forward", review.id, now)


def rollback(connection: sa.Connection, review_id: str, *, now: dt.datetime) -> Activation:
    """Go back to the release before the one that a review made active; its own approvals authorise that.

    1. The review is the one that is active, and had a predecessor.
    2. It becomes rolled back for good; the review of the predecessor is active again.
    3. The activation, with the next epoch, passes what every agent will ask of it.

    Raises Conflict (LM2423), Invalid (LM2426), Forbidden as `verify_activation` does, NotFound (LM2424).
    """
    review = store.get_review(connection, review_id)
    # (1), (2)
    _move(connection, review, Event.ROLL_BACK, now)
    if review.predecessor is None:
        raise Invalid("LM2426", snapshot=review.snapshot)
    restored = next(
        (
            found
            for found in store.list_reviews(connection)
            if found.snapshot == review.predecessor and found.state is State.SUPERSEDED
        ),
        None,
    )
    if restored is None:
        raise NotFound("LM2425", snapshot=review.predecessor)
    _move(connection, restored, Event.RESTORE, now)
    # (3)
    running = store.get_snapshot(connection, review.snapshot)
    proposed = store.get_snapshot(connection, review.predecessor)
    return _order(connection, review, running, proposed, "rollback", restored.id, now)


def describe(connection: sa.Connection, review: Review) -> dict[str, object]:
    """A review as people and programs see it."""
    judges = judges_of(connection)
    before = None if review.predecessor is None else store.get_snapshot(connection, review.predecessor)
    after = store.get_snapshot(connection, review.snapshot)
    owners = {} if before is None else owners_required(before, after)
    return {
        "id": review.id,
        "state": str(review.state),
        "snapshot": review.snapshot,
        "predecessor": review.predecessor,
        "proposer": review.proposer,
        "note": review.note,
        "created": format_time(review.created),
        "changed": format_time(review.changed),
        "threshold": judges.threshold,
        "owners": {owner: list(services) for owner, services in owners.items()},
        "approvals": [
            {
                "key": approval.key_id,
                "name": approval.name,
                "time": format_time(approval.time),
                "envelope": approval.envelope.to_json(),
            }
            for approval in review.approvals
        ],
    }


def describe_reviewers(connection: sa.Connection) -> dict[str, object]:
    """The reviewer set in force, and the chain that led to it."""
    pinned, chain = chain_of(connection)
    judges = verify_chain(chain, pinned)[-1]
    return {
        "hash": judges.hash,
        "first": pinned,
        "version": judges.version,
        "threshold": judges.threshold,
        "trust_domain": str(judges.trust_domain),
        "reviewers": [
            {"name": reviewer.name, "key": reviewer.key_id, "teams": list(reviewer.teams)}
            for reviewer in judges.reviewers
        ],
        "chain": [envelope.to_json() for envelope in chain],
    }


def _order(
    connection: sa.Connection,
    review: Review,
    running: Snapshot | None,
    proposed: Snapshot,
    direction: Direction,
    active_review: str,
    now: dt.datetime,
) -> Activation:
    """Make the activation, verify it as an agent does, and store it."""
    latest = store.latest_activation(connection)
    highest = 0 if latest is None else latest[0].epoch
    activation = Activation(
        epoch=highest + 1,
        snapshot=proposed.hash,
        predecessor=None if running is None else running.hash,
        approvals=_distinct(review.envelopes),
        activated=now,
        direction=direction,
        proposer=review.proposer,
    )
    pinned, chain = chain_of(connection)
    verify_activation(
        activation,
        reviewer_sets=chain,
        pinned_set_hash=pinned,
        active=running,
        proposed=proposed,
        highest_epoch=highest,
        now=now,
    )
    store.put_activation(connection, active_review, activation)
    return activation


def _distinct(envelopes: Iterable[dsse.Envelope]) -> tuple[dsse.Envelope, ...]:
    """Each envelope once: one that two people signed stands with each of their approvals."""
    return tuple(dict.fromkeys(envelopes))


def _move(connection: sa.Connection, review: Review, event: Event, now: dt.datetime) -> Review:
    after = next_state(review.state, event)
    store.move_review(connection, review.id, review.state, after, now)
    return dataclasses.replace(review, state=after, changed=now)


def _require_active(predecessor: str | None, running: Snapshot | None) -> None:
    found = None if running is None else running.hash
    if predecessor != found:
        raise Conflict("LM2428", predecessor=predecessor or "none", active=found or "none")


def _is_same(running: Snapshot, proposed: Snapshot) -> bool:
    """Whether two snapshots differ in nothing but the reviewer set in force."""
    return dataclasses.replace(proposed, reviewer_set=running.reviewer_set).hash == running.hash


def _shortfall(
    review: Review, judges: ReviewerSet, running: Snapshot | None, proposed: Snapshot, now: dt.datetime
) -> Problem | None:
    """Why a review's approvals do not suffice; None when they do."""
    approvers, refused = count_approvals(
        review.envelopes,
        trust_domain=judges.trust_domain,
        snapshot=review.snapshot,
        predecessor=review.predecessor,
        judges=judges,
        proposer=review.proposer,
        moment=now,
    )
    try:
        require_approvals(approvers, refused, judges=judges, before=running, after=proposed)
    except Problem as problem:
        return problem
    return None
