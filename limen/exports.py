"""The server's side of continuous exports: which are wanted, the records of their changes, and the process that works.

`exports.yaml` is read again when it changes. What is wanted is written for the process that exports, which is started
anew then, and started again when it falls. How it goes is read from what it writes down, for metrics and people.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import pathlib
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

import prometheus_client
import structlog

from audit.pump import wait_after
from limen.besides import end_process, start_process
from limen.exportsfile import ExportsFile
from limen.exportstate import FOLDER, WANTED, standings, wanted_before

_LOOK_EVERY_S = 0.5
_STEADY_S = 60.0
Json = Any
_LAG = prometheus_client.Gauge(
    "limen_audit_export_lag_records", "Records of the log that an export has not delivered yet.", ["export"]
)
_FAILURES = prometheus_client.Gauge(
    "limen_audit_export_failures", "Tries in a row that an export failed; 0 when the last one was taken.", ["export"]
)


class Exports:
    """The exports that are wanted. All calls come from the server's one worker thread."""

    def __init__(self, state: pathlib.Path, record: Callable[..., None], size: Callable[[], int]) -> None:
        self._state, self._record, self._size = state, record, size
        self._file = ExportsFile(state / "exports.yaml")
        self._wanted: list[Json] | None = None
        self.version = 0
        """Grows with every change: the process of another version is not the one that is wanted."""

    @property
    def is_any(self) -> bool:
        """Whether any export is wanted."""
        return bool(self._wanted)

    def reports(self) -> list[Json]:
        """How the file stands; nothing for an installation that has none."""
        return [self._file.report()] if self._file.is_there or self._wanted else []

    def refresh(self) -> None:
        """Look at the file: EVERY change is a record, and what is wanted is on the disk after it.

        Begins and ends are told against what was wanted before the last stop of the server.
        """
        is_first = self._wanted is None
        if not self._file.refresh() and not is_first:
            return
        if self._wanted is None:
            self._wanted = wanted_before(self._state / WANTED)
        wanted = [item.to_json() for item in self._file.exports]
        if self._file.report()["in_force"] is False:
            wanted = self._wanted
        if wanted == self._wanted:
            self.version += is_first
            return
        before, after = ({row["name"]: row for row in rows} for rows in (self._wanted, wanted))
        for name in {**before, **after}:
            if before.get(name) != after.get(name):
                event = "begin" if name not in before else "end" if name not in after else "change"
                row = after.get(name) or before[name]
                told = {field: row[field] for field in ("to", "format", "kinds", "from")}
                self._record("export", "server", event=event, export=name, **told)
        draft = self._state / WANTED.with_name(".exports.json")
        draft.write_text(json.dumps(wanted), "utf-8")
        draft.replace(self._state / WANTED)
        for name in before.keys() - after.keys():
            # a later export of that name is another one
            for suffix in (".cursor", ".status"):
                (self._state / FOLDER / f"{name}{suffix}").unlink(missing_ok=True)
            for gauge in (_LAG, _FAILURES):
                with contextlib.suppress(KeyError):
                    gauge.remove(name)
        self._wanted = wanted
        self.version += 1

    def measure(self) -> None:
        """Set the metrics by what the exports wrote down."""
        size = self._size()
        for row in standings(self._state, size=size) if self.is_any else ():
            _LAG.labels(row["name"]).set(row["lag"])
            _FAILURES.labels(row["name"]).set(row["failures"])

    def once(self, *, actor: str, **fields: object) -> None:
        """Record an export that somebody makes by hand."""
        self._record("export", actor, event="once", **fields)


async def keep_exporting(exports: Exports, state: pathlib.Path, worker: Executor, stop: asyncio.Event) -> None:
    """Have the process run that exports what is wanted, until ``stop``."""
    loop = asyncio.get_running_loop()
    process: asyncio.subprocess.Process | None = None
    version, falls, began, not_before = -1, 0, 0.0, 0.0
    try:
        while not stop.is_set():
            await loop.run_in_executor(worker, exports.measure)
            if process is not None and process.returncode is not None:
                falls = 0 if loop.time() - began > _STEADY_S else falls + 1
                not_before = loop.time() + wait_after(falls)
                structlog.get_logger().warning("the exporting process ended", status=process.returncode)
                process = None
            if version != exports.version:
                await end_process(process)
                process, version, not_before = None, exports.version, 0.0
            if process is None and exports.is_any and loop.time() >= not_before:
                began = loop.time()
                process = await start_process(["-m", "limen.exporter", str(state)])
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_EVERY_S):
                    await stop.wait()
    finally:
        await end_process(process)
