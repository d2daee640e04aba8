"""A live capture on a veth pair, beside tcpdump on the same one: packets offered, kept and dropped, and their CPU.

python benchmarks/live.py [--packets N] [--rate PACKETS_PER_S] [--seconds S]: needs root, ip, tcpdump and tcpreplay. Two
network namespaces of their own; tcpreplay sends whole TCP conversations of 60 to 1,514 bytes at the named rate.
What tcpreplay reached is what counts as offered: on a machine without a free core it may not reach the rate.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pathlib
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
from benchmarks.pcap import generate  # noqa: E402  it stands beside this file

BUDGET_PER_S = 200_000
A, B = f"limen-bench-{os.getpid()}-a", f"limen-bench-{os.getpid()}-b"
LIMEN = [sys.executable, "-m", "limen", "flows", "capture", "--interface", "v0", "--no-sockets", "-o", "jsonl"]


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@contextlib.contextmanager
def cable() -> Iterator[None]:
    """Two namespaces and a cable; nothing else talks on it."""
    try:
        for name in (A, B):
            ip("netns", "add", name)
        ip("link", "add", "v0", "netns", A, "type", "veth", "peer", "name", "v0", "netns", B)
        for name in (A, B):
            ip("netns", "exec", name, "sysctl", "-qw", "net.ipv6.conf.v0.disable_ipv6=1")
            ip("-n", name, "link", "set", "v0", "up")
        yield
    finally:
        for name in (A, B):
            subprocess.run(["ip", "netns", "del", name], check=False, stderr=subprocess.DEVNULL)


def watched() -> bool:
    """Whether a packet socket of the receiving namespace is bound and running."""
    done = subprocess.run(
        ["ip", "netns", "exec", B, "cat", "/proc/net/packet"], capture_output=True, text=True, check=True
    )
    return any(row.split()[5] == "1" for row in done.stdout.splitlines()[1:])


def received() -> int:
    """How many packets the receiving interface counted so far."""
    done = subprocess.run(["ip", "-n", B, "-s", "-j", "link", "show", "v0"], capture_output=True, text=True, check=True)
    return int(json.loads(done.stdout)[0]["stats64"]["rx"]["packets"])


def measure(command: list[str], path: pathlib.Path, rate: int, loops: int) -> dict[str, float | str]:
    """One reader while tcpreplay sends: what was offered, how fast, the CPU, and what the reader said at its end."""
    while watched():
        time.sleep(0.05)
    before = received()
    process = subprocess.Popen(
        ["ip", "netns", "exec", B, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=HERE.parent
    )
    while not watched():
        time.sleep(0.05)
    # what starting took is not what capturing takes
    started = cpu(process.pid)
    send = ["tcpreplay", "--preload-pcap", f"--pps={rate}", "--pps-multi=200", f"--loop={loops}", "-i", "v0", str(path)]
    sent = subprocess.run(["ip", "netns", "exec", A, *send], capture_output=True, text=True, check=True).stdout
    used = cpu(process.pid) - started
    offered = received() - before
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    found = re.search(r"([0-9.]+) pps", sent)
    return {
        "offered": offered,
        "offered_per_s": float(found[1]) if found else 0.0,
        "cpu_s": round(used, 3),
        "said": (out.decode().splitlines() or [""])[0] if command is LIMEN else err.decode(),
    }


def cpu(pid: int) -> float:
    """Seconds of CPU that a process used so far, its own and the kernel's for it."""
    words = pathlib.Path(f"/proc/{pid}/stat").read_text("ascii").rsplit(")", 1)[1].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def main() -> int:
    """Measure, print, and write the result."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--packets", type=int, default=200_000)
    parser.add_argument("--rate", type=int, default=BUDGET_PER_S)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    rows = []
    loops = max(1, options.rate * options.seconds // options.packets)
    with tempfile.TemporaryDirectory() as folder, cable():
        path = pathlib.Path(folder) / "sent.pcap"
        generate(path, options.packets)
        dump = ["tcpdump", "-Z", "root", "-n", "-i", "v0", "-s", "256", "-w", "/dev/null"]
        for _ in range(options.rounds):
            mine = measure(LIMEN, path, options.rate, loops)
            account = json.loads(str(mine.pop("said")))["capture"]
            mine |= {"reader": "limen", "kept": account["seen"], "dropped": account["lost"]}
            theirs = measure(dump, path, options.rate, loops)
            said = str(theirs.pop("said"))
            theirs["reader"] = "tcpdump, to nowhere"
            for name, text in (("kept", "packets captured"), ("dropped", "packets dropped by kernel")):
                found = re.search(rf"([0-9]+) {text}", said)
                theirs[name] = int(found[1]) if found else -1
            rows += [mine, theirs]
    for row in rows:
        offered, cpu_s = float(row["offered"]), float(row["cpu_s"])
        row["cpu_us_per_packet"] = round(cpu_s / offered * 1e6, 3) if offered else 0.0
        rate, kept, dropped = (float(row[name]) for name in ("offered_per_s", "kept", "dropped"))
        print(f"{row['reader']:20} {offered:>10,.0f} offered at {rate:>9,.0f}/s   kept {kept:>10,.0f}", end="")
        print(f"   dropped {dropped:>7,.0f}  {row['cpu_us_per_packet']} µs of CPU each")
    ours = [row for row in rows if row["reader"] == "limen"]
    fast = [row for row in ours if float(row["offered_per_s"]) >= BUDGET_PER_S * 0.99]
    met = bool(fast) and all(row["dropped"] == 0 for row in fast)
    verdict = "met" if met else "MISSED" if fast else "NOT REACHED by the sender"
    print(f"budget {BUDGET_PER_S:,}/s with no drops: {verdict}")
    result = {
        "python": platform.python_version(),
        "load_average": os.getloadavg()[0],
        "rate": options.rate,
        "budget_packets_per_s": BUDGET_PER_S,
        "met": met,
        "rounds": rows,
    }
    (HERE / "results" / "live.json").write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
