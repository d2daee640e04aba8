"""What people on the server's host see and do of ACME: status, accounts, orders, bindings, the root."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from ca.acme import store
from limen.acme.service import Acme
from mesh.clock import Clock, format_time
from mesh.database import transaction

Json = Any


class Operators:
    """The operators' side of one ACME server."""

    def __init__(self, *, engine: sa.Engine, acme: Acme, clock: Clock, record: Callable[..., None]) -> None:
        self._engine, self._acme, self._clock, self._record = engine, acme, clock, record

    def status(self) -> Json:
        """What there is."""
        with transaction(self._engine) as connection:
            counts = {
                table.name.removeprefix("acme_"): store.count(connection, table)
                for table in (store.ACCOUNTS, store.BINDINGS, store.ORDERS, store.CERTIFICATES)
            }
        return {
            "binding": "required" if self._acme.config.binding else "optional",
            "names": list(self._acme.config.names),
            **counts,
            "root": self._acme.authority.root.subject.rfc4514_string(),
            "root_not_after": format_time(self._acme.authority.root.not_valid_after_utc),
            "issuing_not_after": format_time(self._acme.authority.issuing.not_valid_after_utc),
        }

    def list_accounts(self) -> Json:
        """Every account."""
        with transaction(self._engine) as connection:
            rows = store.every(connection, store.ACCOUNTS)
        return [
            {
                "id": row["id"],
                "status": row["status"],
                "contact": json.loads(row["contact"]),
                "eab": row["binding"],
                "created": row["created"],
            }
            for row in rows
        ]

    def list_orders(self) -> Json:
        """Every order that is kept."""
        with transaction(self._engine) as connection:
            rows = store.every(connection, store.ORDERS)
            serials = {row["id"]: row["serial"] for row in store.every(connection, store.CERTIFICATES)}
        return [
            {
                "id": row["id"],
                "account": row["account"],
                "status": row["status"],
                "names": [value for _, value in json.loads(row["identifiers"])],
                "serial": serials.get(row["certificate"]),
                "created": row["created"],
            }
            for row in rows
        ]

    def create_binding(self, label: str, *, actor: str) -> Json:
        """Make the key of an external account binding; it is shown once and lets one account in."""
        with transaction(self._engine) as connection:
            found = self._acme.accounts.create_binding(connection, label, self._clock.now())
        self._record("ca", actor, event="acme-eab", kid=found["kid"], label=label)
        return found

    def root(self) -> Json:
        """The root, PEM."""
        return {"pem": self._acme.authority.root_pem().decode()}
