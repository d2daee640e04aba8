"""Moves records from a log to a sink, a batch at a time, and the cursor behind them: at least once, and never past one.

The only order that loses nothing: read, deliver, and only then move the cursor. How long to wait after a failure is
computed here; who waits is the caller.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Sequence
from typing import Protocol

from audit.formats.selection import selected
from audit.reader import Reader
from mesh.problems import Invalid

MAX_BATCH_BYTES = 1 << 20
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 60.0


class Place(Protocol):
    """Where an export stands: a cursor, of which `save` returns when it is kept."""

    next: int
    """The index of the next record."""

    def save(self, next_index: int) -> None:
        """Move on."""
        ...


class Sink(Protocol):
    """What takes records: `send` returns when the other side has them, and raises Unavailable LM6101 when not."""

    most: int
    """How many records it takes at once."""
    linger_s: float
    """How long it lets a batch that is not full wait for more."""

    def send(self, records: Sequence[tuple[int, bytes]]) -> None:
        """Deliver records, in their order. A record that was delivered before may come again."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


class Pump:
    """One export: what is selected of a log goes to a sink."""

    def __init__(
        self,
        *,
        cursor: Place,
        sink: Sink,
        kinds: Collection[str] = (),
        since: dt.datetime | None = None,
        until: dt.datetime | None = None,
    ) -> None:
        self._cursor, self._sink = cursor, sink
        self._kinds, self._since, self._until = kinds, since, until
        self.delivered = 0

    @property
    def next(self) -> int:
        """The index of the next record: all before it were delivered, or not selected."""
        return self._cursor.next

    def step(self, reader: Reader) -> int:
        """Deliver the next batch; returns how many records of the log were passed, 0 at its end.

        1. The batch ends at the log's end, at the sink's number, or at 1 MiB.
        2. What is selected of it is delivered.
        3. The cursor moves behind it.

        Raises Invalid LM6102 for a log that is shorter than what was exported of it, Unavailable LM6101 for (2) and
        (3), and what reading raises; nothing moves then.
        """
        begin = self._cursor.next
        if begin > reader.size:
            reason = f"it stands at record {begin}, and the log has {reader.size}"
            raise Invalid("LM6102", path="cursor", reason=reason)
        # (1)
        batch: list[tuple[int, bytes]] = []
        size = 0
        for item in reader.records(begin, begin + self._sink.most):
            batch.append(item)
            size += len(item[1])
            if size >= MAX_BATCH_BYTES:
                break
        if not batch:
            return 0
        # (2)
        chosen = list(selected(batch, since=self._since, until=self._until, kinds=self._kinds))
        if chosen:
            self._sink.send(chosen)
            self.delivered += len(chosen)
        # (3)
        self._cursor.save(begin + len(batch))
        return len(batch)


def wait_after(failures: int) -> float:
    """Seconds to wait after so many failures in a row: half a second, doubled each time, a minute at most."""
    return min(_LONGEST_WAIT_S, _FIRST_WAIT_S * float(1 << min(max(failures - 1, 0), 10)))
