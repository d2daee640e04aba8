"""What one decision costs as the rules grow, beside a Go OPA and Cedar: `python -m benchmarks.decide [--save]`.

One policy, at 10, 1,000 and 100,000 rules: allows by caller, method and a typed path, and one deny in ten. Three mixes
of requests: `hit` (a rule allows), `miss` (none does: another path, or a caller that no rule names) and `deny` (a rule
denies). 256 different requests each, in turn, so that nothing is remembered but callers.

The peers answer the same requests of the same policy, every one of them checked before anything is timed:

- `opa ours`: `opa bench` (a prepared query) over the program that our own compiler writes: all of design D3, indexed.
- `opa data`: the grants as data in objects by caller and method, the short module that OPA's guide to performance
  advises ("use objects over arrays"); it knows nothing of tiers, conditions or canonical paths.
- `opa rules`: one Rego rule a grant, `input.source == "..."`, which OPA's rule index finds; as little as `opa data`. Up
  to 1,000 rules, because OPA compiles 100,000 for minutes.
- `cedar`: a cedarpy `PolicySet` and `Entities` that were parsed beforehand, so that only deciding is timed.

All in one run, in rounds one engine after the other, about a second each; the best round counts. OPA runs on one core
(GOMAXPROCS=1) and repeats one input, which is kind to it. A busy machine spoils averages of wall time, for all of them;
so the least is shown as well: for OPA the quickest single evaluation by its own metrics, for the others the quickest
32 requests in a row. CPU is that of this process.
"""

from __future__ import annotations

import argparse
import datetime as dt
import itertools
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from benchmarks.speed import save
from mesh.request import Effect, Request
from mesh.spiffe import SpiffePattern
from policyengine import model, reference
from policyengine.canonical import PathPattern
from policyengine.compile.rego import compile_rego
from policyengine.decide import Index
from policyengine.inputdoc import input_of

T = TypeVar("T")
NOW = dt.datetime(2026, 11, 24, 12, 0, tzinfo=dt.UTC)
TD = "spiffe://bench.test"
SIZES = (10, 1000, 100_000)
MIXES = ("hit", "miss", "deny")
KINDS = ("us", "least_us", "cpu_us")
VARIETY = 256
RULES_AT_MOST = 1000
CEDAR_POLICIES_AT_MOST = 100_000
_TENANTS = 10  # rules of one caller


def caller(place: int) -> str:
    """Whom rule number ``place`` is about."""
    return f"{TD}/ns/n{place % 97}/sa/caller-{place // _TENANTS}"


def is_deny(place: int) -> bool:
    """Whether rule number ``place`` denies: the last of a caller's."""
    return place % _TENANTS == _TENANTS - 1


def policy_set(count: int) -> model.PolicySet:
    """One service with a policy of that many rules."""
    service = model.Service(
        name="db",
        owner="",
        identities=(SpiffePattern.parse(f"{TD}/ns/shop/sa/db"),),
        ports=(model.Port(port=8080, protocol="http"),),
    )
    rules = tuple(
        model.Rule(
            id=f"r{place}",
            effect=Effect.DENY if is_deny(place) else Effect.ALLOW,
            from_=(model.Principal.parse(caller(place)),),
            to=(
                model.Operation(
                    ports=(8080,),
                    methods=("GET",),
                    paths=(PathPattern.parse(f"/tenant/{place % _TENANTS}/items/{{id:int}}"),),
                ),
            ),
        )
        for place in range(count)
    )
    return model.PolicySet(
        services=(service,),
        policies=(model.Policy(name="p", owner="", service="db", tier="app", rules=rules),),
    )


def request(place: int, number: int = 4711, tenant: int | None = None) -> Request:
    """A request that rule number ``place`` decides, unless it is about a tenant that no rule has."""
    return Request(
        service="db",
        port=8080,
        protocol="http",
        source=caller(place),
        method="GET",
        host="db.bench.test",
        path=f"/tenant/{place % _TENANTS if tenant is None else tenant}/items/{number}?q=1",
        headers=(("accept", "*/*"), ("user-agent", "bench"), ("x-request-id", str(number))),
        peer_ip="10.0.0.1",
        time=NOW,
    )


def mix(name: str, count: int) -> list[Request]:
    """The requests of a mix, spread over the rules."""
    found = []
    for number in range(VARIETY):
        place = number * 7919 % count
        if name == "deny":
            place = place - place % _TENANTS + _TENANTS - 1
        elif is_deny(place):
            place -= 1
        if name == "miss" and number % 2:
            found.append(request(count + 10 * number, number))
        else:
            found.append(request(place, number, 77 if name == "miss" else None))
    return found


# -- engines: a name, and what decides one round of requests


Times = tuple[float, float, float | None]
"""Microseconds a decision: on average of a round, at the least, and of CPU where that is known."""


def time_calls(call: Callable[[T], object], asked: Sequence[T], seconds: float) -> Times:
    """Ask in turn for about so many seconds; the least is that of the quickest 32 in a row."""
    parts = [asked[place : place + 32] for place in range(0, len(asked), 32)]
    calls, least = 0, float("inf")
    began, cpu = time.perf_counter(), time.process_time()
    for part in itertools.cycle(parts):
        turn = time.perf_counter()
        for item in part:
            call(item)
        now = time.perf_counter()
        calls += len(part)
        least = min(least, (now - turn) / len(part))
        if now - began >= seconds:
            break
    return (now - began) / calls * 1e6, least * 1e6, (time.process_time() - cpu) / calls * 1e6


class Opa:
    """`opa bench` over a folder of modules and data."""

    def __init__(self, program: str, folder: pathlib.Path, query: str) -> None:
        self._program, self._folder, self._query = program, folder, query

    def _run(self, verb: str, document: Mapping[str, object], *more: str) -> Any:  # noqa: ANN401  OPA's JSON
        command = [self._program, verb, "--data", str(self._folder), "--stdin-input", "--format", "json", *more]
        done = subprocess.run(
            [*command, self._query],
            input=json.dumps(document),
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "GOMAXPROCS": "1"},
        )
        if done.returncode:
            raise SystemExit(f"opa {verb} failed: {done.stderr[-500:] or done.stdout[-500:]}")
        return json.loads(done.stdout)

    def check(self, documents: Sequence[Mapping[str, object]], expected: Sequence[bool]) -> None:
        """Ask it every request once, in one process."""
        query = f"[answer | some document in input.batch; answer := {self._query} with input as document]"
        asking = Opa(self._program, self._folder, query)
        found = asking._run("eval", {"batch": list(documents)})["result"][0]["expressions"][0]["value"]
        answers = [item["decision"] == "allow" if isinstance(item, dict) else item for item in found]
        assert answers == list(expected), "OPA decides something else"

    def bench(self, document: Mapping[str, object]) -> Times:
        """What `opa bench` says: the average, and the quickest single evaluation by its own metrics."""
        found = self._run("bench", document, "--benchmem=false")
        least = float(found["Extra"]["histogram_timer_rego_query_eval_ns_min"])
        return float(found["T"]) / float(found["N"]) / 1e3, least / 1e3, None


DATA_MODULE = """package bench.bydata

default allow := false

allow if {
	some grant in data.grants[input.source][input.method].allow
	matches(grant)
	not denied
}

denied if {
	some grant in data.grants[input.source][input.method].deny
	matches(grant)
}

matches(grant) if {
	input.port == grant.port
	count(input.path) == 4
	input.path[0] == "tenant"
	input.path[1] == grant.tenant
	input.path[2] == "items"
	regex.match(`^[0-9]+$`, input.path[3])
}
"""


def write_data(folder: pathlib.Path, count: int) -> None:
    """The grants as data, by caller and method."""
    grants: dict[str, dict[str, dict[str, list[object]]]] = {}
    for place in range(count):
        by_effect = grants.setdefault(caller(place), {}).setdefault("GET", {"allow": [], "deny": []})
        by_effect["deny" if is_deny(place) else "allow"].append({"port": 8080, "tenant": str(place % _TENANTS)})
    (folder / "bench.rego").write_text(DATA_MODULE, "utf-8")
    (folder / "data.json").write_text(json.dumps({"grants": grants}), "utf-8")


def write_rules(folder: pathlib.Path, count: int) -> None:
    """One rule a grant: equalities with the input, which the rule index finds, then the rest."""
    lines = [
        "package bench.byrules",
        "",
        "default allow := false",
        "",
        "allow if {",
        "\tgranted",
        "\tnot denied",
        "}",
        "",
    ]
    lines += ["default granted := false", "", "default denied := false", ""]
    for place in range(count):
        lines += [
            f"{'denied' if is_deny(place) else 'granted'} if {{",
            f'\tinput.source == "{caller(place)}"',
            '\tinput.method == "GET"',
            "\tinput.port == 8080",
            f'\tinput.path = ["tenant", "{place % _TENANTS}", "items", id]',
            "\tregex.match(`^[0-9]+$`, id)",
            "}",
            "",
        ]
    (folder / "bench.rego").write_text("\n".join(lines), "utf-8")


def write_ours(folder: pathlib.Path, count: int) -> None:
    """What our compiler writes."""
    program = compile_rego(policy_set(count), "bench")
    for place, text in enumerate(program.modules.values()):
        (folder / f"m{place}.rego").write_text(text, "utf-8")
    (folder / "data.json").write_text(json.dumps(program.data), "utf-8")


STYLES: dict[str, tuple[Callable[[pathlib.Path, int], None], str, int]] = {
    "opa ours": (write_ours, "data.limen.authz.decision", 10**9),
    "opa data": (write_data, "data.bench.bydata.allow", 10**9),
    "opa rules": (write_rules, "data.bench.byrules.allow", RULES_AT_MOST),
}


class Cedar:
    """cedarpy over a policy set that was parsed before."""

    def __init__(self, count: int) -> None:
        import cedarpy  # noqa: PLC0415  only where it is installed

        lines = []
        for place in range(count):
            kind = "forbid" if is_deny(place) else "permit"
            lines.append(
                f'{kind} (principal == Workload::"{caller(place)}", action == Action::"GET", '
                f'resource == Port::"db:8080")\nwhen {{ context.path like "/tenant/{place % _TENANTS}/items/*" }};'
            )
        self._ask = cedarpy.is_authorized
        self._policies = cedarpy.PolicySet.from_str("\n".join(lines))
        self._entities = cedarpy.Entities.from_json_str("[]")

    def decide(self, document: dict[str, object]) -> bool:
        """Decide one request in Cedar's form."""
        return bool(self._ask(document, self._policies, self._entities).allowed)


def cedar_request(asked: Request) -> dict[str, object]:
    """A request as Cedar is asked it."""
    return {
        "principal": {"type": "Workload", "id": asked.source},
        "action": {"type": "Action", "id": asked.method},
        "resource": {"type": "Port", "id": "db:8080"},
        "context": {"path": (asked.path or "").partition("?")[0]},
    }


def measure(count: int, rounds: int, seconds: float, opa: str | None, *, with_cedar: bool) -> dict[str, Any]:
    """All engines at one size: microseconds by mix."""
    start = time.process_time()
    policies = policy_set(count)
    model_s = time.process_time() - start
    start = time.process_time()
    index = Index(policies, "bench")
    index.service("db")
    build_s = time.process_time() - start
    asked = {name: mix(name, count) for name in MIXES}
    for name, items in asked.items():
        found = [index.decide(item) for item in items]
        assert all(one.is_allowed == (name == "hit") for one in found), name
        assert all((one.code == "LM2301") == (name == "deny") for one in found), name
        if count <= 1000:
            assert found[:32] == [reference.decide(policies, item, snapshot="bench") for item in items[:32]]
    cedar = Cedar(count) if with_cedar and count <= CEDAR_POLICIES_AT_MOST else None
    row: dict[str, Any] = {
        "build_cpu_s": round(build_s, 3),
        "model_cpu_s": round(model_s, 3),
        **{kind: {} for kind in KINDS},
    }
    with tempfile.TemporaryDirectory(prefix="limen-bench-") as base:
        peers = {}
        for style, (write, query, most) in STYLES.items():
            if opa is not None and count <= most:
                folder = pathlib.Path(base) / style.replace(" ", "-")
                folder.mkdir()
                write(folder, count)
                peers[style] = Opa(opa, folder, query)
                everything = [item for items in asked.values() for item in items]
                expected = [name == "hit" for name, items in asked.items() for _ in items]
                peers[style].check([input_of(item) for item in everything], expected)
        if cedar is not None:
            for name, items in asked.items():
                assert all(cedar.decide(cedar_request(item)) == (name == "hit") for item in items[:32]), name
        for name, _ in itertools.product(MIXES, range(rounds)):
            _keep_best(row, name, "limen", time_calls(index.decide, asked[name], seconds))
            for style, peer in peers.items():
                _keep_best(row, name, style, peer.bench(input_of(asked[name][0])))
            if cedar is not None:
                documents = [cedar_request(item) for item in asked[name]]
                documents = documents[:4] if count > 1000 else documents[:32]
                _keep_best(row, name, "cedar", time_calls(cedar.decide, documents, seconds))
    return row


def _keep_best(row: dict[str, Any], name: str, engine: str, times: Times) -> None:
    """Note a round, in each respect if it was the best."""
    for kind, value in zip(KINDS, times, strict=True):
        if value is not None:
            held = row[kind].setdefault(name, {})
            held[engine] = round(min(value, held.get(engine, value)), 2)


def main() -> None:
    """Print a table for each size, then what the numbers come to."""
    options = argparse.ArgumentParser()
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--seconds", type=float, default=1.0)
    options.add_argument("--save", action="store_true")
    chosen = options.parse_args()
    opa = shutil.which(os.environ.get("LIMEN_OPA") or "opa")
    with_cedar = True
    try:
        import cedarpy  # noqa: F401, PLC0415
    except ImportError:
        with_cedar = False
    print(
        "left out, not installed:", ", ".join([*([] if opa else ["opa"]), *([] if with_cedar else ["cedarpy"])]) or "-"
    )
    sizes = {}
    for count in SIZES:
        sizes[count] = measure(count, chosen.rounds, chosen.seconds, opa, with_cedar=with_cedar)
        show(count, sizes[count])
    found = conclusions(sizes)
    for line, value in found.items():
        print(f"{line}: {value}")
    if chosen.save:
        save("decide", {"sizes": {str(count): row for count, row in sizes.items()}, "conclusions": found})


def show(count: int, row: Mapping[str, Any]) -> None:
    """Print one size."""
    engines = list(row["us"][MIXES[0]])
    print(
        f"\n{count} rules: model {row['model_cpu_s']} s, index {row['build_cpu_s']} s of CPU; microseconds a decision"
    )
    print(f"{'':10}" + "".join(f"{engine:>12}" for engine in engines))
    for name in MIXES:
        for kind, label in zip(KINDS, (name, "   least", "     cpu"), strict=True):
            values = [row[kind][name].get(engine) for engine in engines]
            print(f"{label:10}" + "".join(" " * 12 if one is None else f"{one:12.2f}" for one in values), flush=True)


def conclusions(sizes: Mapping[int, Mapping[str, Any]]) -> dict[str, object]:
    """The demands, each with what was measured: the worst mix counts, by wall time and by CPU."""
    few, many = sizes[min(sizes)], sizes[max(sizes)]
    found: dict[str, object] = {}
    for kind, label in zip(KINDS, ("on average", "at the least", "of CPU"), strict=True):
        found[f"slowest mix and size, microseconds {label} (at most 5)"] = max(
            row[kind][name]["limen"] for row in sizes.values() for name in MIXES
        )
        found[f"{max(sizes)} rules to {min(sizes)}, worst mix, {label} (at most 1.5)"] = round(
            max(many[kind][name]["limen"] / few[kind][name]["limen"] for name in MIXES), 2
        )
    for engine, least in (("opa ours", 20), ("opa data", 20), ("opa rules", 20), ("cedar", 10)):
        for count, row in sizes.items():
            if engine in row["us"][MIXES[0]]:
                for kind, label in (("us", "averages"), ("least_us", "leasts")):
                    ratio = min(row[kind][name][engine] / row[kind][name]["limen"] for name in MIXES)
                    verdict = "" if ratio >= least else ": MISSED"
                    key = f"{engine} to limen, {count} rules, worst mix, {label} (at least {least})"
                    found[key] = f"{ratio:.1f}{verdict}"
    return found


if __name__ == "__main__":
    main()
