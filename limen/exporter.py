"""The process that exports continuously: `python -m limen.exporter STATE`, started and stopped by the server.

One thread for each export: it reads the log's files under its newest checkpoint, delivers, moves its cursor, and waits
when there is nothing or when the other side does not answer. It shares nothing with the server but files: what hangs or
falls here stops no record. `STATE/server/exports.json` says what to export, `STATE/exports/NAME.cursor` how far it
came, `NAME.status` how it stands. It ends with SIGTERM, or with the server.
"""

from __future__ import annotations

import json
import os
import pathlib
import sys
import threading

import structlog

from audit.cursor import Cursor
from audit.pump import Pump, Sink, wait_after
from audit.reader import CHECKPOINT, KEY, Reader, read_key
from audit.sinks.opening import open_sink
from limen import lifecycle
from limen.exportsfile import Export, export_from_json
from limen.exportstate import FOLDER, WANTED
from mesh import telemetry
from mesh.clock import Clock, SystemClock, format_time
from mesh.problems import Problem

_LOOK_EVERY_S = 0.2
_TELL_EVERY_S = 1.0


class Running:
    """One export while it runs."""

    def __init__(self, state: pathlib.Path, export: Export, stop: threading.Event, clock: Clock) -> None:
        self._log, self._folder = state / "audit", state / FOLDER
        self._export, self._stop, self._clock = export, stop, clock
        self._sink: Sink | None = None
        self._pump: Pump | None = None
        self._stamp: tuple[int, int] | None = None
        self._reader: Reader | None = None
        self._failures = 0
        self._error = ""
        self._delivered_at = ""
        self._told: dict[str, object] = {}

    def run(self) -> None:
        """Export until it is told to stop. A problem is tried again, later and later; nothing is skipped."""
        waiting = 0.0
        while not self._stop.is_set():
            try:
                moved = self._step(waiting)
            except Problem as problem:
                self._fail(problem)
                self._tell()
                self._stop.wait(wait_after(self._failures))
                continue
            if moved:
                self._failures, self._error, waiting = 0, "", 0.0
                self._tell()
            else:
                self._tell()
                self._stop.wait(_LOOK_EVERY_S)
                waiting += _LOOK_EVERY_S
        if self._sink is not None:
            self._sink.close()

    def _step(self, waiting: float) -> int:
        """One batch; 0 when there is none, or when what is there waits for more.

        Raises Problems of the log, the cursor and the destination.
        """
        reader = self._read()
        if self._pump is None:
            origin = reader.checkpoint.origin
            cursor = Cursor(self._folder / f"{self._export.name}.cursor", origin, self._begin(reader))
            if cursor.is_new:
                # where an export began is kept before anything else
                cursor.save(cursor.next)
            self._sink = open_sink(self._export.destination, origin=origin, now=self._clock.now)
            self._pump = Pump(cursor=cursor, sink=self._sink, kinds=self._export.kinds)
        assert self._sink is not None
        behind = reader.size - self._pump.next
        if 0 < behind < self._sink.most and waiting < self._sink.linger_s:
            return 0
        moved = self._pump.step(reader)
        if moved:
            self._delivered_at = format_time(self._clock.now())
        return moved

    def _begin(self, reader: Reader) -> int:
        return reader.size if self._export.from_now else 0

    def _read(self) -> Reader:
        """The log as its newest checkpoint says; the file is read when it is another one."""
        try:
            found = (self._log / CHECKPOINT).stat()
            stamp = (found.st_ino, found.st_mtime_ns)
        except OSError:
            stamp = None
        if self._reader is None or stamp != self._stamp or stamp is None:
            self._reader = Reader(self._log, read_key(self._log / KEY))
            self._stamp = stamp
        return self._reader

    def _fail(self, problem: Problem) -> None:
        self._failures += 1
        if self._error != problem.message:
            structlog.get_logger().warning(
                "an export does not go on", export=self._export.name, code=problem.code, reason=problem.message
            )
        self._error = problem.message
        # a partial tile that was read may be gone by now: the next look is at the newest checkpoint
        self._stamp = None

    def _tell(self) -> None:
        """Write how it stands, when it changed; for people, and lost without harm."""
        size = self._reader.size if self._reader is not None else 0
        standing: dict[str, object] = {
            "name": self._export.name,
            "to": self._export.destination.url,
            "format": self._export.destination.form,
            "next": self._pump.next if self._pump is not None else None,
            "size": size,
            "failures": self._failures,
            "error": self._error,
            "delivered_at": self._delivered_at,
        }
        if standing == self._told:
            return
        self._told = standing
        draft = self._folder / f".{self._export.name}.status"
        try:
            draft.write_text(json.dumps({**standing, "told_at": format_time(self._clock.now())}), "utf-8")
            draft.replace(self._folder / f"{self._export.name}.status")
        except OSError as err:
            structlog.get_logger().warning("how an export stands cannot be written", reason=str(err))


def main(arguments: list[str]) -> None:
    """Run every export that is wanted until SIGTERM."""
    lifecycle.die_with_parent()
    telemetry.configure()
    os.nice(5)
    state = pathlib.Path(arguments[0])
    (state / FOLDER).mkdir(mode=0o700, exist_ok=True)
    wanted = [export_from_json(row) for row in json.loads((state / WANTED).read_text("utf-8"))]
    stop = lifecycle.stop_signalled()
    clock = SystemClock()
    threads = [
        threading.Thread(target=Running(state, export, stop, clock).run, name=export.name, daemon=True)
        for export in wanted
    ]
    for thread in threads:
        thread.start()
    # a thread ends by itself when there is a bug in it: then this process ends, and the server starts it again
    while not stop.wait(_TELL_EVERY_S) and all(thread.is_alive() for thread in threads):
        pass
    stop.set()
    for thread in threads:
        thread.join(5.0)


if __name__ == "__main__":
    main(sys.argv[1:])
