"""What one changed rule in 10,000 costs: `python -m benchmarks.recompile [--save]`.

A release with 10,000 rules is in force; then one rule is another. Stage by stage, in milliseconds of CPU, the best of
several changes, each of another rule:

- `read`: from the JSON of the policies, as a sidecar is sent it, to values that passed all checks, by a reader that
  kept what it read before (`wire.Kept`);
- `index`: the index of the whole set, with what was compiled of rules that did not change, the first decision about
  the changed rule included (`compiled.Compiled.after`);
- `recompile`: both together, which is what a release costs the process that decides by it, once it is JSON.

Beside them what the same costs a process that kept nothing, and `frame to JSON`: what the sidecar's own decoder takes
for the text of the whole release (strict JSON, no key twice), which knows nothing of rules and has nothing to keep.
Three shapes: 100 services; one service with one policy of 10,000 rules, of a caller each; the same with rules for
everybody, which all stand in one class of callers. Every changed index is compared with one from nothing before
anything is printed. YAML is not in here: files are read by commands, once each, and reading them is no part of a
release.
"""

from __future__ import annotations

import argparse
import copy
import json
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from benchmarks.speed import save
from enforcer.native.wire import decode
from mesh.request import Request
from policyengine.decide import Index
from policyengine.wire import Kept, read_policy_set

T = TypeVar("T")
RULES = 10_000
ROUNDS = 7
TD = "spiffe://bench.test"


SHAPES = {"100 services": (100, False), "one policy of one service": (1, False), "the same, for everybody": (1, True)}


def release(services: int, *, everybody: bool) -> dict[str, Any]:
    """The JSON of a release."""
    each = RULES // services
    return {
        "schema": 1,
        "services": [
            {
                "name": f"s{place}",
                "owner": "team",
                "identities": [f"{TD}/ns/shop/sa/s{place}"],
                "ports": [{"port": 8080, "protocol": "http"}],
                "mode": "enforce",
            }
            for place in range(services)
        ],
        "policies": [
            {
                "name": f"p{place}",
                "owner": "team",
                "service": f"s{place}",
                "tier": "app",
                "rules": [rule(place, number, everybody=everybody) for number in range(each)],
            }
            for place in range(services)
        ],
        "groups": [],
        "invariants": [],
        "exceptions": [],
    }


def caller(service: int, number: int) -> str:
    """Whom a rule is about."""
    return f"{TD}/ns/n{number % 97}/sa/caller-{service}-{number}"


def rule(service: int, number: int, *, everybody: bool) -> dict[str, Any]:
    """One rule of a policy."""
    path = f"/item-{number}/{{id:int}}" if everybody else f"/tenant/{number % 10}/items/{{id:int}}"
    return {
        "id": f"r{number:05}",
        "effect": "allow",
        "from": ["any" if everybody else caller(service, number)],
        "to": [{"ports": [8080], "methods": ["GET"], "paths": [path]}],
    }


def ask(service: int, number: int, path: str) -> Request:
    """A request of the caller of a rule."""
    return Request(
        service=f"s{service}", port=8080, protocol="http", source=caller(service, number), method="GET", host="h",
        path=path,
    )  # fmt: skip


def timed(call: Callable[[], T]) -> tuple[float, T]:
    """Milliseconds of CPU, and what came of it."""
    began = time.process_time()
    found = call()
    return (time.process_time() - began) * 1e3, found


def measure(services: int, *, everybody: bool) -> dict[str, float]:
    """Change one rule after the other."""
    each = RULES // services
    current = release(services, everybody=everybody)
    kept = Kept()
    index = Index(read_policy_set(current, kept), "0")
    for place in range(services):
        index.service(f"s{place}")
    best: dict[str, float] = {}

    def note(stage: str, spent: float) -> None:
        best[stage] = round(min(spent, best.get(stage, spent)), 2)

    for turn in range(1, ROUNDS + 1):
        place, number = turn * 31 % services, turn * 7 % each
        current = copy.deepcopy(current)
        current["policies"][place]["rules"][number]["to"][0]["paths"] = [f"/changed/{turn}"]
        request = ask(place, number, f"/changed/{turn}")
        assert not index.decide(request).is_allowed
        text = json.dumps({"type": "release", **current}).encode()
        parsed, current = timed(lambda: decode(text))  # noqa: B023  called at once
        del current["type"]
        read, policies = timed(lambda: read_policy_set(current, kept))  # noqa: B023  called at once
        built, changed = timed(lambda: Index(policies, str(turn), index))  # noqa: B023
        asked, decision = timed(lambda: changed.decide(request))  # noqa: B023
        assert decision.is_allowed
        note("frame to JSON", parsed)
        note("read", read)
        note("index", built + asked)
        note("recompile", read + built + asked)
        index = changed
    whole, policies = timed(lambda: read_policy_set(current))
    note("read from nothing", whole)
    fresh = Index(policies, str(ROUNDS))
    spent, _ = timed(lambda: [fresh.service(f"s{place}") for place in range(services)])
    note("index from nothing", spent)
    for place in range(services):
        for number in range(0, each, max(1, each // 20)):
            for path in (f"/tenant/{number % 10}/items/1", f"/item-{number}/1", "/changed/3", "/x"):
                request = ask(place, number, path)
                assert index.decide(request) == fresh.decide(request)
    return best


def main() -> None:
    """Print all shapes."""
    options = argparse.ArgumentParser()
    options.add_argument("--save", action="store_true")
    chosen = options.parse_args()
    found = {
        f"{RULES} rules, {name}": measure(services, everybody=everybody)
        for name, (services, everybody) in SHAPES.items()
    }
    for name, row in found.items():
        print(f"{name}, milliseconds of CPU:")
        for stage, spent in row.items():
            print(f"  {stage:20}{spent:10.2f}" + ("   (at most 50)" if stage == "recompile" else ""))
    if chosen.save:
        save("recompile", found)


if __name__ == "__main__":
    main()
