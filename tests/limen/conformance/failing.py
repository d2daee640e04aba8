"""Which rows fail, of a server that breaks one statement."""

import pathlib

from limen.conformance import probe, rules
from limen.conformance.row import Result, Row
from mesh.clock import SystemClock
from tests.limen.conformance.servers import served

SHORT_S = 0.05
LONG_S = 10.0
"""How long a stream has to end that will: a loaded machine takes its time."""


def rows(folder: pathlib.Path, broken: str = "") -> list[Row]:
    with served(folder, broken) as address:
        asked = probe.Probe(address, stays_s=LONG_S if broken == "W-4" else SHORT_S)
        try:
            return rules.run(asked, probe.gather(asked), SystemClock().now())
        finally:
            asked.close()


def failed(folder: pathlib.Path, broken: str = "") -> set[str]:
    return {row.id for row in rows(folder, broken) if row.result is Result.FAIL}
