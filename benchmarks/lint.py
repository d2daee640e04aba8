"""What linting costs as the rules grow: `python benchmarks/lint.py`. CPU seconds, the best of several rounds.

The rules are those of one service (the worst case: all have to be held against each other) and of a hundred, with a
guardrail in front; callers, methods and paths vary. Reading the files is beside it.
"""

from __future__ import annotations

import datetime as dt
import pathlib
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from mesh.flow import Flow
from mesh.spiffe import SpiffeId
from policyengine.lint import lint_tree
from policyengine.loader import load_tree
from policyengine.usage import Known

NOW = dt.datetime(2026, 11, 24, 12, 0, tzinfo=dt.UTC)
TD = "spiffe://bench.test"
FLOWS = 100_000
ROUNDS = 3
SERVICE = """\
apiVersion: limen.dev/v1
kind: Service
metadata: {{name: s{number}, owner: team}}
spec: {{identities: ["{td}/ns/shop/sa/s{number}"], ports: [{{port: 8080, protocol: http}}]}}
---
apiVersion: limen.dev/v1
kind: Policy
metadata: {{name: g{number}, owner: security}}
spec:
  service: s{number}
  tier: guardrail
  rules: [{{id: admin, effect: deny, from: [any], to: [{{paths: ["/admin/**"]}}]}}]
---
apiVersion: limen.dev/v1
kind: Policy
metadata: {{name: p{number}, owner: team}}
spec:
  service: s{number}
  tier: app
  rules:
"""
RULE = """\
  - id: r{place}
    effect: {effect}
    from: ["{td}/ns/n{home}/sa/c{caller}"]
    to: [{{methods: [GET], paths: ["/t/{tenant}/items/{{id:int}}"]}}]
"""


def write(folder: pathlib.Path, services: int, count: int) -> None:
    """Write a tree with so many rules."""
    for number in range(services):
        rules = (
            RULE.format(
                place=place, effect="deny" if place % 50 == 0 else "allow", td=TD, home=place % 97, caller=place // 10,
                tenant=place % 10,
            )
            for place in range(count // services)
        )  # fmt: skip
        (folder / f"s{number}.yaml").write_text(SERVICE.format(number=number, td=TD) + "".join(rules))


def flows(services: int, count: int) -> list[Flow]:
    """Recorded requests, each used by some rule."""
    return [
        Flow(
            start=NOW, source=f"{TD}/ns/n{place % 97}/sa/c{place // 10}",
            destination=f"{TD}/ns/shop/sa/s{place % services}", destination_port=8080, protocol="http", method="GET",
            path=f"/t/{place % 10}/items/{number}",
        )
        for number, place in ((number, number % (count // services)) for number in range(FLOWS))
    ]  # fmt: skip


def best(work: object) -> float:
    """The least CPU time that some work took."""
    assert callable(work)
    found = []
    for _ in range(ROUNDS):
        start = time.process_time()
        work()
        found.append(time.process_time() - start)
    return min(found)


def main() -> None:
    """Print one row per size."""
    print(f"rules   services   read s   read and lint s   with workloads and {FLOWS} flows s")
    for services in (1, 100):
        for count in (1000, 10_000):
            with tempfile.TemporaryDirectory() as name:
                folder = pathlib.Path(name)
                write(folder, services, count)
                known = Known(SpiffeId.parse(f"{TD}/ns/n{place % 97}/sa/c{place // 10}") for place in range(count))
                recorded = flows(services, count)
                read = best(lambda folder=folder: load_tree(folder))
                plain = best(lambda folder=folder: lint_tree(folder, NOW))
                full = best(
                    lambda folder=folder, known=known, recorded=recorded: lint_tree(
                        folder, NOW, known=known, flows=recorded
                    )
                )
                print(f"{count:6}  {services:8}  {read:7.2f}  {plain:16.2f}  {full:10.2f}", flush=True)


if __name__ == "__main__":
    main()
