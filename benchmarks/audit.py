"""What the audit log costs: `python -m benchmarks.audit [RECORDS]`, or `python benchmarks/audit.py`.

Records of a decision's size go in batches of 2,000 through the spool (fsync) and into the log (tiles, fsync, signed
checkpoint), one core; then the log is opened again, verified, and records of it are proved. Seconds are wall time: the
disk's part is in them. Budgets: 20,000 records/s into the log, a proof below 100 ms.
"""

from __future__ import annotations

import datetime as dt
import os
import pathlib
import statistics
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit.log import Log
from audit.merkle import leaf_hash
from audit.record import mask, record, to_bytes
from audit.spool import Spool, sign_batch
from audit.verify import prove, verify_log

BATCH = 2_000
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


def rate(name: str, count: int, seconds: float) -> None:
    print(f"{name:34} {count / seconds:12,.0f} /s   {seconds / count * 1e6:8.1f} µs each")


def timed(call: object) -> tuple[object, float]:
    assert callable(call)
    start = time.perf_counter()
    found = call()
    return found, time.perf_counter() - start


def main(count: int) -> None:
    key, mask_key = Ed25519PrivateKey.generate(), bytes(32)
    plain = [made(number) for number in range(count)]
    records, seconds = timed(lambda: [to_bytes(mask(item, mask_key)) for item in plain])  # type: ignore[arg-type]
    assert isinstance(records, list)
    print(f"{count:,} records of {len(records[0])} bytes, batches of {BATCH:,}")
    rate("mask and write as JSON", count, seconds)
    rate("leaf hashes alone", count, timed(lambda: [leaf_hash(item) for item in records])[1])
    batches = [records[start : start + BATCH] for start in range(0, count, BATCH)]
    with tempfile.TemporaryDirectory(dir=os.environ.get("LIMEN_BENCH_DIR")) as folder:
        spool = Spool(pathlib.Path(folder) / "spool")
        rate("spool: append with fsync", count, timed(lambda: [spool.append(batch) for batch in batches])[1])
        rate("spool: read, sign, acknowledge", count, timed(lambda: drain(spool, key))[1])
        spool.close()
        directory = pathlib.Path(folder) / "log"
        log = Log.open(directory, key=key, origin="bench.test/audit")
        rate("log: append, fsync, checkpoint", count, timed(lambda: [log.append(batch) for batch in batches])[1])
        singles = [to_bytes(made(count + number)) for number in range(200)]
        rate("log: one record at a time", 200, timed(lambda: [log.append([item]) for item in singles])[1])
        log.close()
        again, seconds = timed(lambda: Log.open(directory, key=key, origin="bench.test/audit"))
        assert isinstance(again, Log)
        again.close()
        rate("log: open again", count, seconds)
        public = (directory / "key.pub").read_text()
        checked, seconds = timed(lambda: verify_log(directory, public))
        assert checked.is_good  # type: ignore[attr-defined]
        rate("verify", count, seconds)
        step = max(1, count // 200)
        ids = [str(plain[number]["id"]) for number in range(0, count, step)]
        costs = [timed(lambda name=name: prove(directory, public, name))[1] * 1e3 for name in ids]
        worst, middle = max(costs), statistics.median(costs)
        print(f"{'proof by id, cold reader':34} {middle:8.2f} ms median {worst:8.2f} ms worst of {len(costs)}")


def drain(spool: Spool, key: Ed25519PrivateKey) -> None:
    previous = ""
    while True:
        cursor, records = spool.read()
        if not records:
            return
        _, previous = sign_batch(key, "bench", spool.sequence + 1, records, previous)
        spool.ack(cursor, sequence=spool.sequence + 1, previous=previous)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
