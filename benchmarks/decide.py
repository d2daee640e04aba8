"""What one decision costs as the rules grow: `python -m benchmarks.decide`, or `python benchmarks/decide.py`.

Callers, methods and paths vary; the request that is measured matches the last rule. Best of several rounds, in
microseconds, for the index; the reference evaluator beside it where it is not hopeless.
"""

from __future__ import annotations

import datetime as dt
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from mesh.request import Effect, Request
from mesh.spiffe import SpiffePattern
from policyengine import model, reference
from policyengine.canonical import PathPattern
from policyengine.decide import Index

NOW = dt.datetime(2026, 11, 24, 12, 0, tzinfo=dt.UTC)
TD = "spiffe://bench.test"


def policy_set(count: int) -> model.PolicySet:
    """One service with a policy of that many allows."""
    service = model.Service(
        name="db",
        owner="",
        identities=(SpiffePattern.parse(f"{TD}/ns/shop/sa/db"),),
        ports=(model.Port(port=8080, protocol="http"),),
    )
    rules = tuple(
        model.Rule(
            id=f"r{place}",
            effect=Effect.ALLOW,
            from_=(model.Principal.parse(f"{TD}/ns/n{place % 97}/sa/caller-{place // 10}"),),
            to=(
                model.Operation(
                    ports=(8080,),
                    methods=("GET",),
                    paths=(PathPattern.parse(f"/tenant/{place % 10}/items/{{id:int}}"),),
                ),
            ),
        )
        for place in range(count)
    )
    return model.PolicySet(
        services=(service,),
        policies=(model.Policy(name="p", owner="", service="db", tier="app", rules=rules),),
    )


def request(place: int) -> Request:
    """A request that rule number ``place`` allows."""
    return Request(
        service="db",
        port=8080,
        protocol="http",
        source=f"{TD}/ns/n{place % 97}/sa/caller-{place // 10}",
        method="GET",
        host="db.bench.test",
        path=f"/tenant/{place % 10}/items/4711?q=1",
        headers=(("accept", "*/*"), ("user-agent", "bench"), ("x-request-id", "4711")),
        peer_ip="10.0.0.1",
        time=NOW,
    )


def measure(count: int) -> tuple[float, float, float]:
    """Seconds to build, and microseconds for an allow and a default deny."""
    policies = policy_set(count)
    start = time.perf_counter()
    index = Index(policies, "bench")
    allowed, denied = request(count - 1), request(count + 1000)
    assert index.decide(allowed).is_allowed
    assert not index.decide(denied).is_allowed
    build = time.perf_counter() - start
    costs = []
    for asked in (allowed, denied):
        rounds = []
        for _ in range(7):
            start = time.perf_counter()
            for _ in range(2000):
                index.decide(asked)
            rounds.append((time.perf_counter() - start) / 2000 * 1e6)
        costs.append(min(rounds))
    return build, costs[0], costs[1]


def main() -> None:
    """Print one row per size."""
    print("rules   build s   allow µs   deny µs   reference µs")
    for count in (10, 100, 1000, 10_000, 100_000):
        build, allow, deny = measure(count)
        slow = ""
        if count <= 1000:
            policies, asked = policy_set(count), request(count - 1)
            start = time.perf_counter()
            reference.decide(policies, asked, snapshot="bench")
            slow = f"{(time.perf_counter() - start) * 1e6:12.0f}"
        print(f"{count:6}  {build:8.3f}  {allow:9.2f} {deny:9.2f} {slow}")


if __name__ == "__main__":
    main()
