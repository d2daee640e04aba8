"""The authority's tables: wrapped keys, authorities, and what was issued.

Functions take a connection; the caller holds the transaction. A serial number is in the table before its
certificate leaves the process, so that no crash can lead to issuing it twice.
"""

from __future__ import annotations

import datetime as dt
import functools
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

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
    sa.Column("authority", sa.String),
    sa.Column("kind", sa.String),
    sa.Column("sha256", sa.String),
)
# rows of one statement: 900 parameters, and no SQLite takes fewer than 999
_AT_ONCE = 100
_COLUMNS = [column.name for column in ISSUED.columns]


class Issuance(NamedTuple):
    """One SVID that was issued, in the order of the table's columns. One for every SVID: nothing is made as quickly.

    ``serial`` is hexadecimal, a JWT's is its ``jti``; ``rule`` is empty for nodes.
    ``authority`` is the slot that signed it, ``kind`` is ``x509`` or ``jwt``, ``sha256`` the hash of the DER or token.
    """

    serial: str
    spiffe_id: str
    node: str
    rule: str
    issued: dt.datetime
    not_after: dt.datetime
    authority: str = ""
    kind: str = "x509"
    sha256: str = ""


def put_key(connection: sa.Connection, name: str, wrapped: bytes) -> None:
    """Keep a wrapped key under a new name."""
    connection.execute(sa.insert(KEYS).values(name=name, wrapped=wrapped))


def get_key(connection: sa.Connection, name: str) -> bytes | None:
    """The wrapped key of a name."""
    found = connection.execute(sa.select(KEYS.c.wrapped).where(KEYS.c.name == name)).scalar()
    return None if found is None else bytes(found)


def key_names(connection: sa.Connection) -> list[str]:
    """The names of all wrapped keys."""
    return [str(row[0]) for row in connection.execute(sa.select(KEYS.c.name).order_by(KEYS.c.name))]


def put_authority(connection: sa.Connection, name: str, state: str, chain: bytes) -> None:
    """Keep an authority's chain (DER, signing certificate first) with its state."""
    connection.execute(sa.insert(AUTHORITIES).values(name=name, state=state, chain=chain))


def get_authority(connection: sa.Connection, name: str) -> tuple[str, bytes] | None:
    """The state and the chain of an authority."""
    row = connection.execute(
        sa.select(AUTHORITIES.c.state, AUTHORITIES.c.chain).where(AUTHORITIES.c.name == name)
    ).first()
    return None if row is None else (str(row[0]), bytes(row[1]))


def record_issuances(connection: sa.Connection, issued: Sequence[Issuance]) -> None:
    """Record SVIDs before they are given out, all or none.

    Raises Conflict LM1205 when a serial number was ever used.
    """
    # a batch has few moments
    moments = {found.issued for found in issued} | {found.not_after for found in issued}
    texts = {moment: format_time(moment) for moment in moments}
    rows = [
        (serial, spiffe_id, node, rule, texts[begin], texts[end], authority, kind, sha256)
        for serial, spiffe_id, node, rule, begin, end, authority, kind, sha256 in issued
    ]
    one, many = _inserts(connection.dialect)
    whole = len(rows) - len(rows) % _AT_ONCE if many else 0
    try:
        # as the driver takes them: what the library does with each row costs as much as the row
        for begin in range(0, whole, _AT_ONCE):
            connection.exec_driver_sql(many, tuple(itertools.chain.from_iterable(rows[begin : begin + _AT_ONCE])))
        if many and rows[whole:]:
            connection.exec_driver_sql(one, rows[whole:])
        elif not many:
            connection.exec_driver_sql(one, [dict(zip(_COLUMNS, row, strict=True)) for row in rows])
    except sa.exc.IntegrityError as err:
        raise Conflict("LM1205", serial=", ".join(found.serial for found in issued[:3])) from err


@functools.lru_cache(maxsize=8)
def _inserts(dialect: sa.Dialect) -> tuple[str, str]:
    """The statements of one row and of many, as the driver takes them; none of many where parameters have names."""
    made = sa.insert(ISSUED).compile(dialect=dialect)
    assert list(Issuance._fields) == _COLUMNS
    if not made.positional:
        return str(made), ""
    assert made.positiontup == _COLUMNS
    head, values, row = str(made).partition(" VALUES ")
    return str(made), head + values + ", ".join([row] * _AT_ONCE)


def record_issuance(connection: sa.Connection, found: Issuance) -> None:
    """Record one SVID before it is given out. Raises Conflict LM1205 when its serial number was ever used."""
    record_issuances(connection, [found])


def adopt_issuances(connection: sa.Connection, authority: str) -> None:
    """Say of everything that does not name its authority that this one signed it."""
    connection.execute(
        sa.update(ISSUED).where(ISSUED.c.authority == "", ISSUED.c.node != "").values(authority=authority)
    )


def valid_issuances(connection: sa.Connection, now: dt.datetime) -> list[Issuance]:
    """Every SVID that has not ended, newest first."""
    rows = connection.execute(
        sa.select(ISSUED).where(ISSUED.c.not_after > format_time(now)).order_by(ISSUED.c.issued.desc())
    )
    return [_issuance(row) for row in rows]


def find_issuances(connection: sa.Connection, wanted: str, now: dt.datetime) -> list[Issuance]:
    """The SVID of a serial number or token id, whatever its age; else those of a SPIFFE ID that live.

    A serial number is hexadecimal, as `same_number` reads it: people paste what OpenSSL or a browser shows.
    """
    names = {wanted, same_number(wanted)}
    rows = connection.execute(sa.select(ISSUED).where(ISSUED.c.serial.in_(names))).all()
    if not rows:
        rows = connection.execute(
            sa.select(ISSUED)
            .where(ISSUED.c.spiffe_id == wanted, ISSUED.c.not_after > format_time(now))
            .order_by(ISSUED.c.issued.desc())
        ).all()
    return [_issuance(row) for row in rows]


def same_number(given: str) -> str:
    """A serial number as it is kept, of any spelling: upper case, colons, leading zeros; other texts as they are."""
    digits = given.strip().replace(":", "").lower()
    if not digits or not set(digits) <= set("0123456789abcdef"):
        return given
    return digits.lstrip("0") or "0"


def _issuance(row: sa.Row[Any]) -> Issuance:
    return Issuance(
        serial=row.serial,
        spiffe_id=row.spiffe_id,
        node=row.node,
        rule=row.rule,
        issued=parse_time(row.issued),
        not_after=parse_time(row.not_after),
        authority=row.authority,
        kind=row.kind,
        sha256=row.sha256,
    )
