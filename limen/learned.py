"""The server's side of the learner: whether its process is wanted, how far it came, and what it knows for who asks.

What was learned is handed out as it stands. Proposals, bounds and drift are worked out by who asks for them, so that
no question keeps the server from issuing identities.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from concurrent.futures import Executor
from typing import Any

import prometheus_client
import sqlalchemy as sa
import structlog

from audit.pump import wait_after
from learner.drift import LISTS
from learner.store import kinds_after, read_drift, read_standing
from limen import store
from limen.besides import end_process, start_process
from limen.learner import DATABASE, DAYS
from mesh.database import transaction

MAX_KINDS = 500
_LOOK_EVERY_S = 1.0
_STEADY_S = 60.0
Json = Any
_WAITING = prometheus_client.Gauge("limen_learner_waiting_flows", "Flows that were not learned from yet.")
_LEARNED = prometheus_client.Gauge("limen_learner_flows", "Flows that the learner's history holds.")
_LOST = prometheus_client.Gauge("limen_learner_lost_flows", "Flows that were dropped before they were learned.")

_DRIFT = prometheus_client.Gauge(
    "limen_learner_drift", "Where the active release and the traffic have parted, when last looked.", ["kind"]
)


class Learned:
    """What was learned, for the server. All calls come from its one worker thread."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    @property
    def url(self) -> str:
        """The database, password included: for the environment of the process that learns, and nothing else."""
        return self._engine.url.render_as_string(hide_password=False)

    def standing(self) -> Json:
        """How far it came, and over which time."""
        with transaction(self._engine) as connection:
            standing, head = read_standing(connection)
            newest = store.newest_flow(connection)
            parted = read_drift(connection)
        about = {name: value for name, value in head.items() if name != "standing"}
        return {
            **dataclasses.asdict(standing),
            "waiting": max(0, newest - standing.flows),
            "history": about or None,
            "drift": None if parted is None else dataclasses.asdict(parted),
        }

    def kinds(self, *, after: str, limit: int) -> Json:
        """A page of what was learned, by name: each with its sessions and days."""
        with transaction(self._engine) as connection:
            return [[name, *row] for name, row in kinds_after(connection, after, limit)]

    def measure(self) -> bool:
        """Set the metrics; whether there is anything to learn from, or was."""
        found = self.standing()
        _WAITING.set(found["waiting"])
        _LEARNED.set(found["history"]["flows"] if found["history"] else 0)
        _LOST.set(found["lost"])
        for name in LISTS if found["drift"] else ():
            _DRIFT.labels(name).set(found["drift"]["counts"][name])
        return bool(found["waiting"] or found["version"])


async def keep_learning(learned: Learned, days: int, worker: Executor, stop: asyncio.Event) -> None:
    """Have the process run that learns, from the first flow on until ``stop``; never for no ``days``."""
    loop = asyncio.get_running_loop()
    process: asyncio.subprocess.Process | None = None
    falls, began, not_before = 0, 0.0, 0.0
    environment = {DATABASE: learned.url, DAYS: str(days)}
    try:
        while days and not stop.is_set():
            is_wanted = await loop.run_in_executor(worker, learned.measure)
            if process is not None and process.returncode is not None:
                falls = 0 if loop.time() - began > _STEADY_S else falls + 1
                not_before = loop.time() + wait_after(falls)
                structlog.get_logger().warning("the learning process ended", status=process.returncode)
                process = None
            if process is None and is_wanted and loop.time() >= not_before:
                began = loop.time()
                process = await start_process(["-m", "limen.learner"], environment)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_EVERY_S):
                    await stop.wait()
    finally:
        await end_process(process)
