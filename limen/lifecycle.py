"""What every long-running process does: say that it is ready, stop on a signal, and not outlive its parent."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import fcntl
import gc
import json
import os
import pathlib
import resource
import signal
import threading
from collections.abc import Iterator, Mapping

from limen.cli import render
from mesh.problems import Conflict

_PR_SET_PDEATHSIG = 1
_NEW_OBJECTS = 10_000
# of malloc.h: M_ARENA_MAX, M_MMAP_THRESHOLD, M_TRIM_THRESHOLD
_MALLOC = ((-8, 1), (-3, 128 * 1024), (-1, 128 * 1024))
PARENT = "LIMEN_PARENT"
"""Environment variable with the pid whose end ends this process too; `limen up` sets it."""


def die_with_parent() -> None:
    """End this process when the one that started it ends, if that one asked for it."""
    asked = os.environ.pop(PARENT, "")
    if not asked.isdigit():
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != int(asked):
        # the parent ended before the kernel knew about our wish
        os.kill(os.getpid(), signal.SIGTERM)


def open_many_files() -> None:
    """Take as many descriptors as this process may have: strangers' connections are bounded by budgets, not by 1024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def keep_little_memory() -> None:
    """Have the C library give back what is free instead of keeping it, as far as it can be told so (mallopt(3)).

    It keeps a heap for each thread, and makes its threshold for what has pages of its own as large as the largest thing
    that was freed: an agent kept 20 to 75 MB of which nothing was used, more or less from one second to the next.
    """
    adjust = getattr(ctypes.CDLL(None), "mallopt", None)
    if adjust is not None:
        for parameter, value in _MALLOC:
            adjust(parameter, value)


def keep_what_is_loaded() -> None:
    """Have the collector of reference cycles look at less, and less often.

    What is loaded by now it does not look at again: modules and rules stay. A look at everything took 70 ms, in which
    nobody is answered, and comes again and again under load. At what is new it looks after 10,000 objects, not 700:
    a batch of SVIDs makes thousands that are gone with it, and looking at them was 1.5 us of every SVID.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_NEW_OBJECTS)


def announce(state: pathlib.Path, name: str, addresses: Mapping[str, str]) -> None:
    """Write ``STATE/run/NAME.json`` atomically and print ``ready NAME``."""
    run = state / "run"
    run.mkdir(mode=0o700, parents=True, exist_ok=True)
    target = run / f"{name}.json"
    draft = run / f".{name}.{os.getpid()}"
    draft.write_text(json.dumps({"pid": os.getpid(), "addresses": dict(addresses)}), "utf-8")
    draft.replace(target)
    render.line(f"ready {name}")
    with contextlib.suppress(OSError, ValueError):
        os.fsync(1)
    import sys  # noqa: PLC0415  flush through a pipe: whoever waits for the line must see it now

    sys.stdout.flush()


def retire(state: pathlib.Path, name: str) -> None:
    """Remove ``STATE/run/NAME.json``."""
    (state / "run" / f"{name}.json").unlink(missing_ok=True)


@contextlib.contextmanager
def only_one(state: pathlib.Path, name: str) -> Iterator[None]:
    """Hold a lock so that one process of a name runs on a state directory.

    Raises Conflict when another one holds it.
    """
    run = state / "run"
    run.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle = os.open(run / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as err:
        os.close(handle)
        raise Conflict("LM5205", name=name, state=str(state)) from err
    try:
        yield
    finally:
        os.close(handle)


def stop_signalled() -> threading.Event:
    """An event that SIGTERM and SIGINT set, for a process without an event loop.

    A thread waits for the signals: a handler would run while main waits for the event, which holds its lock then.
    To be called before other threads begin.
    """
    numbers = {signal.SIGTERM, signal.SIGINT}
    event = threading.Event()
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)

    def take() -> None:
        signal.sigwait(numbers)
        event.set()

    threading.Thread(target=take, daemon=True).start()
    return event


def stop_event(loop: asyncio.AbstractEventLoop) -> asyncio.Event:
    """An event that SIGTERM and SIGINT set."""
    event = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, event.set)
    return event
