"""pcap → flow table, beside dpkt, scapy, nfstream and tshark in one run, by CPU time of one process.

python benchmarks/pcap.py [--packets N] [--rounds N] [--peers PYTHON]: PYTHON is an interpreter that has dpkt and
nfstream (`pip install dpkt nfstream`); what is not there is left out, and said. Limen's table has packets, bytes,
first and last time and outcome of each conversation, as rows. The slow ones read a part of the file, and say so.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile

import numpy as np

HERE = pathlib.Path(__file__).parent
BUDGET_PER_S = 2_000_000
# what dpkt did a second where the budget was set: the budget as a ratio holds on other, and on busy, machines
# (docs/adr/0035-budgets-elsewhere.md)
DPKT_THERE_PER_S = 91_000
FLOWS, SERVICES, SNAPLEN = 20_000, 200, 128

LIMEN = """
import pathlib, sys, time, json
from learner.sources.ledger import Ledger
from learner.sources.pcap import read_table
begin = time.process_time()
ledger = Ledger(file="x", source="pcap")
rows = read_table(pathlib.Path(sys.argv[1]), [], ledger)
print(json.dumps([ledger.seen, len(rows), time.process_time() - begin]))
"""
DPKT = """
import dpkt, sys, time, json
begin = time.process_time()
flows, packets = {}, 0
with open(sys.argv[1], "rb") as file:
    for at, data in dpkt.pcap.Reader(file):
        packets += 1
        ip = dpkt.ethernet.Ethernet(data).data
        tcp = ip.data
        a, b = (ip.src, tcp.sport), (ip.dst, tcp.dport)
        found = flows.setdefault((a, b) if a < b else (b, a), [0, 0, at, at])
        found[0] += 1
        found[1] += ip.len + 14
        found[3] = at
print(json.dumps([packets, len(flows), time.process_time() - begin]))
"""
SCAPY = """
import sys, time, json
from scapy.utils import PcapReader
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether
begin = time.process_time()
flows, packets = {}, 0
for packet in PcapReader(sys.argv[1]):
    packets += 1
    ip, tcp = packet[IP], packet[TCP]
    a, b = (ip.src, tcp.sport), (ip.dst, tcp.dport)
    found = flows.setdefault((a, b) if a < b else (b, a), [0, 0])
    found[0] += 1
    found[1] += packet.wirelen or 0
print(json.dumps([packets, len(flows), time.process_time() - begin]))
"""
NFSTREAM = """
import sys, json, resource
from nfstream import NFStreamer
def main():
    streamer = NFStreamer(source=sys.argv[1], n_dissections=0, n_meters=1, statistical_analysis=False,
                          idle_timeout=100000, active_timeout=100000)
    rows = packets = 0
    for flow in streamer:
        rows += 1
        packets += flow.bidirectional_packets
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    used = sum(usage.ru_utime + usage.ru_stime for usage in usages)
    print(json.dumps([packets, rows, used]))
if __name__ == "__main__":
    main()
"""


def generate(path: pathlib.Path, packets: int, seed: int = 1) -> None:
    """Whole TCP conversations over Ethernet and IPv4, interleaved over an hour, cut at a snap length of 128."""
    chance = np.random.default_rng(seed)
    flows = max(1, FLOWS * packets // 1_000_000)
    turns = packets // flows
    flow, turn = np.repeat(np.arange(flows), turns), np.tile(np.arange(turns), flows)
    at = (chance.random(flows) * 3600)[flow] + turn * (chance.random(flows) * 2)[flow]
    order = np.argsort(at, kind="stable")
    flow, turn, at = flow[order], turn[order], at[order] + 1_780_000_000
    count = len(flow)
    is_back, is_bare = turn % 2 == 1, (turn < 3) | (turn >= turns - 2)
    size = np.where(is_bare, 60, chance.integers(100, 1515, count))
    kept = np.minimum(size, SNAPLEN)
    head = np.zeros(count, _RECORD)
    head["seconds"], head["fraction"] = at.astype(np.int64), (at % 1 * 1e6).astype(np.int64)
    head["kept"], head["wire"], head["kind"], head["version"], head["ttl"] = kept, size, 0x0800, 0x45, 64
    head["length"], head["protocol"], head["offset"] = size - 14, 6, 0x50
    client = 0x0A000000 + chance.integers(0, SERVICES, flows)[flow]
    server = 0x0A010000 + chance.integers(0, SERVICES, flows)[flow]
    sport = (32768 + np.arange(flows) % 28000)[flow]
    dport = np.array([80, 443, 5432, 6379, 8080])[chance.integers(0, 5, flows)][flow]
    head["source"], head["destination"] = np.where(is_back, server, client), np.where(is_back, client, server)
    head["sport"], head["dport"] = np.where(is_back, dport, sport), np.where(is_back, sport, dport)
    head["flags"] = np.where(turn == 0, 2, np.where(turn == 1, 18, np.where(turn >= turns - 2, 17, 24)))
    head["sequence"] = flow * 100_000 + turn
    begin = np.concatenate(([0], np.cumsum(kept + 16)))
    out = chance.integers(0, 256, int(begin[-1]), dtype=np.uint8)
    rows = begin[:-1, None] + np.arange(_RECORD.itemsize)
    out[rows.ravel()] = head.view(np.uint8)
    with path.open("wb") as file:
        file.write(np.array([0xA1B2C3D4, 0x00040002, 0, 0, SNAPLEN, 1], "<u4").tobytes())
        file.write(out.tobytes())


_RECORD = np.dtype(
    [
        *((name, "<u4") for name in ("seconds", "fraction", "kept", "wire")),
        ("addresses", "u1", 12), ("kind", ">u2"), ("version", "u1"), ("tos", "u1"), ("length", ">u2"), ("id", ">u2"),
        ("fragment", ">u2"), ("ttl", "u1"), ("protocol", "u1"), ("sum", ">u2"), ("source", ">u4"),
        ("destination", ">u4"), ("sport", ">u2"), ("dport", ">u2"), ("sequence", ">u4"), ("ack", ">u4"),
        ("offset", "u1"), ("flags", "u1"), ("window", ">u2"), ("checksum", ">u2"), ("urgent", ">u2"),
    ]
)  # fmt: skip


def run(python: str, program: str, path: pathlib.Path) -> tuple[int, int, float] | None:
    """Packets, conversations and seconds of CPU that a program says it took; None where it cannot run."""
    with tempfile.NamedTemporaryFile("w", suffix=".py") as script:
        script.write(program)
        script.flush()
        environment = {"PYTHONPATH": str(HERE.parent), "PATH": "/usr/bin:/bin"}
        done = subprocess.run([python, script.name, path], capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        return None
    packets, rows, seconds = json.loads(done.stdout.splitlines()[-1])
    return int(packets), int(rows), float(seconds)


def tshark(path: pathlib.Path) -> tuple[int, int, float] | None:
    """The same of tshark: its whole CPU time, with starting."""
    if shutil.which("tshark") is None:
        return None
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = ["tshark", "-n", "-r", path, "-q", "-z", "conv,tcp"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    rows = [line.split() for line in done.stdout.splitlines() if "<->" in line]
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return sum(int(row[9]) for row in rows), len(rows), used


def main() -> int:
    """Measure, print, and write the result."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--packets", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peers", default=sys.executable)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        whole, part = pathlib.Path(folder) / "whole.pcap", pathlib.Path(folder) / "part.pcap"
        generate(whole, options.packets)
        generate(part, max(1000, options.packets // 50))
        rates: dict[str, list[float]] = {}
        counts: dict[str, tuple[int, int]] = {}
        for _ in range(options.rounds):
            for name, found in (
                ("limen", run(sys.executable, LIMEN, whole)),
                ("dpkt", run(options.peers, DPKT, part)),
                ("scapy", run(sys.executable, SCAPY, part)),
                ("nfstream", run(options.peers, NFSTREAM, whole)),
                ("tshark", tshark(whole)),
            ):
                if found is not None:
                    rates.setdefault(name, []).append(found[0] / found[2])
                    counts[name] = found[:2]
    left_out = [name for name in ("dpkt", "scapy", "nfstream", "tshark") if name not in rates]
    mine = statistics.median(rates["limen"])
    peers = {
        name: {
            "packets_per_cpu_s": round(statistics.median(found)),
            "packets": counts[name][0],
            "conversations": counts[name][1],
            "limen_is_faster_by": round(mine / statistics.median(found), 1),
        }
        for name, found in rates.items()
    }
    result = {
        "python": platform.python_version(),
        "packets": options.packets,
        "snaplen": SNAPLEN,
        "rounds": options.rounds,
        "budget_packets_per_s": BUDGET_PER_S,
        "met": mine >= BUDGET_PER_S,
        "best_packets_per_s": round(max(rates["limen"])),
        "budget_ratio_to_dpkt": round(BUDGET_PER_S / DPKT_THERE_PER_S, 1),
        "ratio_met": "dpkt" in rates and mine / statistics.median(rates["dpkt"]) >= BUDGET_PER_S / DPKT_THERE_PER_S,
        "readers": peers,
        "left_out": left_out,
    }
    for name, row in peers.items():
        rate, rows, ratio = row["packets_per_cpu_s"], row["conversations"], row["limen_is_faster_by"]
        print(f"{name:10} {rate:>12,} packets/s of CPU   {rows:>7,} conversations   limen is faster by {ratio}")
    if left_out:
        print(f"left out, not installed: {', '.join(left_out)}")
    print(f"budget {BUDGET_PER_S:,}/s: {'met' if result['met'] else 'MISSED'}")
    ratio, verdict = result["budget_ratio_to_dpkt"], "met" if result["ratio_met"] else "MISSED"
    print(f"budget of {ratio} times dpkt in the same run: {verdict}")
    (HERE / "results" / "pcap.json").write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
