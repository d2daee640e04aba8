"""How many examples properties try: a few in every run, `LIMEN_EXAMPLES` times as many where somebody waits for more.

`make test` takes half of each number, in `.ci/run` twice as many, `make soak` forty times.
"""

import os

FACTOR = max(0.5, float(os.environ.get("LIMEN_EXAMPLES", "0.5")))
# the same examples are tried each time, so that what is said of a change is about that change: one that chance finds
# elsewhere keeps nobody from landing; new ones are for `make soak`
IS_REPEATABLE = "LIMEN_SOAK" not in os.environ


def examples(count: int) -> int:
    """So many examples, times what was asked for."""
    return max(1, int(count * FACTOR))
