"""The demo's processes: commands that run to their end, and programs that keep running until the demo stops them.

Every process is in a session of its own, so that Ctrl-C reaches the demo alone, which then ends them in order.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import sys
from collections.abc import Mapping, Sequence

from limen.lifecycle import PARENT
from mesh.problems import Unavailable

COMMAND_WITHIN_S = 180.0
STOP_WITHIN_S = 60.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """What a command left."""

    status: int
    out: str
    err: str


class Processes:
    """Starts `limen` commands on one state directory and remembers what runs."""

    def __init__(self, state: pathlib.Path) -> None:
        self._state = state
        self._running: list[Program] = []

    async def limen(
        self, *arguments: str, expect: Sequence[int] = (0,), env: Mapping[str, str] | None = None
    ) -> Finished:
        """Run one command to its end.

        Raises Unavailable with what it printed when its status is not expected.
        """
        process = await asyncio.create_subprocess_exec(
            *self._command(arguments),
            env={**os.environ, PARENT: str(os.getpid()), **(env or {})},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(COMMAND_WITHIN_S):
                out, err = await process.communicate()
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            raise
        found = Finished(status=process.returncode or 0, out=out.decode(), err=err.decode())
        if found.status not in expect:
            words = " ".join(arguments[:3])
            raise Unavailable("LM5221", command=words, status=found.status, said=(found.err or found.out)[-800:])
        return found

    async def start(self, name: str, *arguments: str, env: Mapping[str, str] | None = None) -> Program:
        """Start a command that keeps running."""
        log = self._state / "shop" / f"{name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as errors:
            process = await asyncio.create_subprocess_exec(
                *self._command(arguments),
                env={**os.environ, PARENT: str(os.getpid()), **(env or {})},
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
                limit=1 << 22,
            )
        program = Program(name, process, log)
        self._running.append(program)
        return program

    def _command(self, arguments: Sequence[str]) -> list[str]:
        return [sys.executable, "-m", "limen", "--state", str(self._state), *arguments]

    async def stop(self) -> None:
        """End everything, newest first."""
        for program in reversed(self._running):
            await program.stop()
        self._running.clear()


class Program:
    """One running command: its lines are read as they come, lines can be written to it."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, log: pathlib.Path) -> None:
        self.name = name
        self.rows: list[dict[str, object]] = []
        self.lines: list[str] = []
        self._process = process
        self._log = log
        self._news = asyncio.Condition()
        self._reader = asyncio.ensure_future(self._read())

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for raw in self._process.stdout:
            text = raw.decode("utf-8", "replace").rstrip("\n")
            async with self._news:
                self.lines.append(text)
                if text.startswith("{"):
                    self.rows.append(json.loads(text))
                self._news.notify_all()
        async with self._news:
            self._news.notify_all()

    @property
    def is_running(self) -> bool:
        """Whether the process has not ended."""
        return self._process.returncode is None

    async def until_line(self, line: str, within_s: float = COMMAND_WITHIN_S) -> None:
        """Wait for a line.

        Raises Unavailable when the process ends first or the time is over.
        """
        await self._until(lambda: line in self.lines, within_s)

    async def until_row(self, key: str, value: object = None, within_s: float = COMMAND_WITHIN_S) -> dict[str, object]:
        """Wait for a JSON line with a key (and a value) and return it.

        Raises Unavailable when the process ends first or the time is over.
        """

        def found() -> list[dict[str, object]]:
            return [row for row in self.rows if key in row and (value is None or row[key] == value)]

        await self._until(lambda: bool(found()), within_s)
        return found()[0]

    async def _until(self, is_there: object, within_s: float) -> None:
        assert callable(is_there)
        try:
            async with asyncio.timeout(within_s), self._news:
                await self._news.wait_for(lambda: is_there() or self._reader.done())
        except TimeoutError as err:
            raise Unavailable("LM5222", name=self.name, said=self._tail()) from err
        if not is_there():
            raise Unavailable("LM5222", name=self.name, said=self._tail())

    def _tail(self) -> str:
        return self._log.read_text("utf-8", "replace")[-800:]

    async def write(self, row: Mapping[str, object]) -> None:
        """Write one JSON line to the program."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(row).encode() + b"\n")
        await self._process.stdin.drain()

    def close_input(self) -> None:
        """Say that no more lines come."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    async def stop(self) -> None:
        """Ask the process to end, and end it after `STOP_WITHIN_S`."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(STOP_WITHIN_S):
                    await self._process.wait()
            except TimeoutError:
                with contextlib.suppress(ProcessLookupError):
                    self._process.kill()
                await self._process.wait()
        await asyncio.wait([self._reader], timeout=2.0)
        self._reader.cancel()
