"""What a plan of one change costs as the rules grow: `python benchmarks/plan.py [--rounds N] [--save]`.

Three shapes of the same size: many services, as a tree has them, one service that everybody calls, and the same with a
path of its own in every rule, so that no two callers are alike. The change is a rule that becomes wider, one that gets
a condition, a new deny of the guardrail tier for everybody, or a service that begins to observe. CPU seconds of one
core, best of the rounds, from policies in memory to a complete plan whose every row was replayed; reading the files is
measured apart. Callers that gain or lose the very same for the same reasons share a row, which names them.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime as dt
import pathlib
import sys
import time
from collections.abc import Callable

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from benchmarks.speed import save
from mesh.request import Effect, Mode
from mesh.spiffe import SpiffePattern
from policyengine import model
from policyengine.analysis import plan
from policyengine.canonical import PathPattern

NOW = dt.datetime(2026, 11, 24, 12, 0, tzinfo=dt.UTC)
TD = "spiffe://bench.test"
BUDGET_S = 2.0
COUNTS = (100, 1_000, 10_000)
SHAPES = (("many-services", 100, True), ("one-service", 1, True), ("own-paths", 1, False))


def tree(count: int, services: int, *, are_alike: bool = True) -> model.PolicySet:
    """So many rules over so many services; rules that are not alike have a path each."""
    return model.PolicySet(
        services=tuple(
            model.Service(
                name=f"s{place}",
                owner="",
                identities=(SpiffePattern.parse(f"{TD}/ns/shop/sa/s{place}"),),
                ports=(model.Port(port=8080, protocol="http"),),
            )
            for place in range(services)
        ),
        policies=tuple(
            model.Policy(
                name=f"p{place}",
                owner="",
                service=f"s{place}",
                tier="app",
                rules=tuple(rule(number, are_alike=are_alike) for number in range(place, count, services)),
            )
            for place in range(services)
        ),
    )


def rule(number: int, *, are_alike: bool) -> model.Rule:
    """An allow of one caller for a few paths."""
    items = (
        f"/tenant/{number % 10}/items/{{id:int}}" if are_alike else f"/tenant/{number % 10}/item-{number}/{{id:int}}"
    )
    return model.Rule(
        id=f"r{number}",
        effect=Effect.ALLOW,
        from_=(model.Principal.parse(f"{TD}/ns/n{number % 97}/sa/caller-{number // 10}"),),
        to=(
            model.Operation(
                methods=("GET", "POST"),
                paths=(PathPattern.parse(items), PathPattern.parse("/health")),
            ),
        ),
    )


def _edit(policies: model.PolicySet, edit: Callable[[model.Rule], model.Rule]) -> model.PolicySet:
    """One rule changed, in the middle of the first policy."""
    first, *rest = policies.policies
    place = len(first.rules) // 2
    rules = (*first.rules[:place], edit(first.rules[place]), *first.rules[place + 1 :])
    return dataclasses.replace(policies, policies=(dataclasses.replace(first, rules=rules), *rest))


def wider(policies: model.PolicySet) -> model.PolicySet:
    """A rule that allows a subtree."""
    paths = (PathPattern.parse("/tenant/**"),)
    return _edit(policies, lambda found: dataclasses.replace(found, to=(model.Operation(paths=paths),)))


def conditional(policies: model.PolicySet) -> model.PolicySet:
    """A rule that asks for a header."""
    when = model.Conditions(headers=(("x-tenant", ("a",)),))
    return _edit(policies, lambda found: dataclasses.replace(found, when=when))


def guardrail(policies: model.PolicySet) -> model.PolicySet:
    """A deny for everybody."""
    deny = model.Rule(
        id="d",
        effect=Effect.DENY,
        from_=(model.Principal.parse("any"),),
        to=(model.Operation(paths=(PathPattern.parse("/tenant/0/**"),)),),
    )
    added = model.Policy(name="guard", owner="", service="s0", tier="guardrail", rules=(deny,))
    return dataclasses.replace(policies, policies=(*policies.policies, added))


def observing(policies: model.PolicySet) -> model.PolicySet:
    """A service that begins to observe."""
    first, *rest = policies.services
    changed = dataclasses.replace(first, mode=Mode.OBSERVE, until=NOW + dt.timedelta(days=7))
    return dataclasses.replace(policies, services=(changed, *rest))


CHANGES = {"wider": wider, "conditional": conditional, "guardrail": guardrail, "observe": observing}


def measure(old: model.PolicySet, new: model.PolicySet, rounds: int) -> tuple[float, int]:
    """CPU seconds of a plan, and its rows."""
    best, rows = float("inf"), 0
    for _ in range(rounds):
        start = time.process_time()
        found = plan(old, new, (), NOW)
        best = min(best, time.process_time() - start)
        listed = (*found.newly_allowed, *found.newly_denied)
        assert found.is_complete
        assert listed
        assert all(row.is_replayed for row in listed)
        rows = len(listed)
    return best, rows


def main() -> int:
    """Print one row per shape, size and change; 1 when one change among 10,000 rules costs more than the budget."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--save", action="store_true")
    chosen = parser.parse_args()
    found: dict[str, object] = {"budget_s": BUDGET_S}
    worst = 0.0
    print(f"{'shape':<14}{'rules':>7}  {'change':<12}{'CPU s':>8}{'rows':>7}")
    for shape, services, are_alike in SHAPES:
        for count in COUNTS:
            old = tree(count, services, are_alike=are_alike)
            for name, change in CHANGES.items():
                seconds, rows = measure(old, change(old), chosen.rounds)
                print(f"{shape:<14}{count:>7}  {name:<12}{seconds:>8.3f}{rows:>7}", flush=True)
                found[f"{shape}/{count}/{name}"] = {"cpu_s": round(seconds, 3), "rows": rows}
                worst = max(worst, seconds)
    if chosen.save:
        save("plan", found)
    return 0 if worst <= BUDGET_S else 1


if __name__ == "__main__":
    sys.exit(main())
