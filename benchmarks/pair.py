"""CPU per request, memory and latency of pairs of sidecars, in one run, interleaved: native beside its peers.

    python benchmarks/pair.py --rounds 4 --seconds 2 --save benchmarks/results/pair.json

web calls db over mutual TLS 1.3; db's side decides on caller, method and path. The application is the same small
server for all. The load comes from `wrk`; the CPU of the two sidecars alone is counted, from /proc/PID/stat.
`kept`: 32 connections, the same request again and again. `varied`: the same with another path and another trace id each
time, so that nothing can be remembered. `closed`: 16 connections at once, one request each. `callers`: `kept` with a
rule that names so many. `bulk`: one connection, 256 MB. Latencies are open loop: each counts from when it was due.
`native-2-workers` has two sidecars on each side (`limen run --workers 2`): they serve more with more than two cores,
since the load and the application need some too.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import pathlib
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

from benchmarks import peers
from mesh.clock import SystemClock
from tests.enforcer.native.harness import Realm

_HERTZ = os.sysconf("SC_CLK_TCK")
BULK_BYTES = 256 * 1024 * 1024
RATES = (500, 1000, 2000)
CALLERS = (1, 100, 10_000)
LATENCY_TOO = ("nginx-tcp",)
"""Pairs that read no HTTP, and whose latencies are asked for all the same: nginx has no other that checks a caller."""
_APP = """
import asyncio, uvloop
BODY = b"HTTP/1.1 200 OK\\r\\nContent-Length: 1024\\r\\n\\r\\n" + b"x" * 1024
class App(asyncio.Protocol):
    def connection_made(self, transport): self.transport, self.rest = transport, b""
    def data_received(self, data):
        self.rest += data
        count = self.rest.count(b"\\r\\n\\r\\n")
        if self.rest.startswith(b"BULK ") and count:
            left = int(self.rest.split()[1])
            self.rest = b""
            asyncio.ensure_future(self.send(left))
        elif count:
            self.rest = self.rest[self.rest.rindex(b"\\r\\n\\r\\n") + 4:]
            self.transport.write(BODY * count)
            if b"onnection: close" in data: self.transport.close()
    async def send(self, left):
        self.free = asyncio.Event()
        self.free.set()
        part = b"x" * 65536
        while left > 0:
            await self.free.wait()
            self.transport.write(part)
            left -= len(part)
        self.transport.close()
    def pause_writing(self):
        if hasattr(self, "free"): self.free.clear()
    def resume_writing(self):
        if hasattr(self, "free"): self.free.set()
async def main():
    server = await asyncio.get_running_loop().create_server(App, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()
uvloop.run(main())
"""
_VARIED = """
local n = 0
request = function()
  n = n + 1
  local trace = string.format("00-%032x-%016x-01", n, n)
  return wrk.format("GET", "/orders/" .. (n % 50021), {["traceparent"] = trace, ["accept"] = "*/*"})
end
"""
# port, rate, seconds: latencies in microseconds, from the moment that each request was due
_OPEN_LOOP = """
import asyncio, collections, json, sys, time, uvloop
port, rate, seconds = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
REQUEST = b"GET /orders/7 HTTP/1.1\\r\\nHost: db\\r\\n\\r\\n"
free, waiting, took = collections.deque(), collections.deque(), []
class Caller(asyncio.Protocol):
    def connection_made(self, transport): self.transport, self.got, self.due = transport, 0, 0.0
    def start(self, due):
        self.due = due
        self.transport.write(REQUEST)
    def data_received(self, data):
        if not self.got: self.size = data.index(b"\\r\\n\\r\\n") + 4 + 1024
        self.got += len(data)
        if self.got < self.size: return
        self.got = 0
        took.append(time.perf_counter() - self.due)
        if waiting: self.start(waiting.popleft())
        else: free.append(self)
async def main():
    loop = asyncio.get_running_loop()
    for _ in range(32): free.append((await loop.create_connection(Caller, "127.0.0.1", port))[1])
    begin = time.perf_counter()
    for number in range(int(rate * seconds)):
        due = begin + number / rate
        while (left := due - time.perf_counter()) > 0: await asyncio.sleep(left)
        if free: free.popleft().start(due)
        else: waiting.append(due)
    while len(took) < int(rate * seconds): await asyncio.sleep(0.01)
    found = sorted(took)
    print(json.dumps([found[int(len(found) * part)] * 1e6 for part in (0.5, 0.99)]))
uvloop.run(asyncio.wait_for(main(), seconds * 3 + 20))
"""


def cpu_seconds(pids: list[int]) -> float:
    total = 0
    for pid in pids:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / _HERTZ


def memory_kib(pids: list[int]) -> dict[str, dict[str, int]]:
    """Of each side the sizes, summed over its processes."""
    found: dict[str, dict[str, int]] = {}
    for index, pid in enumerate(pids):
        name = "client" if index < len(pids) // 2 else "server"
        rows = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text("ascii").splitlines()[1:]
        sizes = {row.split(":")[0]: int(row.split()[1]) for row in rows}
        private = sizes["Private_Clean"] + sizes["Private_Dirty"]
        side = found.setdefault(name, {"rss": 0, "pss": 0, "private": 0})
        for kind, size in (("rss", sizes["Rss"]), ("pss", sizes["Pss"]), ("private", private)):
            side[kind] += size
    return found


@contextlib.contextmanager
def application() -> Iterator[int]:
    process = subprocess.Popen([sys.executable, "-c", _APP], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()


def load(port: int, pids: list[int], seconds: int, *, close: bool = False, varied: bool = False) -> dict[str, float]:
    """One run of wrk and the CPU of the sidecars meanwhile."""
    extra = ["-H", "Connection: close"] if close else []
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(_VARIED)
        script.flush()
        if varied:
            extra += ["-s", script.name]
        url = f"http://127.0.0.1:{port}/orders/7"
        before = cpu_seconds(pids)
        command = ["wrk", "-t1", f"-c{16 if close else 32}", f"-d{seconds}", *extra, url]
        out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    used = cpu_seconds(pids) - before
    count = next(int(line.split()[0]) for line in out.splitlines() if "requests in" in line)
    failures = sum(1 for line in out.splitlines() if "Non-2xx" in line)
    assert count, out
    assert not failures, out
    return {"us_per_request": used * 1e6 / count, "requests_per_s": count / seconds}


def warm(port: int) -> None:
    """Wait for a first answer, then send as many requests at once as a run will."""
    with socket.create_connection(("127.0.0.1", port), 60) as sock:
        sock.sendall(b"GET /orders/7 HTTP/1.1\r\nHost: db\r\n\r\n")
        assert sock.recv(16).startswith(b"HTTP/1.1 200"), port
    subprocess.run(["wrk", "-t1", "-c32", "-d1", f"http://127.0.0.1:{port}/orders/7"], check=True, capture_output=True)


def bulk(port: int, pids: list[int]) -> dict[str, float]:
    """One connection that brings much."""
    before, begin, got = cpu_seconds(pids), time.perf_counter(), 0
    buffer = bytearray(1 << 20)
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.sendall(b"BULK %d\r\n\r\n" % BULK_BYTES)
        while count := sock.recv_into(buffer):
            got += count
    took = time.perf_counter() - begin
    assert got == BULK_BYTES, got
    megabytes = got / 1e6
    return {"cpu_us_per_mb": (cpu_seconds(pids) - before) * 1e6 / megabytes, "mb_per_s": megabytes / took}


def latency(port: int, rate: int, seconds: int) -> dict[str, float]:
    command = [sys.executable, "-c", _OPEN_LOOP, str(port), str(rate), str(seconds)]
    p50, p99 = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return {"p50_us": p50, "p99_us": p99}


Runs = dict[str, dict[str, list[dict[str, float]]]]
SHAPES: dict[str, dict[str, Any]] = {"kept": {}, "varied": {"varied": True}, "closed": {"close": True}}


def measure(rounds: int, seconds: int, wanted: list[str]) -> dict[str, Any]:
    realm = Realm("corp.test", SystemClock().now())
    kinds = {
        kind: make
        for kind, make in (peers.HTTP_PAIRS | peers.TCP_PAIRS).items()
        if not wanted or kind in wanted
    }  # fmt: skip
    left_out = {kind: found for kind in kinds if (found := peers.missing(kind)) is not None}
    runs: Runs = {kind: {} for kind in kinds if kind not in left_out}
    out: dict[str, Any] = {"rounds": rounds, "seconds": seconds, "left_out": left_out, "pairs": {}}
    with application() as app_port, contextlib.ExitStack() as stack:
        pairs = {kind: stack.enter_context(kinds[kind](realm, app_port)) for kind in runs}
        for port, _ in pairs.values():
            warm(port)
        memory = {kind: {"after 32 connections": memory_kib(pids)} for kind, (_, pids) in pairs.items()}
        for turn in range(rounds):
            for shape, options in SHAPES.items():
                # whoever comes first in a round comes last in the next
                for kind in list(pairs) if turn % 2 == 0 else reversed(pairs):
                    if kind in peers.TCP_PAIRS and shape == "varied":
                        continue
                    runs[kind].setdefault(shape, []).append(load(*pairs[kind], seconds, **options))
            for kind in peers.TCP_PAIRS.keys() & pairs.keys():
                runs[kind].setdefault("bulk", []).append(bulk(*pairs[kind]))
            for rate in RATES:
                for kind in list(pairs) if turn % 2 == 0 else reversed(pairs):
                    if kind in peers.HTTP_PAIRS or kind in LATENCY_TOO:
                        runs[kind].setdefault(f"open loop {rate}/s", []).append(latency(pairs[kind][0], rate, seconds))
        for kind, (_, pids) in pairs.items():
            memory[kind]["after all"] = memory_kib(pids)
    if "native" in runs:
        runs |= callers(realm, rounds, seconds)
    for kind, shapes in runs.items():
        row: dict[str, Any] = {"lacks": peers.LACKS.get(kind, ""), "memory_kib": memory.get(kind, {})}
        out["pairs"][kind] = row | {shape: _summary(found) for shape, found in shapes.items()}
    out["ratios"] = _ratios(out["pairs"])
    return out


def callers(realm: Realm, rounds: int, seconds: int) -> Runs:
    """The native pair with rules that name many callers, the one that calls last."""
    runs: Runs = {}
    with application() as app_port, contextlib.ExitStack() as stack:
        pairs = {}
        for count in CALLERS:
            others = [f"spiffe://corp.test/ns/shop/sa/caller-{number}" for number in range(count - 1)]
            rule = peers.RULE | {"from": [*others, *peers.RULE["from"]]}  # type: ignore[misc]  # a list
            make = functools.partial(peers.native, rule=rule)
            pairs[f"native, {count} callers"] = stack.enter_context(make(realm, app_port))
        for port, _ in pairs.values():
            warm(port)
        for _ in range(rounds):
            for kind, (port, pids) in pairs.items():
                runs.setdefault(kind, {}).setdefault("kept", []).append(load(port, pids, seconds))
                runs[kind].setdefault("varied", []).append(load(port, pids, seconds, varied=True))
        for kind, (_, pids) in pairs.items():
            private = memory_kib(pids)["server"]["private"]
            runs[kind]["server"] = [{"private_kib": float(private)}]
    return runs


def _summary(found: list[dict[str, float]]) -> dict[str, Any]:
    """Of each number the median, and of the first, which counts, the range too."""
    out: dict[str, Any] = {name: round(statistics.median(run[name] for run in found), 1) for name in found[0]}
    first = next(iter(found[0]))
    values = [run[first] for run in found]
    return out | {"range": [round(min(values), 1), round(max(values), 1)]}


BUDGETS = (
    # what, shape, ours, theirs, at most
    ("kept-alive, L4 client and L7 server", "kept", "native", "envoy-lean", 0.6),
    ("kept-alive, both write records", "kept", "native", "envoy-logged", 0.6),
    ("kept-alive, Istio-like", "kept", "native", "envoy-istio", 0.6),
    ("kept-alive, paths and traces vary", "varied", "native", "envoy-lean", 0.6),
    ("kept-alive, HAProxy", "kept", "native", "haproxy", 2.0),
    ("one request a connection, pool on", "closed", "native", "envoy-lean", 1.0),
    ("one request a connection, Envoy pools too", "closed", "native", "envoy-pooled", 1.0),
    ("one raw TCP connection a request, resumed", "closed", "native-tcp", "envoy-tcp", 4.0),
)


def _ratios(pairs: dict[str, Any]) -> list[dict[str, Any]]:
    out = []
    for what, shape, ours, theirs, most in BUDGETS:
        if ours in pairs and theirs in pairs and shape in pairs[ours] and shape in pairs[theirs]:
            found = pairs[ours][shape]["us_per_request"] / pairs[theirs][shape]["us_per_request"]
            out.append({"what": what, "to": theirs, "ratio": round(found, 2), "budget": most, "holds": found <= most})
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=[], help="pairs by name; all of them otherwise")
    parser.add_argument("--save", type=pathlib.Path)
    options = parser.parse_args()
    found = measure(options.rounds, options.seconds, options.only)
    for kind, pair in found["pairs"].items():
        for shape, row in pair.items():
            if isinstance(row, dict) and "range" in row:
                print(f"{kind:22} {shape:18} " + "  ".join(f"{name} {value}" for name, value in row.items()))
        for when, sizes in pair["memory_kib"].items():
            print(f"{kind:22} memory {when}: {sizes}")
    for kind, program in found["left_out"].items():
        print(f"{kind:22} left out: {program} is not here")
    for row in found["ratios"]:
        verdict = "holds" if row["holds"] else "MISSED"
        print(f"{row['what']}: {row['ratio']} of {row['to']} (budget {row['budget']}: {verdict})")
    if options.save:
        options.save.write_text(json.dumps(found, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
