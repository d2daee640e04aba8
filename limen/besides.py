"""Processes that work beside the server, on its state and with none of its keys: started, and ended in time.

They end with the server. What they do, and when one is to run, is for who starts them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Mapping, Sequence

from limen.lifecycle import PARENT

_STOPS_WITHIN_S = 10.0


async def start_process(
    words: Sequence[str], environment: Mapping[str, str] | None = None
) -> asyncio.subprocess.Process:
    """Start this Python with some words; it ends when this process does (`limen.lifecycle.die_with_parent`)."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *words,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        env={**os.environ, **(environment or {}), PARENT: str(os.getpid())},
    )


async def end_process(process: asyncio.subprocess.Process | None) -> None:
    """Ask a process to end, and end it when it does not."""
    if process is None or process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(_STOPS_WITHIN_S):
            await process.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
