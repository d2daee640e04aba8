"""The policy engine's tables: snapshots, reviews, approvals, activations and reviewer sets.

Functions take a connection; the caller holds the transaction. Rows are written once, but for the state of a review.
Nothing here checks a signature: `policyengine.reviewing` does, before it stores.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import json

import sqlalchemy as sa

from mesh import canonicaljson
from mesh.clock import format_time, parse_time
from mesh.problems import Conflict, NotFound
from policyengine.dsse import Envelope, envelope_from_json
from policyengine.review import Activation, State, activation_from_json
from policyengine.snapshot import Snapshot

ROOM = "policyengine"
_METADATA = sa.MetaData()
SNAPSHOTS = sa.Table(
    "policy_snapshots",
    _METADATA,
    sa.Column("hash", sa.String, primary_key=True),
    sa.Column("content", sa.LargeBinary),
    sa.Column("created", sa.String),
)
REVIEWS = sa.Table(
    "policy_reviews",
    _METADATA,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("snapshot", sa.String),
    sa.Column("predecessor", sa.String),
    sa.Column("proposer", sa.String),
    sa.Column("note", sa.Text),
    sa.Column("state", sa.String),
    sa.Column("created", sa.String),
    sa.Column("changed", sa.String),
)
APPROVALS = sa.Table(
    "policy_approvals",
    _METADATA,
    sa.Column("review", sa.String, primary_key=True),
    sa.Column("key_id", sa.String, primary_key=True),
    sa.Column("name", sa.String),
    sa.Column("envelope", sa.Text),
    sa.Column("time", sa.String),
)
ACTIVATIONS = sa.Table(
    "policy_activations",
    _METADATA,
    sa.Column("epoch", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("review", sa.String),
    sa.Column("document", sa.Text),
)
REVIEWER_SETS = sa.Table(
    "policy_reviewer_sets",
    _METADATA,
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("hash", sa.String),
    sa.Column("envelope", sa.Text),
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StoredApproval:
    """An approval that was checked when it came in."""

    key_id: str
    name: str
    envelope: Envelope
    time: dt.datetime


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Review:
    """A proposed change: a snapshot after its predecessor, and where it stands."""

    id: str
    snapshot: str
    predecessor: str | None
    proposer: str | None
    note: str
    state: State
    created: dt.datetime
    changed: dt.datetime
    approvals: tuple[StoredApproval, ...] = ()

    @property
    def envelopes(self) -> tuple[Envelope, ...]:
        """The approvals as they were signed."""
        return tuple(approval.envelope for approval in self.approvals)


def put_snapshot(connection: sa.Connection, snapshot: Snapshot, now: dt.datetime) -> None:
    """Keep a snapshot under its hash; one that is there stays."""
    if connection.execute(sa.select(SNAPSHOTS.c.hash).where(SNAPSHOTS.c.hash == snapshot.hash)).first() is None:
        connection.execute(
            sa.insert(SNAPSHOTS).values(hash=snapshot.hash, content=snapshot.to_bytes(), created=format_time(now))
        )


def get_snapshot(connection: sa.Connection, name: str) -> Snapshot:
    """The snapshot of a hash; what was kept is hashed again.

    Raises NotFound (LM2425), Invalid (LM2402) when the kept content is not what its name says.
    """
    content = connection.execute(sa.select(SNAPSHOTS.c.content).where(SNAPSHOTS.c.hash == name)).scalar()
    if content is None:
        raise NotFound("LM2425", snapshot=name)
    return Snapshot.from_bytes(bytes(content), name)


def put_review(connection: sa.Connection, review: Review) -> None:
    """Keep a new review."""
    connection.execute(
        sa.insert(REVIEWS).values(
            id=review.id,
            snapshot=review.snapshot,
            predecessor=review.predecessor,
            proposer=review.proposer,
            note=review.note,
            state=str(review.state),
            created=format_time(review.created),
            changed=format_time(review.changed),
        )
    )


def get_review(connection: sa.Connection, review: str) -> Review:
    """A review with its approvals, in the order in which they came.

    Raises NotFound (LM2424).
    """
    row = connection.execute(sa.select(REVIEWS).where(REVIEWS.c.id == review)).first()
    if row is None:
        raise NotFound("LM2424", review=review)
    return _review(connection, row)


def list_reviews(connection: sa.Connection) -> list[Review]:
    """All reviews, newest first."""
    rows = connection.execute(sa.select(REVIEWS).order_by(REVIEWS.c.id.desc())).all()
    return [_review(connection, row) for row in rows]


def move_review(connection: sa.Connection, review: str, old: State, new: State, now: dt.datetime) -> None:
    """Move a review from the state that it was read in.

    Raises Conflict (LM2423) when somebody else moved it meanwhile.
    """
    result = connection.execute(
        sa.update(REVIEWS)
        .where(REVIEWS.c.id == review, REVIEWS.c.state == str(old))
        .values(state=str(new), changed=format_time(now))
    )
    if result.rowcount != 1:
        raise Conflict("LM2423", state=str(old), event=str(new))


def put_approval(connection: sa.Connection, review: str, approval: StoredApproval) -> None:
    """Keep an approval.

    Raises Conflict (LM2427) when this key approved the review before.
    """
    try:
        connection.execute(
            sa.insert(APPROVALS).values(
                review=review,
                key_id=approval.key_id,
                name=approval.name,
                envelope=canonicaljson.dumps(approval.envelope.to_json()).decode(),
                time=format_time(approval.time),
            )
        )
    except sa.exc.IntegrityError as err:
        raise Conflict("LM2427", reviewer=approval.name) from err


def put_activation(connection: sa.Connection, review: str, activation: Activation) -> None:
    """Keep an activation.

    Raises Conflict (LM2419) when its epoch was used.
    """
    document = canonicaljson.dumps(activation.to_json()).decode()
    try:
        connection.execute(sa.insert(ACTIVATIONS).values(epoch=activation.epoch, review=review, document=document))
    except sa.exc.IntegrityError as err:
        raise Conflict("LM2419", epoch=activation.epoch, highest=activation.epoch) from err


def activations_after(connection: sa.Connection, epoch: int) -> list[Activation]:
    """The activations with a higher epoch, in order: what an agent that was away has missed."""
    rows = connection.execute(
        sa.select(ACTIVATIONS.c.document).where(ACTIVATIONS.c.epoch > epoch).order_by(ACTIVATIONS.c.epoch)
    )
    return [activation_from_json(json.loads(row.document)) for row in rows]


def latest_activation(connection: sa.Connection) -> tuple[Activation, str] | None:
    """The activation with the highest epoch and the id of its review; None before the first."""
    row = connection.execute(sa.select(ACTIVATIONS).order_by(ACTIVATIONS.c.epoch.desc()).limit(1)).first()
    return None if row is None else (activation_from_json(json.loads(row.document)), str(row.review))


def put_reviewer_set(connection: sa.Connection, version: int, name: str, envelope: Envelope) -> None:
    """Keep a version of the reviewer set.

    Raises Conflict (LM2405) when the version is there.
    """
    document = canonicaljson.dumps(envelope.to_json()).decode()
    try:
        connection.execute(sa.insert(REVIEWER_SETS).values(version=version, hash=name, envelope=document))
    except sa.exc.IntegrityError as err:
        raise Conflict("LM2405", reason=f"version {version} is there already") from err


def reviewer_chain(connection: sa.Connection) -> tuple[tuple[str, Envelope], ...]:
    """The hash and envelope of every version of the reviewer set, in order."""
    rows = connection.execute(sa.select(REVIEWER_SETS).order_by(REVIEWER_SETS.c.version))
    return tuple((str(row.hash), envelope_from_json(json.loads(row.envelope))) for row in rows)


def _review(connection: sa.Connection, row: sa.Row[tuple[object, ...]]) -> Review:
    found = row._mapping  # noqa: SLF001  SQLAlchemy's public way to name columns
    approvals = connection.execute(
        sa.select(APPROVALS).where(APPROVALS.c.review == found["id"]).order_by(APPROVALS.c.time, APPROVALS.c.key_id)
    )
    return Review(
        id=found["id"],
        snapshot=found["snapshot"],
        predecessor=found["predecessor"],
        proposer=found["proposer"],
        note=found["note"],
        state=State(found["state"]),
        created=parse_time(found["created"]),
        changed=parse_time(found["changed"]),
        approvals=tuple(
            StoredApproval(
                key_id=item.key_id,
                name=item.name,
                envelope=envelope_from_json(json.loads(item.envelope)),
                time=parse_time(item.time),
            )
            for item in approvals
        ),
    )
