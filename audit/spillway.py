"""A spool with a second one behind it, on another disk: what finds no room in the first goes there, in its order.

Once something is in the second, everything goes there until it is empty, so that no record overtakes another. Without a
second one this is the first alone. Batches are numbered over both.
"""

from __future__ import annotations

from collections.abc import Sequence

from audit.batches import MAX_BATCH
from audit.spool import MAX_BATCH_BYTES, Cursor, Damage, Spool
from mesh.problems import Invalid, Unavailable


class Spillway:
    """One queue of one or two spools."""

    def __init__(self, first: Spool, second: Spool | None = None) -> None:
        self._first, self._second = first, second
        self._reading = first
        self.damages: list[Damage] = [*first.damages, *(second.damages if second is not None else ())]

    @property
    def _ahead(self) -> Spool:
        """Where the batch that was sent last is noted."""
        if self._second is None or self._first.sequence >= self._second.sequence:
            return self._first
        return self._second

    @property
    def sequence(self) -> int:
        """The number of the last batch."""
        return self._ahead.sequence

    @property
    def previous(self) -> str:
        """The digest of the last batch."""
        return self._ahead.previous

    @property
    def is_spilling(self) -> bool:
        """Whether the second holds anything."""
        return self._second is not None and self._second.waiting_bytes > 0

    @property
    def waiting_bytes(self) -> int:
        """How many bytes wait in the first."""
        return self._first.waiting_bytes

    def append(self, records: Sequence[bytes]) -> None:
        """Append records, all or none, durably. Raises Unavailable LM6011 when neither has room."""
        if self._second is None:
            self._first.append(records)
            return
        if not self.is_spilling:
            try:
                self._first.append(records)
            except Unavailable:
                pass
            else:
                return
        self._second.append(records)

    def read(self, limit: int = MAX_BATCH, limit_bytes: int = MAX_BATCH_BYTES) -> tuple[Cursor, list[bytes]]:
        """As `Spool.read`, of the first while it has any."""
        self._reading = self._first
        cursor, records = self._first.read(limit, limit_bytes)
        if not records and self._second is not None:
            self._reading = self._second
            cursor, records = self._second.read(limit, limit_bytes)
        return cursor, records

    def ack(self, cursor: Cursor, *, sequence: int, previous: str) -> None:
        """Forget what was read last. Raises Unavailable LM6011."""
        self._reading.ack(cursor, sequence=sequence, previous=previous)

    def begin_anew(self) -> None:
        """Number batches from 1 again. Raises Unavailable LM6011."""
        for spool in (self._first, self._second):
            if spool is not None:
                spool.begin_anew()

    def step_over(self) -> Damage | None:
        """Set aside what is broken in either. Raises Unavailable LM6011."""
        for spool in (self._first, self._second):
            if spool is not None:
                try:
                    found = spool.step_over()
                except Invalid:
                    continue
                if found is not None:
                    return found
        return None

    def close(self) -> None:
        """Close both."""
        for spool in (self._first, self._second):
            if spool is not None:
                spool.close()
