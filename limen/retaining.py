"""Prunes the server's audit log and keeps legal holds: each change is a record first, and is carried out then.

What a crash leaves is a record that says more is pruned than is: the next pruning removes the rest. Works on the worker
thread, as whatever appends to the log does.
"""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Callable, Iterator
from typing import Any

from audit.log import Log
from audit.retention import KIND, MAX_REASON, Hold, Retention, newest, prunable
from audit.tiles import WIDTH, TileReader, read_from
from limen.exportstate import standings
from mesh.clock import Clock, format_time
from mesh.problems import Invalid
from mesh.ulid import RANDOM_BYTES, new_ulid

Json = Any


class Retaining:
    """What is pruned and held of one log."""

    def __init__(self, log: Log, *, clock: Clock, random: Callable[[int], bytes], record: Callable[..., None]) -> None:
        self._log, self._clock, self._random, self._record = log, clock, random, record
        self._known: Retention | None = None

    def _now(self) -> Retention:
        # asked for seldom: a start does not wait for a search through the log
        if self._known is None:
            self._log.show()
            self._known = newest(self._tiles(), self._log.size)
        return self._known

    def _tiles(self) -> TileReader:
        return TileReader(read_from(self._log.directory), self._log.size)

    def show(self) -> Json:
        """What is pruned and held."""
        return self._now().fields()

    def prune(self, before: dt.datetime, *, actor: str) -> Json:
        """Remove what is older than a moment and not held.

        1. Whole bundles alone, none that the newest record of this kind stands in, and none that a continuous export
           has not delivered yet.
        2. The record says what will be gone, and is durable.
        3. Then it is removed, with whatever an earlier pruning left.

        Raises Invalid LM6093 for a moment that is not past, Unavailable LM6023.
        """
        if before > self._clock.now():
            raise Invalid("LM6093", before=format_time(before))
        now = self._now()
        # (1)
        delivered = min(
            (row["next"] for row in standings(self._log.directory.parent, size=self._log.size)), default=None
        )
        bundles = self._bundles(now)
        if delivered is not None:
            bundles = itertools.takewhile(lambda item: (item[0] + 1) * WIDTH <= delivered, bundles)
        found = list(prunable(bundles, before, now.holds))
        after = now.with_pruned(found)
        # (2)
        if found:
            self._record(KIND, actor, event="prune", before=format_time(before), **after.fields())
            self._known = after
        # (3)
        self._log.remove([bundle for first, last in after.pruned for bundle in range(first, last + 1)])
        return {"records": len(found) * WIDTH, **after.fields()}

    def _bundles(self, now: Retention) -> Iterator[tuple[int, list[bytes]]]:
        self._log.show()
        tiles = self._tiles()
        for bundle in range(self._log.size // WIDTH):
            if not now.is_pruned(bundle):
                yield bundle, tiles.entries(bundle)

    def hold(
        self,
        *,
        reason: str,
        since: dt.datetime | None,
        until: dt.datetime | None,
        service: str | None,
        actor: str,
    ) -> Json:
        """Hold records of a time, about a service, or both.

        Raises Invalid LM6094 for a hold without a reason, or of no time; Conflict LM6092.
        """
        if not reason.strip() or len(reason) > MAX_REASON or len(service or "") > MAX_REASON:
            raise Invalid("LM6094", reason=f"its reason, and its service, have 1 to {MAX_REASON} characters")
        if since is not None and until is not None and since >= until:
            raise Invalid("LM6094", reason="it ends before it begins")
        name = new_ulid(self._clock.now(), self._random(RANDOM_BYTES))
        hold = Hold(id=name, reason=reason, since=since, until=until, service=service or None)
        after = self._now().with_hold(hold)
        self._record(KIND, actor, event="hold", hold=name, **after.fields())
        self._known = after
        return hold.to_json()

    def release(self, name: str, *, actor: str) -> Json:
        """End a hold. Raises NotFound LM6091."""
        after = self._now().without_hold(name)
        self._record(KIND, actor, event="release", hold=name, **after.fields())
        self._known = after
        return after.fields()
