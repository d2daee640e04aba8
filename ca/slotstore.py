"""Tables of the authorities: slots, the journal of their transitions, what was revoked, and the trust state.

Functions take a connection; the caller holds the transaction, so that a transition, its journal entry and what
agents are to hold are written together or not at all.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
from collections.abc import Sequence

import sqlalchemy as sa

from ca.rotation import AuthorityState, Kind, Slot
from mesh.clock import format_time, parse_time

_METADATA = sa.MetaData()
SLOTS = sa.Table(
    "ca_slots",
    _METADATA,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("kind", sa.String),
    sa.Column("state", sa.String),
    sa.Column("parent", sa.String),
    sa.Column("certificates", sa.LargeBinary),
    sa.Column("created", sa.String),
    sa.Column("changed", sa.String),
    sa.Column("not_after", sa.String),
    sa.Column("published", sa.BigInteger),
)
JOURNAL = sa.Table(
    "ca_journal",
    _METADATA,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("at", sa.String),
    sa.Column("slot", sa.String),
    sa.Column("kind", sa.String),
    sa.Column("before", sa.String),
    sa.Column("after", sa.String),
    sa.Column("reason", sa.String),
    sa.Column("actor", sa.String),
    sa.Column("is_logged", sa.Boolean),
)
REVOKED = sa.Table(
    "ca_revoked",
    _METADATA,
    sa.Column("serial", sa.String, primary_key=True),
    sa.Column("authority", sa.String),
    sa.Column("spiffe_id", sa.String),
    sa.Column("revoked", sa.String),
    sa.Column("not_after", sa.String),
    sa.Column("reason", sa.String),
)
TRUST = sa.Table(
    "ca_trust",
    _METADATA,
    sa.Column("sequence", sa.BigInteger, primary_key=True),
    sa.Column("content", sa.LargeBinary),
    sa.Column("published", sa.String),
)
SEEN = sa.Table(
    "ca_trust_seen",
    _METADATA,
    sa.Column("sequence", sa.BigInteger, primary_key=True),
    sa.Column("sha256", sa.String),
)
KEPT = 100_000
"""So many numbers of trust states are remembered with what stood under them."""
_ISSUED = sa.table(
    "ca_issued",
    sa.column("serial"),
    sa.column("spiffe_id"),
    sa.column("node"),
    sa.column("not_after"),
    sa.column("authority"),
    sa.column("issued"),
    sa.column("kind"),
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One transition of a slot. ``before`` is empty for a slot that began; ``number`` is given by the table."""

    at: dt.datetime
    slot: str
    kind: Kind
    before: str
    after: str
    reason: str
    actor: str
    number: int = 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Revocation:
    """A certificate that was revoked. ``serial`` is hexadecimal."""

    serial: str
    authority: str
    spiffe_id: str
    revoked: dt.datetime
    not_after: dt.datetime
    reason: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """What of an authority's work is valid now and in use; ``replaced`` counts what is valid and has a successor."""

    certificates: int
    identities: int
    nodes: int
    last_end: dt.datetime | None
    last_issued: dt.datetime | None
    replaced: int = 0


def put_slot(connection: sa.Connection, slot: Slot, *, published: int) -> None:
    """Keep a new slot; ``published`` is the sequence of the first trust state that has it.

    A root of an upstream that ended here may come again: its old row makes room.
    """
    connection.execute(sa.delete(SLOTS).where(SLOTS.c.id == slot.id, SLOTS.c.state == str(AuthorityState.ENDED)))
    connection.execute(sa.insert(SLOTS).values(**_row(slot), published=published))


def change_slot(connection: sa.Connection, slot: Slot) -> None:
    """Keep a slot's new state."""
    connection.execute(sa.update(SLOTS).where(SLOTS.c.id == slot.id).values(**_row(slot)))


def slots(connection: sa.Connection) -> list[Slot]:
    """Every slot that is not gone for good, oldest first; revoked ones stay known."""
    rows = connection.execute(
        sa.select(SLOTS).where(SLOTS.c.state != str(AuthorityState.ENDED)).order_by(SLOTS.c.created, SLOTS.c.id)
    )
    return [
        Slot(
            id=row.id,
            kind=Kind(row.kind),
            state=AuthorityState(row.state),
            parent=row.parent,
            certificates=_unpack(bytes(row.certificates)),
            created=parse_time(row.created),
            changed=parse_time(row.changed),
            not_after=parse_time(row.not_after),
        )
        for row in rows
    ]


def published(connection: sa.Connection, slot: str) -> int:
    """The sequence of the first trust state that had a slot."""
    return int(connection.execute(sa.select(SLOTS.c.published).where(SLOTS.c.id == slot)).scalar() or 0)


def _row(slot: Slot) -> dict[str, object]:
    return {
        "id": slot.id,
        "kind": str(slot.kind),
        "state": str(slot.state),
        "parent": slot.parent,
        "certificates": b"".join(len(item).to_bytes(4, "big") + item for item in slot.certificates),
        "created": format_time(slot.created),
        "changed": format_time(slot.changed),
        "not_after": format_time(slot.not_after),
    }


def _unpack(data: bytes) -> tuple[bytes, ...]:
    found = []
    while data:
        size = int.from_bytes(data[:4], "big")
        found.append(data[4 : 4 + size])
        data = data[4 + size :]
    return tuple(found)


def add_entry(connection: sa.Connection, entry: Entry) -> None:
    """Write a transition into the journal."""
    connection.execute(
        sa.insert(JOURNAL).values(
            at=format_time(entry.at),
            slot=entry.slot,
            kind=str(entry.kind),
            before=entry.before,
            after=entry.after,
            reason=entry.reason[:400],
            actor=entry.actor[:200],
            is_logged=False,
        )
    )


def journal(connection: sa.Connection, *, unlogged: bool = False, limit: int = 1000) -> list[Entry]:
    """Transitions, oldest first: all, or those that the audit log does not have yet."""
    query = sa.select(JOURNAL).order_by(JOURNAL.c.number.desc()).limit(limit)
    if unlogged:
        query = sa.select(JOURNAL).where(JOURNAL.c.is_logged.is_(False)).order_by(JOURNAL.c.number.desc())
    return [
        Entry(
            at=parse_time(row.at),
            slot=row.slot,
            kind=Kind(row.kind),
            before=row.before,
            after=row.after,
            reason=row.reason,
            actor=row.actor,
            number=row.number,
        )
        for row in reversed(connection.execute(query).all())
    ]


def mark_logged(connection: sa.Connection, numbers: Sequence[int]) -> None:
    """Remember that the audit log has these entries."""
    connection.execute(sa.update(JOURNAL).where(JOURNAL.c.number.in_(numbers)).values(is_logged=True))


def revoke(connection: sa.Connection, found: Revocation) -> bool:
    """Remember a revocation for good; False when it was known."""
    if connection.execute(sa.select(REVOKED.c.serial).where(REVOKED.c.serial == found.serial)).first() is not None:
        return False
    connection.execute(
        sa.insert(REVOKED).values(
            serial=found.serial,
            authority=found.authority,
            spiffe_id=found.spiffe_id,
            revoked=format_time(found.revoked),
            not_after=format_time(found.not_after),
            reason=found.reason[:400],
        )
    )
    return True


def revocations(connection: sa.Connection, now: dt.datetime | None = None) -> list[Revocation]:
    """What was revoked, in order; with ``now`` only what would be valid otherwise."""
    query = sa.select(REVOKED).order_by(REVOKED.c.revoked, REVOKED.c.serial)
    if now is not None:
        query = query.where(REVOKED.c.not_after > format_time(now))
    return [
        Revocation(
            serial=row.serial,
            authority=row.authority,
            spiffe_id=row.spiffe_id,
            revoked=parse_time(row.revoked),
            not_after=parse_time(row.not_after),
            reason=row.reason,
        )
        for row in connection.execute(query)
    ]


def first_end(connection: sa.Connection, now: dt.datetime) -> dt.datetime | None:
    """When the first of what was revoked ends by itself; None when nothing revoked is valid otherwise."""
    query = sa.select(sa.func.min(REVOKED.c.not_after)).where(REVOKED.c.not_after > format_time(now))
    found = connection.execute(query).scalar()
    return None if found is None else parse_time(found)


def revoked_at(connection: sa.Connection, serial: str, authority: str) -> dt.datetime | None:
    """When a certificate of an authority was revoked; None for one that was not. Who signed it may not be known."""
    query = sa.select(REVOKED.c.revoked).where(REVOKED.c.serial == serial, REVOKED.c.authority.in_({authority, ""}))
    found = connection.execute(query).scalar()
    return None if found is None else parse_time(found)


def live(connection: sa.Connection, authority: str, now: dt.datetime, *, is_left: bool = False) -> Live:
    """What of an authority's work is valid now and not revoked.

    Of one that signs no more (``is_left``), a certificate that an agent had replaced since by another authority's, for
    the same identity, is counted apart: nothing breaks with it. What people asked for, nobody replaces.
    """
    count, distinct = sa.func.count, sa.distinct
    valid = sa.and_(_ISSUED.c.not_after > format_time(now), _ISSUED.c.serial.not_in(sa.select(REVOKED.c.serial)))
    rows = sa.select(_ISSUED).where(valid, _ISSUED.c.authority == authority).subquery()
    used: list[sa.ColumnElement[bool]] = []
    if is_left:
        later = (
            sa.select(_ISSUED.c.spiffe_id, _ISSUED.c.node, sa.func.max(_ISSUED.c.issued).label("issued"))
            .where(valid, _ISSUED.c.authority != authority, _ISSUED.c.kind == "x509", _ISSUED.c.node != "")
            .group_by(_ISSUED.c.spiffe_id, _ISSUED.c.node)
            .subquery()
        )
        same = sa.and_(rows.c.spiffe_id == later.c.spiffe_id, rows.c.node == later.c.node, rows.c.kind == "x509")
        source: sa.FromClause = rows.outerjoin(later, same)
        used = [sa.or_(later.c.issued.is_(None), later.c.issued <= rows.c.issued)]
    else:
        source = rows
    row = connection.execute(
        sa.select(
            count(rows.c.serial),
            count(distinct(rows.c.spiffe_id)),
            # what a person or the server itself asked for is no agent's
            count(distinct(sa.func.nullif(sa.func.nullif(rows.c.node, "server"), ""))),
            sa.func.max(rows.c.not_after),
            sa.func.max(rows.c.issued),
        )
        .select_from(source)
        .where(*used)
    ).one()
    whole = connection.execute(sa.select(count(rows.c.serial))).scalar_one() if is_left else row[0]
    return Live(
        certificates=int(row[0]),
        identities=int(row[1]),
        nodes=int(row[2]),
        last_end=parse_time(row[3]) if row[3] else None,
        last_issued=parse_time(row[4]) if row[4] else None,
        replaced=int(whole) - int(row[0]),
    )


def last_end(connection: sa.Connection, authority: str) -> dt.datetime | None:
    """When the last thing that an authority signed ends; None when it signed nothing."""
    found = connection.execute(
        sa.select(sa.func.max(_ISSUED.c.not_after)).where(_ISSUED.c.authority == authority)
    ).scalar()
    return parse_time(found) if found else None


def get_trust(connection: sa.Connection) -> tuple[int, bytes, dt.datetime] | None:
    """The newest trust state: its number, its content as it is compared, and since when it is published."""
    row = connection.execute(sa.select(TRUST).order_by(TRUST.c.sequence.desc()).limit(1)).first()
    return None if row is None else (int(row.sequence), bytes(row.content), parse_time(row.published))


def put_trust(connection: sa.Connection, sequence: int, content: bytes, now: dt.datetime) -> None:
    """Keep a new trust state; of older ones only what they were is remembered."""
    connection.execute(sa.insert(TRUST).values(sequence=sequence, content=content, published=format_time(now)))
    connection.execute(sa.delete(TRUST).where(TRUST.c.sequence < sequence))
    connection.execute(sa.insert(SEEN).values(sequence=sequence, sha256=hashlib.sha256(content).hexdigest()))
    connection.execute(sa.delete(SEEN).where(SEEN.c.sequence < sequence - KEPT))


def has_published(connection: sa.Connection, sequence: int, content: bytes) -> bool:
    """Whether a trust state was published here: under its number stands just that.

    False for one that a server published whose state was restored from a backup since. Numbers from before any that
    is remembered count as published.
    """
    first = connection.execute(sa.select(sa.func.min(SEEN.c.sequence))).scalar()
    found = connection.execute(sa.select(SEEN.c.sha256).where(SEEN.c.sequence == sequence)).scalar()
    if found is None:
        return first is not None and sequence < int(first)
    return str(found) == hashlib.sha256(content).hexdigest()
