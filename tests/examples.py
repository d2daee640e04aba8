"""How many examples properties try: a few in every run, `LIMEN_EXAMPLES` times as many where somebody waits for more.

`make test` takes half of each number, `.ci/run` also four times as many, `make soak` forty times.
"""

import os

FACTOR = max(0.5, float(os.environ.get("LIMEN_EXAMPLES", "0.5")))
# `make test` tries the same examples each time, so that what it says of a change is about that change; new ones are
# for those who ask for more of them
IS_REPEATABLE = "LIMEN_EXAMPLES" not in os.environ


def examples(count: int) -> int:
    """So many examples, times what was asked for."""
    return max(1, int(count * FACTOR))
