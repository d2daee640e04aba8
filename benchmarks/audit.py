"""What the audit log costs: `python benchmarks/audit.py [--count N] [--rounds N] [--save]`.

Records of a decision's size are masked and written, go in batches of 2,000 through the spool (fsync), are read there,
signed and acknowledged, and go into the log (strict reading, tiles, fsync, signed checkpoint): that is end to end, on
one core, in its CPU time and by the wall clock, which has the disk's part in it. Hashing and tiling is what the tree
alone takes of it. Then the log is opened again, verified, and records of it are proved. Rates are medians of rounds,
each with a spool and a log of its own. Budgets: 20,000 records/s end to end, 100,000/s hashed and tiled, a proof below
100 ms.
"""

from __future__ import annotations

import argparse
import datetime as dt
import gc
import os
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit.log import Log
from audit.merkle import leaf_hash
from audit.record import mask, record, to_bytes
from audit.spool import Spool, sign_batch
from audit.verify import prove, verify_log
from benchmarks.speed import save

BATCH = 2_000
PROOFS = 200
END_TO_END_PER_S = 20_000
TILED_PER_S = 100_000
PROOF_MS = 100.0
ORIGIN = "bench.test/audit"
T = TypeVar("T")
START = dt.datetime(2026, 11, 24, 12, 0, tzinfo=dt.UTC)


def made(number: int) -> dict[str, object]:
    """A record as a sidecar makes it."""
    return record(
        "decision",
        now=START + dt.timedelta(milliseconds=number),
        random=os.urandom(10),
        source="spiffe://bench.test/ns/shop/sa/db",
        direction="inbound",
        caller="spiffe://bench.test/ns/shop/sa/cart",
        destination="spiffe://bench.test/ns/shop/sa/db",
        port=8080,
        peer_ip="10.0.0.1",
        protocol="http",
        method="GET",
        host="db.bench.test",
        path=f"/orders/{number}?page=1",
        decision="allow",
        policy_decision="allow",
        mode="enforce",
        snapshot="sha256:" + "a" * 64,
        tier="app",
        policy="shop-db",
        rule="orders",
        code="LM2301",
        candidate=None,
    )


class Cost(NamedTuple):
    """Seconds of a step: of this process's CPU, and by the wall clock."""

    cpu: float
    wall: float


def timed(call: Callable[[], T]) -> tuple[T, Cost]:
    """What a call returns, and what it cost."""
    begin, cpu = time.perf_counter(), time.process_time()
    found = call()
    return found, Cost(time.process_time() - cpu, time.perf_counter() - begin)


class Tree(Log):
    """A log that can hash and tile without a disk."""

    def tile(self, records: list[bytes]) -> int:
        """Hash records, put them into tiles and bundles, and throw those away; returns how many there were."""
        writes: dict[str, bytes] = {}
        for found in records:
            self._grow(leaf_hash(found), found, writes)
        return len(writes)


def one_round(folder: pathlib.Path, plain: list[dict[str, object]]) -> tuple[dict[str, Cost], pathlib.Path]:
    """Every step of the way into a log; returns the costs and where the log is."""
    key, mask_key = Ed25519PrivateKey.generate(), bytes(32)
    costs: dict[str, Cost] = {}
    records, costs["mask and write"] = timed(lambda: [to_bytes(mask(item, mask_key)) for item in plain])  # type: ignore[arg-type]  # a mask of a record is one
    batches = [records[start : start + BATCH] for start in range(0, len(records), BATCH)]
    spool = Spool(folder / "spool")
    _, costs["spool: append, fsync"] = timed(lambda: [spool.append(batch) for batch in batches])
    _, costs["spool: read, sign, acknowledge"] = timed(lambda: drain(spool, key))
    spool.close()
    log = Log.open(folder / "log", key=key, origin=ORIGIN)
    _, costs["log: append, fsync, checkpoint"] = timed(lambda: [log.append(batch) for batch in batches])
    costs["end to end"] = Cost(*map(sum, zip(*costs.values(), strict=True)))
    log.close()
    tree = Tree.open(folder / "tree", key=key, origin=ORIGIN)
    assert isinstance(tree, Tree)
    _, costs["hash and tile alone"] = timed(lambda: tree.tile(records))
    tree.close()
    again, costs["log: open again"] = timed(lambda: Log.open(folder / "log", key=key, origin=ORIGIN))
    again.close()
    return costs, folder / "log"


def singles(folder: pathlib.Path) -> float:
    """How many records a second go into a log one by one, by the wall clock."""
    log = Log.open(folder / "singles", key=Ed25519PrivateKey.generate(), origin=ORIGIN)
    records = [to_bytes(made(number)) for number in range(200)]
    _, cost = timed(lambda: [log.append([item]) for item in records])
    log.close()
    return len(records) / cost.wall


def proofs(directory: pathlib.Path, public: str, names: list[str]) -> tuple[float, float]:
    """The median and the worst time of a proof by id, by a reader that knows nothing yet, in ms."""
    costs = [timed(lambda name=name: prove(directory, public, name))[1].wall * 1e3 for name in names]  # type: ignore[misc]  # mypy cannot infer lambdas with defaults
    return statistics.median(costs), max(costs)


def drain(spool: Spool, key: Ed25519PrivateKey) -> None:
    """Read everything that is spooled, sign it and acknowledge it, as an agent does."""
    previous = ""
    while True:
        cursor, records = spool.read()
        if not records:
            return
        _, previous = sign_batch(key, "bench", spool.sequence + 1, records, previous)
        spool.ack(cursor, sequence=spool.sequence + 1, previous=previous)


def folders(rounds: int) -> Iterator[pathlib.Path]:
    """A folder for each round, on the disk that LIMEN_BENCH_DIR names."""
    for _ in range(rounds):
        with tempfile.TemporaryDirectory(dir=os.environ.get("LIMEN_BENCH_DIR")) as folder:
            yield pathlib.Path(folder)


def judged(name: str, measured: float, budget: float, *, is_rate: bool = True) -> dict[str, object]:
    """A verdict, printed."""
    is_met = measured >= budget if is_rate else measured < budget
    print(f"budget, {name}: {measured:,.0f} of {budget:,.0f}: {'met' if is_met else 'MISSED'}")
    return {"measured": round(measured, 1), "budget": budget, "met": is_met}


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    plain = [made(number) for number in range(options.count)]
    gc.collect()
    gc.freeze()
    found: dict[str, list[Cost]] = {}
    one_by_one: list[float] = []
    middle, worst = [], []
    for folder in folders(options.rounds):
        costs, log = one_round(folder, plain)
        for name, cost in costs.items():
            found.setdefault(name, []).append(cost)
        one_by_one.append(singles(folder))
        public = (log / "key.pub").read_text("utf-8")
        checked, cost = timed(lambda log=log, public=public: verify_log(log, public))  # type: ignore[misc]  # as above
        assert checked.is_good
        found.setdefault("verify", []).append(cost)
        names = [str(plain[number]["id"]) for number in range(0, options.count, max(1, options.count // PROOFS))]
        each = proofs(log, public, names)
        middle.append(each[0])
        worst.append(each[1])
    rows: dict[str, dict[str, int]] = {}
    for name, several in found.items():
        cpu, wall = (statistics.median(options.count / getattr(cost, of) for cost in several) for of in Cost._fields)
        rows[name] = {"per_cpu_s": round(cpu), "per_s": round(wall)}
        print(f"{name:34} {cpu:10,.0f} per second of CPU {1e6 / cpu:7.1f} us   {wall:10,.0f}/s")
    single, proof, most = statistics.median(one_by_one), statistics.median(middle), max(worst)
    print(f"{'log: one record at a time':34} {single:10,.0f}/s")
    print(f"{'proof by id, cold reader':34} {proof:10.2f} ms median {most:8.2f} ms worst")
    budgets = {
        "end to end, CPU of one core": judged(
            "end to end, CPU of one core", rows["end to end"]["per_cpu_s"], END_TO_END_PER_S
        ),
        "end to end, wall clock": judged("end to end, wall clock", rows["end to end"]["per_s"], END_TO_END_PER_S),
        "hash and tile": judged("hash and tile", rows["hash and tile alone"]["per_cpu_s"], TILED_PER_S),
        "proof, worst, ms": judged("proof, worst, ms", most, PROOF_MS, is_rate=False),
    }
    if options.save:
        save(
            "audit",
            {
                "count": options.count,
                "batch": BATCH,
                "rounds": options.rounds,
                "rows": rows,
                "one_by_one_per_s": round(single),
                "proof_ms": {"median": round(proof, 2), "worst": round(most, 2)},
                "budgets": budgets,
            },
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
