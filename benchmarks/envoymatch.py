"""What a real Envoy pays to decide by the exported matcher, from 1 to 10,000 callers named by one rule.

CPU of the Envoy process per request on one kept-alive connection with mutual TLS, of the caller that stands last, with
Envoy's own answer in place of an application. Rounds go through all sizes in turn; the least counts, because the
machine does other work. Envoy is that of the extra `envoy`, ENVOY_PATH or PATH.

    python benchmarks/envoymatch.py [--rounds N] [--requests N] [--save]
"""

from __future__ import annotations

import argparse
import contextlib
import os
import pathlib
import ssl
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from benchmarks.speed import save
from limen.envoy import find_envoy, running_envoy
from mesh.problems import NotFound
from policyengine.model import PolicySet, policy_set_from_json

SIZES = (1, 100, 1_000, 10_000)
TICK = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
RAW = b"GET /orders/7?full HTTP/1.1\r\nHost: db.corp.test\r\n\r\n"


def policies(count: int) -> PolicySet:
    callers = [f"spiffe://corp.test/ns/shop/sa/c{number}" for number in range(count)]
    rule = {"id": "r", "effect": "allow", "from": callers, "to": [{"methods": ["GET"], "paths": ["/orders/**"]}]}
    service = {"name": "db", "owner": "", "identities": ["spiffe://corp.test/ns/shop/sa/db"]}
    return policy_set_from_json(
        {
            "schema": 1,
            "services": [{**service, "ports": [{"port": 8080, "protocol": "http"}]}],
            "policies": [{"name": "p", "owner": "", "service": "db", "tier": "app", "rules": [rule]}],
            "groups": [],
            "invariants": [],
            "exceptions": [],
        }
    )


def cpu_s(pid: int) -> float:
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def children() -> set[int]:
    tasks = pathlib.Path("/proc/self/task").glob("*/children")
    return {int(word) for task in tasks for word in task.read_text().split()}


def ask(connection: ssl.SSLSocket, count: int) -> None:
    for _ in range(count):
        connection.sendall(RAW)
        answer = connection.recv(4096)
        assert answer.startswith(b"HTTP/1.1 200 "), answer


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--requests", type=int, default=5_000)
    parser.add_argument("--save", action="store_true")
    given = parser.parse_args()
    try:
        find_envoy()
    except NotFound as err:
        print(f"left out: {err}")
        return 0
    rows: dict[int, dict[str, float]] = {}
    with contextlib.ExitStack() as stack:
        running = []
        for size in SIZES:
            before, began = children(), time.process_time()
            envoy = stack.enter_context(running_envoy(policies(size), "s"))
            (pid,) = children() - before
            resident = int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE / 2**20
            rows[size] = {
                "compile_s": round(time.process_time() - began, 2),
                "envoy_start_cpu_s": round(cpu_s(pid), 2),
                "resident_mib": round(resident, 1),
            }
            caller = (f"spiffe://corp.test/ns/shop/sa/c{size - 1}",)
            connection = stack.enter_context(envoy._connected("db", 8080, caller, "192.0.2.1", "http"))  # noqa: SLF001
            ask(connection, 200)
            running.append((size, pid, connection))
        for _ in range(given.rounds):
            for size, pid, connection in running:
                began = cpu_s(pid)
                ask(connection, given.requests)
                spent = (cpu_s(pid) - began) / given.requests * 1e6
                rows[size]["us_per_request"] = round(min(spent, rows[size].get("us_per_request", spent)), 1)
    least = rows[SIZES[0]]["us_per_request"]
    found = {"callers": rows, "largest_to_smallest": round(rows[SIZES[-1]]["us_per_request"] / least, 2)}
    for size, row in rows.items():
        print(f"{size:>7} callers: {row}")
    print(f"10,000 callers cost {found['largest_to_smallest']} times what one costs")
    if given.save:
        save("envoymatch", {"requests": given.requests, "rounds": given.rounds, **found})
    return 0


if __name__ == "__main__":
    sys.exit(main())
