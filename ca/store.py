"""The authority's tables: wrapped keys, authorities, and what was issued.

Functions take a connection; the caller holds the transaction. A serial number is in the table before its
certificate leaves the process, so that no crash can lead to issuing it twice.
"""

from __future__ import annotations

import dataclasses
import datetime as dt

import sqlalchemy as sa

from mesh.clock import format_time, parse_time
from mesh.problems import Conflict

_METADATA = sa.MetaData()
KEYS = sa.Table(
    "ca_keys", _METADATA, sa.Column("name", sa.String, primary_key=True), sa.Column("wrapped", sa.LargeBinary)
)
AUTHORITIES = sa.Table(
    "ca_authorities",
    _METADATA,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("state", sa.String),
    sa.Column("chain", sa.LargeBinary),
)
ISSUED = sa.Table(
    "ca_issued",
    _METADATA,
    sa.Column("serial", sa.String, primary_key=True),
    sa.Column("spiffe_id", sa.String),
    sa.Column("node", sa.String),
    sa.Column("rule", sa.String),
    sa.Column("issued", sa.String),
    sa.Column("not_after", sa.String),
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Issuance:
    """One certificate that was issued. ``serial`` is hexadecimal; ``rule`` is empty for nodes and authorities."""

    serial: str
    spiffe_id: str
    node: str
    rule: str
    issued: dt.datetime
    not_after: dt.datetime


def put_key(connection: sa.Connection, name: str, wrapped: bytes) -> None:
    """Keep a wrapped key under a new name."""
    connection.execute(sa.insert(KEYS).values(name=name, wrapped=wrapped))


def get_key(connection: sa.Connection, name: str) -> bytes | None:
    """The wrapped key of a name."""
    found = connection.execute(sa.select(KEYS.c.wrapped).where(KEYS.c.name == name)).scalar()
    return None if found is None else bytes(found)


def put_authority(connection: sa.Connection, name: str, state: str, chain: bytes) -> None:
    """Keep an authority's chain (DER, signing certificate first) with its state."""
    connection.execute(sa.insert(AUTHORITIES).values(name=name, state=state, chain=chain))


def get_authority(connection: sa.Connection, name: str) -> tuple[str, bytes] | None:
    """The state and the chain of an authority."""
    row = connection.execute(
        sa.select(AUTHORITIES.c.state, AUTHORITIES.c.chain).where(AUTHORITIES.c.name == name)
    ).first()
    return None if row is None else (str(row[0]), bytes(row[1]))


def record_issuance(connection: sa.Connection, found: Issuance) -> None:
    """Record a certificate before it is given out.

    Raises Conflict LM1205 when its serial number was ever used.
    """
    try:
        connection.execute(
            sa.insert(ISSUED).values(
                serial=found.serial,
                spiffe_id=found.spiffe_id,
                node=found.node,
                rule=found.rule,
                issued=format_time(found.issued),
                not_after=format_time(found.not_after),
            )
        )
    except sa.exc.IntegrityError as err:
        raise Conflict("LM1205", serial=found.serial) from err


def valid_issuances(connection: sa.Connection, now: dt.datetime) -> list[Issuance]:
    """Every certificate that is valid now, newest first."""
    rows = connection.execute(
        sa.select(ISSUED).where(ISSUED.c.not_after > format_time(now)).order_by(ISSUED.c.issued.desc())
    )
    return [
        Issuance(
            serial=row.serial,
            spiffe_id=row.spiffe_id,
            node=row.node,
            rule=row.rule,
            issued=parse_time(row.issued),
            not_after=parse_time(row.not_after),
        )
        for row in rows
    ]
