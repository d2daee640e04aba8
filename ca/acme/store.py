"""The ACME authority's tables. Functions take a connection; the caller holds the transaction.

Rows are handed out as plain mappings of their columns. Every serial number stays for good; what is pending expires and
is deleted, so that strangers cannot fill the database.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from mesh.clock import format_time

_METADATA = sa.MetaData()


def _table(name: str, *columns: str) -> sa.Table:
    return sa.Table(name, _METADATA, *(sa.Column(found, primary_key=not at) for at, found in enumerate(columns)))


AUTHORITIES = _table("acme_authorities", "name", "certificate", "wrapped")
BINDINGS = _table("acme_bindings", "id", "label", "wrapped", "created", "account")
ACCOUNTS = _table("acme_accounts", "id", "thumbprint", "jwk", "status", "contact", "binding", "created")
ORDERS = _table(
    "acme_orders",
    *("id", "account", "status", "identifiers", "authorizations", "certificate", "error", "created", "expires"),
)
AUTHORIZATIONS = _table("acme_authorizations", "id", "account", "type", "value", "status", "expires")
CHALLENGES = _table("acme_challenges", "id", "authorization", "type", "token", "status", "error", "validated")
CERTIFICATES = _table(
    "acme_certificates",
    *("id", "serial", "account", "names", "certificate", "issued", "not_after", "is_recorded", "revoked", "reason"),
)
Row = sa.RowMapping
KEPT = dt.timedelta(days=30)


def put(connection: sa.Connection, table: sa.Table, **values: object) -> None:
    """Add a row."""
    connection.execute(sa.insert(table).values(**values))


def get(connection: sa.Connection, table: sa.Table, **keys: object) -> Row | None:
    """The row with these values, None when there is none."""
    return connection.execute(_where(sa.select(table), table, keys)).mappings().first()


def every(connection: sa.Connection, table: sa.Table, **keys: object) -> list[Row]:
    """Every row with these values, in the order of their first column."""
    rows = connection.execute(_where(sa.select(table), table, keys).order_by(next(iter(table.primary_key)))).mappings()
    return list(rows)


def change(connection: sa.Connection, table: sa.Table, key: object, **values: object) -> None:
    """Change a row."""
    connection.execute(sa.update(table).where(next(iter(table.primary_key)) == key).values(**values))


def count(connection: sa.Connection, table: sa.Table, **keys: object) -> int:
    """How many rows have these values."""
    return int(connection.execute(_where(sa.select(sa.func.count()).select_from(table), table, keys)).scalar_one())


def _where(query: sa.Select[Any], table: sa.Table, keys: Mapping[str, object]) -> sa.Select[Any]:
    for name, value in keys.items():
        query = query.where(table.c[name].is_(None) if value is None else table.c[name] == value)
    return query


def created_since(connection: sa.Connection, account: str, since: dt.datetime) -> int:
    """How many orders an account made since a moment."""
    query = sa.select(sa.func.count()).where(ORDERS.c.account == account, ORDERS.c.created > format_time(since))
    return int(connection.execute(query).scalar_one())


def issued_since(connection: sa.Connection, names: str, since: dt.datetime) -> int:
    """How many certificates were issued for exactly these names since a moment."""
    query = sa.select(sa.func.count()).where(CERTIFICATES.c.names == names, CERTIFICATES.c.issued > format_time(since))
    return int(connection.execute(query).scalar_one())


def valid_authorization(connection: sa.Connection, account: str, kind: str, value: str, now: dt.datetime) -> Row | None:
    """An authorization that an account holds for a name."""
    query = sa.select(AUTHORIZATIONS).where(
        AUTHORIZATIONS.c.account == account,
        AUTHORIZATIONS.c.type == kind,
        AUTHORIZATIONS.c.value == value,
        AUTHORIZATIONS.c.status == "valid",
        AUTHORIZATIONS.c.expires > format_time(now),
    )
    return connection.execute(query).mappings().first()


def revoked(connection: sa.Connection, now: dt.datetime) -> list[Row]:
    """Every revoked certificate that has not expired."""
    query = sa.select(CERTIFICATES).where(
        CERTIFICATES.c.revoked.is_not(None), CERTIFICATES.c.not_after > format_time(now)
    )
    return list(connection.execute(query.order_by(CERTIFICATES.c.revoked)).mappings())


def expire(connection: sa.Connection, now: dt.datetime) -> int:
    """Delete orders and authorizations whose time is over, with their challenges; how many orders went."""
    late = format_time(now)
    gone = sa.select(AUTHORIZATIONS.c.id).where(AUTHORIZATIONS.c.expires <= late)
    connection.execute(sa.delete(CHALLENGES).where(CHALLENGES.c.authorization.in_(gone)))
    connection.execute(sa.delete(AUTHORIZATIONS).where(AUTHORIZATIONS.c.expires <= late))
    old = format_time(now - KEPT)
    found = connection.execute(
        sa.delete(ORDERS).where(
            sa.or_(
                sa.and_(ORDERS.c.expires <= late, ORDERS.c.status.in_(("pending", "ready", "invalid"))),
                sa.and_(ORDERS.c.created <= old, ORDERS.c.status == "valid"),
            )
        )
    )
    return int(found.rowcount)
