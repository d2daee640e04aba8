"""Prunes the server's audit log, by hand and by age, and keeps legal holds: each change is a record first.

What is recorded is carried out then. A crash leaves a record that says more is pruned than is: the next pruning
removes the rest. Works on the worker
thread, as whatever appends to the log does.
"""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import structlog

from audit.log import Log
from audit.retention import KIND, MAX_REASON, Hold, Retention, is_young, newest, prunable
from audit.tiles import WIDTH, TileReader, read_from
from limen.exportstate import standings
from mesh.clock import Clock, format_time
from mesh.problems import Invalid, Problem
from mesh.ulid import RANDOM_BYTES, new_ulid

Json = Any
REST = dt.timedelta(hours=1)
"""How long pruning by age waits: after a start, after a jump of the clock, between two walks through the log."""
AT_ONCE = 64
"""So many bundles are looked at in a step: about a tenth of a second."""


class Retaining:
    """What is pruned and held of one log."""

    def __init__(
        self,
        log: Log,
        *,
        clock: Clock,
        random: Callable[[int], bytes],
        record: Callable[..., None],
        keep: dt.timedelta | None = None,
    ) -> None:
        self._log, self._clock, self._random, self._record = log, clock, random, record
        self._known: Retention | None = None
        # pruning by age: what is kept, when the next step may be, when the last one was asked for, and where it goes on
        self._keep = keep
        self._due = self._last = clock.now()
        self._next, self._is_begun, self._is_swept = 0, False, False

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
        self._is_swept = False
        return self._prune(self._bundles(self._now()), before, actor=actor)

    def _prune(self, bundles: Iterable[tuple[int, list[bytes]]], before: dt.datetime, *, actor: str) -> Json:
        """Steps 1 to 3 of `prune` for these bundles."""
        # (1)
        now, delivered = self._now(), self._delivered()
        if delivered is not None:
            bundles = itertools.takewhile(lambda item: (item[0] + 1) * WIDTH <= delivered, bundles)
        found = list(prunable(bundles, before, now.holds))
        after = now.with_pruned(found)
        # (2)
        if found:
            self._record(KIND, actor, event="prune", before=format_time(before), **after.fields())
            self._known = after
        # (3)
        every = [bundle for first, last in after.pruned for bundle in range(first, last + 1)]
        self._log.remove(found if self._is_swept else every)
        self._is_swept = True
        return {"records": len(found) * WIDTH, **after.fields()}

    def _delivered(self) -> int | None:
        """What EVERY continuous export has delivered: the records before this one; None without an export."""
        rows = standings(self._log.directory.parent, size=self._log.size)
        return min((row["next"] for row in rows), default=None)

    def step(self) -> None:
        """Prune a little of what is older than the setting says; asked for once in a while.

        1. Not in the first hour after a start, nor after the clock went back, or ahead by more than an hour: who set it
           wrong has that long to see it.
        2. From where the last step ended, some bundles are looked at. One that has young records alone ends the walk:
           those behind it came later. Then the next walk begins in an hour.
        3. What may go is pruned as `prune` does it, by the server, with its record. The first time in a process that
           something is pruned, or was before, what a crash left is removed.

        What the disk refuses is logged, and tried again in an hour.
        """
        now = self._clock.now()
        # (1)
        if not self._is_begun or not dt.timedelta() <= now - self._last <= REST:
            self._due, self._is_begun = now + REST, True
        self._last = now
        if self._keep is None or now < self._due:
            return
        before = now - self._keep
        try:
            # (2)
            found, is_over = self._some(before)
            if is_over:
                self._next, self._due = 0, now + REST
            # (3)
            if found or not (self._is_swept or self._known is None):
                self._prune(found, before, actor="server")
        except Problem as problem:
            self._next, self._due = 0, now + REST
            structlog.get_logger().error("nothing is pruned by age for an hour", code=problem.code, reason=str(problem))

    def _some(self, before: dt.datetime) -> tuple[list[tuple[int, list[bytes]]], bool]:
        """Step 2 of `step`: the next bundles with something old in them, and whether the walk is over."""
        self._log.show()
        tiles, end = self._tiles(), self._log.size // WIDTH
        found: list[tuple[int, list[bytes]]] = []
        for _ in range(AT_ONCE):
            if self._next >= end:
                return found, True
            entries = tiles.entries(self._next) if tiles.has_entries(self._next) else []
            # the log's newest word on what is pruned and held is looked for only when it matters
            if entries and is_young(entries, before):
                return found, True
            gap = self._now().end_of(self._next)
            if gap is None and entries:
                found.append((self._next, entries))
            self._next = (self._next if gap is None else gap) + 1
        return found, False

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
