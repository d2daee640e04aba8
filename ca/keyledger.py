"""A key source that remembers what it began: no key is left behind when a kill falls between a key and its record.

A key is made first and recorded as some authority's afterwards, in another store; and an authority ends before its
key is deleted. The ledger has the names in between. `sweep` deletes those that no authority uses. Only names that
stand in the ledger are ever deleted: a token partition has other keys too, and a database that was restored from a
backup does not know the newest ones. This module decides nothing about authorities.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection

import sqlalchemy as sa

from ca.keys import KeyAlgorithm, SigningKey
from ca.keysource import KeySource, check_name
from mesh.clock import Clock, format_time, parse_time
from mesh.database import transaction
from mesh.problems import Conflict

GRACE = dt.timedelta(minutes=10)
"""A key this young may be one that another server of the same database is about to record."""
_LEDGER = sa.table("ca_key_ledger", sa.column("source"), sa.column("name"), sa.column("since"))


class LedgeredKeys:
    """Another key source, with a ledger in the database."""

    def __init__(self, source: KeySource, engine: sa.Engine, clock: Clock) -> None:
        self._source, self._engine, self._clock = source, engine, clock

    @property
    def name(self) -> str:
        """The name of the source itself."""
        return self._source.name

    @property
    def is_durable(self) -> bool:
        """What the source itself says."""
        return self._source.is_durable

    def new(self, name: str, algorithm: KeyAlgorithm) -> SigningKey:
        """Make a key whose name is in the ledger before it exists. Raises what the source raises."""
        self._write(name)
        try:
            return self._source.new(name, algorithm)
        except Conflict:
            # the key of that name is somebody's: it was not begun here
            self._strike([name])
            raise

    def load(self, name: str) -> SigningKey:
        """The key of a name. Raises what the source raises."""
        return self._source.load(name)

    def delete(self, name: str) -> None:
        """Forget a key: its name leaves the ledger when the key is gone. Raises what the source raises."""
        self._write(name)
        self._source.delete(name)
        self._strike([name])

    def names(self) -> frozenset[str]:
        """The names of the keys that are there. Raises what the source raises."""
        return self._source.names()

    def sweep(self, kept: Collection[str], grace: dt.timedelta = GRACE) -> tuple[str, ...]:
        """Delete keys that were begun and never recorded; return their names.

        1. A name that an authority uses (``kept``) leaves the ledger.
        2. Of the others, those that are older than ``grace`` are deleted; the rest wait for the next sweep.

        Raises what the source raises; what is left then is swept the next time.
        """
        with transaction(self._engine) as connection:
            rows = connection.execute(sa.select(_LEDGER).where(_LEDGER.c.source == self.name)).all()
        # (1)
        self._strike([row.name for row in rows if row.name in kept])
        # (2)
        before = self._clock.now() - grace
        left = sorted(row.name for row in rows if row.name not in kept and parse_time(row.since) <= before)
        for name in left:
            self._source.delete(name)
            self._strike([name])
        return tuple(left)

    def _write(self, name: str) -> None:
        row = {"source": self.name, "name": check_name(name), "since": format_time(self._clock.now())}
        with transaction(self._engine) as connection:
            connection.execute(
                sa.delete(_LEDGER).where(_LEDGER.c.source == row["source"], _LEDGER.c.name == row["name"])
            )
            connection.execute(sa.insert(_LEDGER).values(**row))

    def _strike(self, names: Collection[str]) -> None:
        if names:
            with transaction(self._engine) as connection:
                connection.execute(
                    sa.delete(_LEDGER).where(_LEDGER.c.source == self.name, _LEDGER.c.name.in_(list(names)))
                )
