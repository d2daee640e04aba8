"""The process that learns: `python -m limen.learner`, started by the server once there are flows, without its keys.

The database is named by `LIMEN_DATABASE`, how long is remembered by `LIMEN_LEARN_DAYS`. It can be killed at any moment
(`limen.learning`). It ends with SIGTERM, or with the server.
"""

from __future__ import annotations

import os
import threading

import sqlalchemy as sa
import structlog

from audit.pump import wait_after
from learner.store import Behind
from limen import lifecycle
from limen.comparing import Comparing
from limen.learning import Learning
from limen.values import LEARN_DAYS
from mesh import telemetry
from mesh.clock import SystemClock
from mesh.database import open_database

DATABASE, DAYS = "LIMEN_DATABASE", "LIMEN_LEARN_DAYS"
_LOOK_EVERY_S = 1.0
_STAND_BY_S = 30.0


def run(learning: Learning, stop: threading.Event, comparing: Comparing | None = None) -> None:
    """Learn until ``stop``, and compare. A database that does not answer is asked again, later and later.

    Where another learner goes on, this one stands by: while it sees that one move, it leaves it the work.
    """
    failures = 0
    while not stop.is_set():
        try:
            count = learning.step()
            if comparing is not None:
                comparing.step()
        except Behind:
            structlog.get_logger().info("another server learns from the flows: this one stands by")
            _stand_by(learning, stop)
            continue
        except sa.exc.DBAPIError as err:
            failures += 1
            structlog.get_logger().warning("the learner waits for the database", reason=str(err.orig)[:300])
            stop.wait(wait_after(failures))
            continue
        failures = 0
        if not count:
            stop.wait(_LOOK_EVERY_S)


def _stand_by(learning: Learning, stop: threading.Event) -> None:
    before = -1
    while not stop.is_set():
        try:
            now = learning.came()
        except sa.exc.DBAPIError:
            now = before
        if now == before:
            return
        before = now
        stop.wait(_STAND_BY_S)


def main() -> None:
    """Learn until SIGTERM."""
    lifecycle.die_with_parent()
    telemetry.configure()
    os.nice(5)
    stop = lifecycle.stop_signalled()
    engine = open_database(os.environ[DATABASE])
    days = int(os.environ.get(DAYS) or LEARN_DAYS)
    clock = SystemClock()
    try:
        run(Learning(engine, clock, days=days), stop, Comparing(engine, clock))
    finally:
        engine.dispose()


if __name__ == "__main__":
    main()
