"""Runs the parts of an installation as child processes, starts them again when they fall, stops them in order.

A part is ready when it prints ``ready NAME``. This module knows nothing of what the parts do.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence

from limen.cli import render
from limen.lifecycle import PARENT
from mesh.problems import Unavailable

# a server on a machine that is busy takes a minute and more; one that ends is noticed at once
READY_WITHIN_S = 180.0
STEADY_S = 60.0
# two of them one after the other stay below the 90 s that systemd gives
STOP_WITHIN_S = 40.0
_OF_INPUT = frozenset({2, 4})
BACKOFF_S = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


class Part:
    """One supervised child process: `python -m limen ARGUMENTS`."""

    def __init__(
        self,
        name: str,
        arguments: Callable[[], Awaitable[tuple[Sequence[str], dict[str, str]]]],
        *,
        is_quiet: bool = False,
    ) -> None:
        self.name = name
        self._arguments = arguments
        self._is_quiet = is_quiet
        self._process: asyncio.subprocess.Process | None = None
        self._is_stopping = False
        self.ready = asyncio.Event()
        self.starts = 0

    @property
    def pid(self) -> int | None:
        """The child's pid while it runs."""
        return self._process.pid if self._process is not None else None

    async def run(self) -> None:
        """Start the child again and again until `stop`; each fall costs a longer pause, success resets it."""
        falls = 0
        while not self._is_stopping:
            began = asyncio.get_running_loop().time()
            status = await self._run_once()
            if self._is_stopping:
                return
            if not self.ready.is_set() and self.starts == 1:
                problem = Unavailable("LM5206", name=self.name, status=status)
                # what the part said of its input is what this command says of it
                problem.exit_status = status if status in _OF_INPUT else problem.exit_status
                raise problem
            self.ready.clear()
            falls = 0 if asyncio.get_running_loop().time() - began > STEADY_S else falls + 1
            render.say(f"{self.name} ended with status {status}; starting it again")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(BACKOFF_S[min(falls, len(BACKOFF_S) - 1)]):
                    await asyncio.Event().wait()

    async def _run_once(self) -> int:
        arguments, extra = await self._arguments()
        if self._is_stopping:
            return 0
        self.starts += 1
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "limen",
            *arguments,
            env={**os.environ, PARENT: str(os.getpid()), **extra},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            # a signal from the terminal reaches us alone: we stop the parts in order
            start_new_session=True,
        )
        assert self._process.stdout is not None
        async for raw in self._process.stdout:
            text = raw.decode("utf-8", "replace").rstrip("\n")
            if text == f"ready {self.name}":
                self.ready.set()
            if not self._is_quiet:
                render.line(text)
                sys.stdout.flush()
        return await self._process.wait()

    async def stop(self) -> None:
        """Ask the child to end, and end it after `STOP_WITHIN_S`."""
        self._is_stopping = True
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_WITHIN_S):
                await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def wait_ready(part: Part) -> None:
    """Wait until a part is ready.

    Raises Unavailable after `READY_WITHIN_S` seconds.
    """
    try:
        async with asyncio.timeout(READY_WITHIN_S):
            await part.ready.wait()
    except TimeoutError as err:
        raise Unavailable("LM5207", name=part.name, seconds=int(READY_WITHIN_S)) from err
