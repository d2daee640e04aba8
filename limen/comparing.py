"""Drift, looked for by the learner beside the server: after each activation, and again and again while flows come.

What is kept is how much of each kind there is, for metrics and for who asks the server; `limen learn drift` says which.
Nothing is proposed and nothing applied. The database is read page by page and never held while this module thinks.
"""

from __future__ import annotations

import sqlalchemy as sa
import structlog

from learner.drift import counts_of, find_drift
from learner.history import History
from learner.judge import Judge
from learner.propose import learn
from learner.risk import Watch
from learner.store import Parted, history_of, kinds_after, put_drift, read_drift, read_standing, restore_page
from mesh.clock import Clock
from mesh.database import transaction
from mesh.problems import Problem
from policyengine import reviewing

LOOK_EVERY_S = 10.0
AGAIN_AFTER_S = 3600.0
_PAGE = 200


class Comparing:
    """Compares what was learned with what is in force, when that is due."""

    def __init__(self, engine: sa.Engine, clock: Clock) -> None:
        self._engine, self._clock = engine, clock
        self._not_before = float("-inf")

    def step(self) -> bool:
        """Compare, if that is due; whether it was.

        1. It is due for a release that was never compared, and after an hour for one of which more was learned since.
        2. The whole history is read, page by page; what comes in meanwhile is in some of them, and is no harm.
        3. What was found replaces what was found before.
        """
        # (1)
        now = self._clock.now().timestamp()
        if now < self._not_before:
            return False
        self._not_before = now + LOOK_EVERY_S
        try:
            with transaction(self._engine) as connection:
                active = reviewing.active(connection)
                standing, head = read_standing(connection)
                before = read_drift(connection)
        except Problem as problem:
            # the server says so itself; learning goes on
            structlog.get_logger().warning("the active release cannot be read", code=problem.code)
            return False
        if active is None or not head:
            return False
        snapshot = active[1]
        if before is not None and before.snapshot == snapshot.hash:
            is_old = now - before.at >= AGAIN_AFTER_S or now < before.at
            if standing.version == before.version or not is_old:
                return False
        # (2)
        history = self._history(history_of(head))
        counts = counts_of(find_drift(history, learn(history, Watch()), Judge(snapshot.policies)))
        # (3)
        with transaction(self._engine) as connection:
            put_drift(connection, Parted(snapshot=snapshot.hash, version=standing.version, at=now, counts=counts))
        if before is None or before.counts != counts:
            structlog.get_logger().info("the active release and the traffic were compared", **counts)
        return True

    def _history(self, history: History) -> History:
        after = ""
        while True:
            with transaction(self._engine) as connection:
                page = kinds_after(connection, after, _PAGE)
            if not page:
                return history
            after = restore_page(history, page)
