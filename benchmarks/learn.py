"""From recorded flows to a proposal: `python benchmarks/learn.py [--flows N] [--save]`.

A file of flows, one JSON object a line: thirty days, 200 services with three replicas each, 1,000 edges, 4,000 kinds
of calls, identifiers in their paths. Seconds from the file to the written tree with its risk (`limen learn propose`),
reading included; then with the history of thirty days and one day more. The file is written by DuckDB to a directory
that goes again. Budgets: 10 s for 1,000,000 flows, 1 s for the day.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import pathlib
import resource
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import duckdb

from benchmarks.speed import save
from limen.__main__ import run

BUDGET_S = 10.0
DAY_BUDGET_S = 1.0
DAYS = 30


def write(file: pathlib.Path, count: int, first_day: int, days: int) -> None:
    """So many flows of some days, in the order of time."""
    duckdb.execute(
        f"""
        COPY (
            SELECT strftime(TIMESTAMP '2026-09-01' + to_days({first_day})
                       + to_microseconds((i * {days * 86_400_000_000 // count})::BIGINT),
                       '%Y-%m-%dT%H:%M:%S.%fZ') AS start,
                   'spiffe://bench.test/ns/shop/sa/s' || (hash(i) % 200) AS source,
                   'spiffe://bench.test/ns/shop/sa/s' || ((hash(i) % 200) * 7 + hash(i + 9) % 5 + 1) % 200
                       AS destination,
                   8080 AS destination_port, 'http' AS protocol,
                   ['GET', 'POST'][1 + (hash(i + 5) % 2)::INT] AS method,
                   CASE WHEN hash(i + 3) % 4 = 0 THEN '/healthz'
                        ELSE '/api/v1/items/' || hash(i + 4) % 100000 END AS path,
                   200 AS status, true AS established, 'r' || hash(i + 1) % 3 AS replica, 'v1' AS version,
                   'sidecar' AS sensor
            FROM range({count}) AS rows(i)
        ) TO '{file}' (FORMAT json)
        """
    )


def timed(*arguments: str) -> tuple[float, float]:
    """Wall-clock seconds and seconds of the processor that a command takes."""
    wall, cpu = time.perf_counter(), time.process_time()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        status = run(["learn", "propose", "-o", "json", *arguments])
    assert status == 0, status
    return time.perf_counter() - wall, time.process_time() - cpu


def yard(file: pathlib.Path) -> float:
    """Seconds of the processor that the standard library alone takes to parse the lines, in the same run."""
    cpu = time.process_time()
    with file.open("rb") as lines:
        for line in lines:
            json.loads(line)
    return time.process_time() - cpu


def main() -> int:
    """Print the table; 1 when a budget is exceeded (scaled to the number of flows)."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flows", type=int, default=1_000_000)
    parser.add_argument("--save", action="store_true")
    chosen = parser.parse_args()
    day = chosen.flows // DAYS
    with tempfile.TemporaryDirectory() as folder:
        place = pathlib.Path(folder)
        write(place / "all.jsonl", chosen.flows, 0, DAYS)
        write(place / "day.jsonl", day, DAYS, 1)
        size = (place / "all.jsonl").stat().st_size
        timed("--from", str(place / "day.jsonl"), "--out", str(place / "warm"))
        whole = timed("--from", str(place / "all.jsonl"), "--out", str(place / "a"), "--history", str(place / "h"))
        more = timed("--from", str(place / "day.jsonl"), "--out", str(place / "b"), "--history", str(place / "h"))
        kept = (place / "h").stat().st_size
        yardstick = yard(place / "all.jsonl")
    rows = {
        "flows": chosen.flows,
        "bytes": size,
        "whole": {"wall_s": round(whole[0], 2), "cpu_s": round(whole[1], 2), "budget_s": BUDGET_S},
        "one_day_more": {
            "flows": day, "wall_s": round(more[0], 2), "cpu_s": round(more[1], 2), "budget_s": DAY_BUDGET_S,
        },
        "json_loads_of_every_line_cpu_s": round(yardstick, 2),
        "whole_over_json_loads": round(whole[1] / yardstick, 2),
        "history_bytes": kept,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
    }  # fmt: skip
    for name, value in rows.items():
        print(f"{name:<14} {value}")
    if chosen.save:
        save("learn", {"what": (__doc__ or "").partition("\n\n")[0], **rows})
    return int(whole[1] > BUDGET_S * max(1.0, chosen.flows / 1e6) or more[1] > DAY_BUDGET_S * max(1.0, day / 33_333))


if __name__ == "__main__":
    sys.exit(main())
