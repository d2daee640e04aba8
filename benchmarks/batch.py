"""SVIDs a second over the batch RPC: `python benchmarks/batch.py [--count N] [--rounds N] [--signers LIST] [--save]`.

A real server process, and one agent's channel (gRPC, mutual TLS) on the loopback that asks for SVIDs in batches of
500, two batches under way: read, found among a thousand rules, minted, checked, recorded in the database and in the
audit log, answered. Every ask has a key of its own, made beforehand. Rates are by the wall clock; beside them the CPU
time of the server and its signers per SVID, and of this client, which shares the cores. Each round runs `openssl speed`
first; verdicts go by medians: on the budget, and on its share of what one core signs and verifies. By default a server
that nobody told how many signers to have is measured, then one that has none.
"""

from __future__ import annotations

import argparse
import asyncio
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

from benchmarks.speed import Budget, Limit, openssl_speed, save, verdict
from enforcer.identity import new_ask
from enforcer.join import join
from enforcer.node import Node
from enforcer.nodestate import NodeState
from limen.client import Client
from mesh.proto import node_pb2 as pb

ROOT = pathlib.Path(__file__).resolve().parent.parent
BATCH = 500
UNDER_WAY = 2
DEFAULT = "default"
RULES = 1000
BUDGET = Budget("batch", 5_000, verifies=True)
_TICKS = os.sysconf("SC_CLK_TCK")


def identities() -> str:
    """A thousand rules."""
    rules = ["rules:"]
    for place in range(RULES):
        rules += [
            f"- id: r{place}",
            f"  match: {{'unix:uid': '{place}', 'unix:path': '/opt/shop/*'}}",
            "  spiffe_id: '/ns/shop/user/{unix:uid}'",
        ]
    return "\n".join(rules) + "\n"


def asks(count: int) -> list[pb.Ask]:
    """What an agent asks for, eight facts each."""
    found = []
    for place in range(count):
        facts = [
            ("unix:uid", str(place % RULES)),
            ("unix:gid", "1000"),
            ("unix:user", f"u{place % RULES}"),
            ("unix:group", "shop"),
            ("unix:path", "/opt/shop/bin/service"),
            ("unix:basename", "service"),
            ("unix:sha256", "ab" * 32),
            ("systemd:unit", "shop.service"),
        ]
        found.append(new_ask(str(place), facts)[0])
    return found


def cpu_s(pid: int) -> float:
    """The CPU time of a process and of its children that still run."""
    total = 0.0
    for found in [pid, *children(pid)]:
        try:
            fields = pathlib.Path(f"/proc/{found}/stat").read_text("ascii").rpartition(")")[2].split()
        except OSError:
            continue
        total += (int(fields[11]) + int(fields[12])) / _TICKS
    return total


def children(pid: int) -> Iterator[int]:
    """The children of a process; a thread may end meanwhile."""
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            yield from map(int, (task / "children").read_text("ascii").split())


class Server:
    """A server process in a state of its own."""

    def __init__(self, state: pathlib.Path, signers: str) -> None:
        (state / "identities.yaml").write_text(identities(), "utf-8")
        command = [sys.executable, "-m", "limen", "--state", str(state), "server", "--trust-domain", "bench.test"]
        if signers != DEFAULT:
            command += ["--signers", signers]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self.process.stdout is not None
        if self.process.stdout.readline() != "ready server\n":
            raise AssertionError("the server did not start")
        addresses = json.loads((state / "run" / "server.json").read_text("utf-8"))["addresses"]
        token = Client(state / "server.sock").call("POST", "/v1/tokens", {})["token"]
        self.node: NodeState = join(addresses["tls"], token)

    def stop(self) -> None:
        """End it."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)


async def ask_all(node: Node, wanted: list[pb.Ask]) -> None:
    """Ask for all, with some batches under way."""
    batches = [wanted[begin : begin + BATCH] for begin in range(0, len(wanted), BATCH)]

    async def some(first: int) -> None:
        for batch in batches[first::UNDER_WAY]:
            answers = await node.issue(batch)
            assert len(answers) == len(batch)
            assert all(not answer.code and answer.chain for answer in answers)

    async with asyncio.TaskGroup() as tasks:
        for first in range(UNDER_WAY):
            tasks.create_task(some(first))


async def measure(signers: str, count: int, rounds: int, limits: list[Limit]) -> dict[str, object]:
    """Several rounds with so many signers; adds the limit of each."""
    with tempfile.TemporaryDirectory() as folder:
        server = Server(pathlib.Path(folder), signers)
        try:
            node = Node(server.node)
            wanted = asks(count)
            await ask_all(node, wanted[:BATCH])
            rates, costs, own = [], [], []
            for _ in range(rounds):
                limit = openssl_speed()
                if limit is not None:
                    limits.append(limit)
                begin, cpu, mine = time.perf_counter(), cpu_s(server.process.pid), time.process_time()
                await ask_all(node, wanted)
                rates.append(count / (time.perf_counter() - begin))
                costs.append((cpu_s(server.process.pid) - cpu) / count * 1e6)
                own.append((time.process_time() - mine) / count * 1e6)
            await node.close()
        finally:
            server.stop()
    return {
        **BUDGET.judge(rates, limits),
        "server_cpu_us": round(statistics.median(costs), 1),
        "client_cpu_us": round(statistics.median(own), 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--signers", default=f"{DEFAULT},0")
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    rows: dict[str, dict[str, object]] = {}
    limits: list[Limit] = []
    for signers in options.signers.split(","):
        own: list[Limit] = []
        row = rows[signers] = asyncio.run(measure(signers, options.count, options.rounds, own))
        limits += own
        print(
            f"--signers {signers}: {row['per_s']:,}/s, best round {row['best_per_s']:,}/s; "
            f"CPU per SVID: server and signers {row['server_cpu_us']} us, client {row['client_cpu_us']} us"
        )
        print(verdict(f"budget, --signers {signers}", row))
    openssl = None
    if limits:
        sign, verify = (statistics.median(getattr(item, name) for item in limits) for name in ("sign", "verify"))
        openssl = {"sign_per_s": sign, "verify_per_s": verify}
        print(f"openssl speed, P-256, median: {sign:,.0f} signatures/s, {verify:,.0f} verifications/s")
    if options.save:
        save("batch", {"openssl": openssl, "cores": os.cpu_count(), "signers": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
