"""From a changed identity rule to the SVID at a waiting stream: `python benchmarks/change.py [--count N] [--save]`.

A real `limen up` with 100,000 entries by default, one of them for the process that waits with an open FetchX509SVID
call. Its entry is changed by replacing the file, as editors do, again and again; measured is the time from before the
file is replaced to the answer that has the new SPIFFE ID, by one clock. Also how long the server takes to start with
that file, and the CPU time that server and agent use in ten idle seconds with it and with one entry.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from benchmarks.entries import text
from benchmarks.newprocess import ROOT, percentile
from benchmarks.speed import save

WAITER = r"""
import sys, time, grpc
from mesh.proto import workload_pb2 as pb, workload_pb2_grpc as rpc
stub = rpc.SpiffeWorkloadAPIStub(grpc.insecure_channel("unix:" + sys.argv[1]))
for answer in stub.FetchX509SVID(pb.X509SVIDRequest(), metadata=(("workload.spiffe.io", "true"),)):
    print(time.monotonic(), answer.svids[0].spiffe_id, flush=True)
"""
IDLE_S = 10.0


@contextlib.contextmanager
def installation(count: int, folder: pathlib.Path) -> Iterator[tuple[pathlib.Path, float]]:
    """A running `limen up` whose rules are this many entries and that of this user; with how long it took to start."""
    state = folder / f"s{count}"
    state.mkdir()
    write(state, text(count) if count else "rules:\n", 0)
    begin = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "limen", "--state", str(state), "up"],
        cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        while not (state / "run" / "agent.json").exists():
            if process.poll() is not None or time.monotonic() - begin > 180:
                raise AssertionError("it did not start")
            time.sleep(0.05)
        yield state, time.monotonic() - begin
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def write(state: pathlib.Path, entries: str, number: int) -> float:
    """Replace the file by one whose last entry is another; return when that began."""
    mine = f"- id: mine\n  match: {{'unix:uid': '{os.getuid()}'}}\n  spiffe_id: /mine/v{number}\n  direct: true\n"
    draft = state / "draft.yaml"
    draft.write_text(entries + mine, "utf-8")
    begin = time.monotonic()
    draft.replace(state / "identities.yaml")
    return begin


def cpu_seconds(state: pathlib.Path) -> float:
    """The CPU time of server and agent so far."""
    found = 0.0
    for name in ("server", "agent"):
        pid = json.loads((state / "run" / f"{name}.json").read_text("utf-8"))["pid"]
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
        found += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return found


def idle(state: pathlib.Path) -> float:
    """CPU milliseconds a second of server and agent while nothing happens."""
    time.sleep(3)
    begin = cpu_seconds(state)
    time.sleep(IDLE_S)
    return (cpu_seconds(state) - begin) / IDLE_S * 1e3


def changes(state: pathlib.Path, entries: str, count: int) -> list[float]:
    """Milliseconds from a changed file to the SVID, change by change; the first does not count."""
    waiter = subprocess.Popen(
        [sys.executable, "-c", WAITER, str(state / "agent.sock")], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert waiter.stdout is not None
    found = []
    try:
        waiter.stdout.readline()
        for number in range(1, count + 2):
            begin = write(state, entries, number)
            moment, name = waiter.stdout.readline().split()
            while not name.endswith(f"/v{number}"):
                moment, name = waiter.stdout.readline().split()
            found.append((float(moment) - begin) * 1e3)
    finally:
        waiter.kill()
        waiter.wait()
        waiter.stdout.close()
    return found[1:]


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--changes", type=int, default=30)
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    row: dict[str, object] = {"count": options.count, "changes": options.changes}
    with tempfile.TemporaryDirectory() as folder:
        for count in (0, options.count):
            entries = text(count) if count else "rules:\n"
            with installation(count, pathlib.Path(folder)) as (state, start):
                rest = idle(state)
                found = changes(state, entries, options.changes)
            p50, p99 = round(statistics.median(found), 1), round(percentile(found, 0.99), 1)
            print(f"{count:7} entries: started in {start:.1f} s; idle {rest:.1f} ms of CPU a second")
            print(f"                 changed file to SVID  p50 {p50:7.1f} ms   p99 {p99:7.1f} ms")
            row[f"with_{count}"] = {
                "p50_ms": p50, "p99_ms": p99, "start_s": round(start, 1), "idle_cpu_ms_per_s": round(rest, 1)
            }  # fmt: skip
    load = os.getloadavg()[0]
    print(f"load {load:.1f}")
    if options.save:
        save("change", {**row, "load": round(load, 2)})
    return 0


if __name__ == "__main__":
    sys.exit(main())
