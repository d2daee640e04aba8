"""Looks for proofs in the background: on the loop, a few at once, results taken by the worker thread.

What is to do stands in the database, so that a restart goes on with it. This module holds no rule but how often.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor

import structlog

from limen.acme.service import Acme
from limen.acme.validators import Task, Validators, is_worth_a_retry
from mesh.problems import Problem, Unavailable

AT_ONCE, TRIES, PAUSE_S, LOOK_S = 32, 3, 1.0, 5.0


async def keep_validating(acme: Acme, worker: Executor, stop: asyncio.Event) -> None:
    """Look for what proofs are due, until ``stop``."""
    loop = asyncio.get_running_loop()
    woken, turns, busy = asyncio.Event(), asyncio.Semaphore(AT_ONCE), set[str]()
    acme.wake = lambda: _wake(loop, woken)
    validators = Validators(lambda: acme.config)

    async def prove(task: Task) -> None:
        async with turns:
            problem = await _try(validators, task)
            await loop.run_in_executor(worker, acme.judge, task.id, problem)
        busy.discard(task.id)

    tasks = set[asyncio.Task[None]]()
    async with asyncio.TaskGroup() as group:
        while not stop.is_set():
            woken.clear()
            for task in await loop.run_in_executor(worker, acme.due):
                if task.id not in busy:
                    busy.add(task.id)
                    made = group.create_task(prove(task))
                    tasks.add(made)
                    made.add_done_callback(tasks.discard)
            waits = [asyncio.ensure_future(stop.wait()), asyncio.ensure_future(woken.wait())]
            await asyncio.wait(waits, timeout=LOOK_S, return_when=asyncio.FIRST_COMPLETED)
            for found in waits:
                found.cancel()
        for made in list(tasks):
            # what was begun is due again at the next start
            made.cancel()


async def _try(validators: Validators, task: Task) -> Problem | None:
    for left in reversed(range(TRIES)):
        try:
            await validators.validate(task)
        except Problem as problem:
            if not left or not is_worth_a_retry(problem):
                return problem
            await asyncio.sleep(PAUSE_S)
        except Exception as bug:  # noqa: BLE001  one proof that goes wrong must not end the others
            structlog.get_logger().error("a proof could not be looked for", exc_info=bug)
            return Unavailable("LM0002", report=task.id)
        else:
            return None
    return None


def _wake(loop: asyncio.AbstractEventLoop, woken: asyncio.Event) -> None:
    loop.call_soon_threadsafe(woken.set)
