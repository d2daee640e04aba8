"""Proofs in a log of ten million records: `python benchmarks/proofs.py [--records N]`.

The log is made as `audit.log` makes one, tile by tile, but without its journal: what is measured is how long a reader
that knows nothing yet takes to find a record by its id and to prove it. Records are as long as decision records of a
native sidecar are without headers. LIMEN_BENCH_DIR names the disk; ten million records take about 4 GB there.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import pathlib
import random
import statistics
import sys
import tempfile
import time

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit.checkpoint import Checkpoint, VerifierKey, sign_checkpoint
from audit.frontier import Frontier
from audit.merkle import leaf_hash
from audit.record import record, to_bytes
from audit.shelf import write
from audit.verify import prove
from mesh.ulid import new_ulid

ORIGIN = "bench.test/audit"
START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
PROOFS = 200
BUDGET_MS = 100.0


def fill(folder: pathlib.Path, key: Ed25519PrivateKey, count: int) -> list[str]:
    """Write a log of so many records, tile by tile and without a journal; some of their ids."""
    frontier, ids, writes = Frontier(), list[str](), dict[str, bytes]()
    template = to_bytes(
        record(
            "decision",
            now=START,
            random=bytes(10),
            source="bench",
            caller="spiffe://bench.test/ns/shop/sa/cart",
            destination="spiffe://bench.test/ns/shop/sa/db",
            port=8443,
            decision="allow",
            code="LM2301",
        )
    )
    old = str(json.loads(template)["id"]).encode()
    chosen = set(random.Random(1).sample(range(count), min(PROOFS, count)))  # which ones are measured
    for number in range(count):
        name = new_ulid(START + dt.timedelta(milliseconds=number), number.to_bytes(10, "big"))
        data = template.replace(old, name.encode())
        frontier.grow([leaf_hash(data)], [data], writes)
        if number in chosen:
            ids.append(name)
        if len(writes) > 500:
            for path, content in writes.items():
                write(folder / path, content)
            writes.clear()
    for path, content in (writes | frontier.unfinished()).items():
        write(folder / path, content)
    said = Checkpoint(origin=ORIGIN, size=frontier.size, root=frontier.root)
    write(folder / "checkpoint", sign_checkpoint(said, key))
    return ids


def measure(count: int, folder: pathlib.Path) -> dict[str, object]:
    """The times of proofs in a log of so many records, in ms of the wall clock."""
    key = Ed25519PrivateKey.generate()
    ids = fill(folder, key, count)
    public = str(VerifierKey(name=ORIGIN, key=key.public_key()))
    times, hashes = [], 0
    cpu = time.process_time()
    for name in ids:
        begin = time.perf_counter()
        found = prove(folder, public, name)
        times.append((time.perf_counter() - begin) * 1e3)
        path = found["proof"]
        assert isinstance(path, list)
        hashes = max(hashes, len(path))
    cpu = time.process_time() - cpu
    times.sort()
    return {
        "records": count,
        "proofs": len(times),
        "cpu_ms": round(cpu / len(times) * 1e3, 2),
        "median_ms": round(statistics.median(times), 2),
        "p99_ms": round(times[int(len(times) * 0.99)], 2),
        "worst_ms": round(times[-1], 2),
        "hashes": hashes,
        "budget_ms": BUDGET_MS,
        "met": times[-1] < BUDGET_MS,
    }


def main() -> int:
    """Measure, print, and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=10_000_000)
    parser.add_argument("--save", action="store_true", help="keep the result in benchmarks/results")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=os.environ.get("LIMEN_BENCH_DIR")) as folder:
        found = measure(given.records, pathlib.Path(folder) / "log")
    sys.stdout.write(json.dumps(found, indent=2) + "\n")
    if given.save:
        target = pathlib.Path(__file__).parent / "results" / "proofs.json"
        target.write_text(json.dumps(found, indent=2) + "\n")
    return 0 if found["met"] else 1


if __name__ == "__main__":
    sys.exit(main())
