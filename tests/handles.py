"""What is open in this process: a thread that another test left may open and close things of its own meanwhile."""

import contextlib
import os
import time

PATIENCE_S = 30.0


def handles() -> set[str]:
    """Every open handle, with what it is of."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        # the listing's own is closed by now
        with contextlib.suppress(FileNotFoundError):
            found.add(f"{number} {os.readlink(f'/proc/self/fd/{number}')}")
    return found


def nothing_stays_open(before: set[str]) -> bool:
    """Whether all that was opened since is closed, or is soon: what a test forgot stays as long as one waits."""
    end = time.monotonic() + PATIENCE_S
    while not handles() <= before:
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True
