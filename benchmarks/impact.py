"""The impact of a change on recorded decisions: `python benchmarks/impact.py [--flows N] [--save]`.

A file of flows, one JSON object a line, as `limen policy plan --flows` takes it: a thousand callers, a hundred paths,
four methods and statuses, every line with a moment and a sensor of its own. Wall-clock seconds from the file to the
counts, reading included; beside them the line-by-line reader on a part of the file, scaled up. The file is written by
DuckDB to a directory that goes again.
"""

from __future__ import annotations

import argparse
import itertools
import os
import pathlib
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import duckdb

from benchmarks.plan import NOW, tree, wider
from benchmarks.speed import save
from limen.cli.plan import read_flows
from limen.flowcounts import count_flows
from policyengine.analysis import plan

BUDGET_S = 60.0
PART = 50_000
CALLERS = 1000


def write(file: pathlib.Path, count: int) -> None:
    """The flows: of the callers of `benchmarks/plan.py`, to its one service."""
    duckdb.execute(
        f"""
        COPY (
            SELECT strftime(TIMESTAMP '2026-11-01' + to_milliseconds(i * 17), '%Y-%m-%dT%H:%M:%S.%fZ') AS start,
                   'spiffe://bench.test/ns/n' || (((i * 7919) % {CALLERS}) * 10 + i % 10) % 97 || '/sa/caller-'
                       || (i * 7919) % {CALLERS} AS source,
                   'spiffe://bench.test/ns/shop/sa/s0' AS destination, 8080 AS destination_port, 'http' AS protocol,
                   ['GET', 'POST', 'PUT', 'GET'][1 + (i // 7) % 4] AS method,
                   '/tenant/' || i % 10 || '/items/' || (i * 31) % 10 AS path,
                   200 + i % 4 AS status, true AS established, 'sensor-' || i % 16 AS sensor
            FROM range({count}) AS rows(i)
        ) TO '{file}' (FORMAT json)
        """
    )


def main() -> int:
    """Print the table; 1 when it takes longer than the budget allows for 10,000,000 flows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flows", type=int, default=10_000_000)
    parser.add_argument("--save", action="store_true")
    chosen = parser.parse_args()
    old = tree(10_000, 1)
    new = wider(old)
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "flows.jsonl"
        write(file, chosen.flows)
        size = file.stat().st_size
        start, busy = time.perf_counter(), time.process_time()
        found = plan(old, new, count_flows(file), NOW).impact
        seconds, cpu = time.perf_counter() - start, time.process_time() - busy
        start = time.perf_counter()
        part = plan(old, new, itertools.islice(read_flows(file), PART), NOW).impact
        by_line = (time.perf_counter() - start) * chosen.flows / PART
    counts = found.to_json()
    assert sum(int(str(value)) for value in counts.values()) == chosen.flows
    assert part.same + part.newly_allowed + part.newly_denied + part.uncertain == min(PART, chosen.flows)
    print(f"{chosen.flows:,} flows, {size / 1e9:.2f} GB, 10,000 rules: {counts}")
    print(f"counted by DuckDB, then decided: {seconds:.1f} s ({cpu:.1f} s of CPU)")
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    print(f"line by line: {by_line:.0f} s, scaled up from {PART:,} lines")
    if chosen.save:
        save(
            "impact",
            {
                "flows": chosen.flows,
                "bytes": size,
                "budget_s": BUDGET_S,
                "wall_s": round(seconds, 1),
                "cpu_s": round(cpu, 1),
                "load_average": round(os.getloadavg()[0], 1),
                "line_by_line_scaled_s": round(by_line),
                "impact": counts,
            },
        )
    return 0 if seconds <= BUDGET_S * chosen.flows / 10_000_000 or chosen.flows < 10_000_000 else 1


if __name__ == "__main__":
    sys.exit(main())
