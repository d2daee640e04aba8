"""How many examples properties try: a few in every run, `LIMEN_EXAMPLES` times as many where somebody waits for more.

`make test` takes each number as it stands, `.ci/run` four times as many, `make soak` forty times.
"""

import os

FACTOR = max(1, int(os.environ.get("LIMEN_EXAMPLES", "1")))


def examples(count: int) -> int:
    """So many examples, times what was asked for."""
    return count * FACTOR
