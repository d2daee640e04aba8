"""The learner beside the server: takes the flows that agents handed over into the history, each once, as they come.

How far it came stands in the same transaction as what it learned, so that it can be killed at any moment. It works with
connections of its own, and never holds the database while it thinks. This module starts nothing.
"""

from __future__ import annotations

import dataclasses
import json

import sqlalchemy as sa
import structlog

from learner.store import DAY_S, Stored, prune, read_standing
from limen import store
from limen.values import LEARN_DAYS
from mesh.clock import Clock
from mesh.database import transaction
from mesh.flow import Flow, flow_from_json

BATCH = 2_000


class Learning:
    """One learner on a server's database. When there are several, one goes on and the others stand by."""

    def __init__(self, engine: sa.Engine, clock: Clock, *, days: int = LEARN_DAYS, batch: int = BATCH) -> None:
        self._engine, self._clock, self._days, self._batch = engine, clock, days, batch
        self._stored: Stored | None = None

    def step(self) -> int:
        """Learn from the next flows; how many there were.

        1. What was learned before is read, the first time and whenever the last step was not committed.
        2. The next flows are read by their numbers; those that the server dropped meanwhile are counted as lost.
        3. They are folded in memory. A row that nobody can read is counted, and left out.
        4. What changed and how far it came are committed together.
        5. Once a day, what is older than the days that are remembered is forgotten.

        Raises `learner.store.Behind` when another learner went on meanwhile: then nothing was learned here.
        """
        try:
            return self._step()
        except BaseException:
            # what is in memory is not what is in the database
            self._stored = None
            raise

    def came(self) -> int:
        """How often anybody saved what was learned."""
        with transaction(self._engine) as connection:
            return read_standing(connection)[0].version

    def _step(self) -> int:
        # (1)
        if self._stored is None:
            with transaction(self._engine) as connection:
                self._stored = Stored.load(connection)
        found = self._stored
        standing = found.standing
        # (2)
        with transaction(self._engine) as connection:
            lost, rows = store.flows_after(connection, standing.flows, self._batch)
        if standing.version == 0:
            lost = 0
        # (3)
        flows = [_read(text) for _, text in rows]
        found.history.add(flow for flow in flows if flow is not None)
        # (4)
        if rows:
            after = dataclasses.replace(
                standing,
                flows=rows[-1][0],
                lost=standing.lost + lost,
                odd=standing.odd + flows.count(None),
                saved=self._clock.now().timestamp(),
            )
            with transaction(self._engine) as connection:
                found.save(connection, after)
            found.saved(after)
        # (5)
        self._forget(found)
        return len(rows)

    def _forget(self, found: Stored) -> None:
        """Step 5 of `step`."""
        day = int(self._clock.now().timestamp() // DAY_S) - self._days
        standing = found.standing
        if standing.version == 0 or day <= standing.pruned_day:
            return
        with transaction(self._engine) as connection:
            gone = prune(connection, standing, found.history, day)
        self._stored = None
        if gone:
            structlog.get_logger().info("forgot what is older than is remembered", kinds=gone, days=self._days)


def _read(text: str) -> Flow | None:
    try:
        return flow_from_json(json.loads(text))
    except (ValueError, RecursionError, AttributeError):
        return None
