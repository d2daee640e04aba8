"""What is claimed of bounds, attackers and templates, held against worlds whose law is known.

20 seeds in every run; `make soak` has 300 worlds and writes benchmarks/results/learner-worlds.json. The seeds are
fixed: a run finds what the run before it found.
"""

import concurrent.futures
import dataclasses
import datetime as dt
import itertools
import json
import os
import pathlib
import statistics
import subprocess
from collections import Counter

import pytest

from learner.propose import propose
from mesh.clock import SystemClock
from mesh.flow import Flow
from policyengine.canonical import CanonicalPath, PathPattern, canonical_path
from tests.learner import corpora
from tests.learner.simulator import NS, World, learned
from tests.learner.worlds import START, flow

SOAK = bool(os.environ.get("LIMEN_SOAK"))
WORLDS = int(os.environ.get("LIMEN_WORLDS", "300" if SOAK else "20"))
RESULTS = pathlib.Path(__file__).parent.parent.parent / "benchmarks" / "results" / "learner-worlds.json"
UNITS = ("session", "hour", "day")

pytestmark = pytest.mark.slow


@dataclasses.dataclass(frozen=True)
class Found:
    """One world, quiet and under attack."""

    truth: tuple[float, float, float]
    often: tuple[float, float, float]
    once: tuple[float, float, float]
    attack_edges: int
    proposed_attack_edges: int
    without_reason: int
    benign: int
    allowed: int
    quarantined_benign: Counter[str]


def look(seed: int) -> Found:
    world = World(seed)
    flows = list(world.flows())
    history, proposal, judge = learned(world, flows, declared=True)
    total = proposal.total
    attacks = world.attacks()
    mixed = sorted((*flows, *itertools.chain.from_iterable(attacks.values())), key=lambda item: item.start)
    attacked, hit, hit_judge = learned(world, mixed, declared=True)
    planted = {
        (item.source, item.destination, item.destination_port)
        for item in itertools.chain.from_iterable(attacks.values())
    }
    allowed = {kind.edge for kind in attacked.kinds.values() if not hit_judge.denies(kind)}
    benign = {edge.key for edge in world.edges} & {kind.edge for kind in attacked.kinds.values()}
    reasons = {(item.source, item.destination, item.port): item.reason for item in hit.quarantined}
    assert all(item.reason and item.evidence and item.release for item in hit.quarantined)
    return Found(
        truth=world.truth(world.uncovered(judge, history)),
        often=(total.often.session, total.often.hour, total.often.day),
        once=(total.once.session, total.once.hour, total.once.day),
        attack_edges=len(planted),
        proposed_attack_edges=len(planted & allowed),
        without_reason=len((planted | benign) - allowed - set(reasons)),
        benign=len(benign),
        allowed=len(benign & allowed),
        quarantined_benign=Counter(reasons[edge] for edge in benign - allowed if edge in reasons),
    )


def test_bounds_hold_and_no_attack_is_proposed() -> None:
    if SOAK:
        with concurrent.futures.ProcessPoolExecutor() as pool:
            rows = list(pool.map(look, range(WORLDS)))
    else:
        rows = [look(seed) for seed in range(WORLDS)]
    summary = summed(rows)
    for name in UNITS:
        for kind in ("often", "once"):
            assert summary[name][kind]["holds"] >= 0.95, (name, kind, summary[name])  # type: ignore[index]
    assert summary["hour"]["often"]["mean_bound_over_mean_truth"] <= 4  # type: ignore[index]
    assert summary["proposed_attack_edges"] == 0, [n for n, row in enumerate(rows) if row.proposed_attack_edges]
    assert summary["without_reason"] == 0
    assert float(str(summary["benign_allowed"])) >= 0.97
    if SOAK:
        save(summary)


def summed(rows: list[Found]) -> dict[str, object]:
    """What the worlds come to."""
    found: dict[str, object] = {"worlds": len(rows), "days": 14}
    for place, name in enumerate(UNITS):
        truth = [row.truth[place] for row in rows]
        found[name] = {"mean_truth": statistics.fmean(truth)}
        for kind in ("often", "once"):
            bounds = [getattr(row, kind)[place] for row in rows]
            ratios = [bound / real for bound, real in zip(bounds, truth, strict=True) if real]
            found[name][kind] = {  # type: ignore[index]
                "holds": statistics.fmean(bound >= real for bound, real in zip(bounds, truth, strict=True)),
                "mean_bound": statistics.fmean(bounds),
                "mean_bound_over_mean_truth": statistics.fmean(bounds) / statistics.fmean(truth),
                "median_ratio": statistics.median(ratios),
                "share_within_4": statistics.fmean(ratio <= 4 for ratio in ratios),
            }
    for name in ("attack_edges", "proposed_attack_edges", "without_reason"):
        found[name] = sum(getattr(row, name) for row in rows)
    found["benign_allowed"] = sum(row.allowed for row in rows) / sum(row.benign for row in rows)
    found["quarantined_benign"] = dict(sum((row.quarantined_benign for row in rows), Counter()))
    return found


def save(summary: dict[str, object]) -> None:
    commit = subprocess.run(
        ("git", "rev-parse", "--short", "HEAD"), cwd=RESULTS.parent, capture_output=True, text=True, check=False
    ).stdout.strip()
    about = {
        "what": "worlds of a known law, 14 days each, quiet and under five attacks: tests/learner/simulator.py",
        "command": "LIMEN_SOAK=1 python -m pytest tests/learner/test_worlds.py (part of `make soak`)",
        "commit": commit,
        "date": SystemClock().now().date().isoformat(),
    }
    RESULTS.write_text(json.dumps({**about, **summary}, indent=2) + "\n", "utf-8")


@pytest.mark.parametrize("seed", range(5))
def test_the_policy_is_the_same_with_and_without_a_scanner(seed: int) -> None:
    world = World(seed, days=5)
    flows = list(world.flows())
    scan = [
        Flow(
            start=START.replace(month=3, day=3) + dt.timedelta(seconds=7 * number),
            source=None if seed % 2 else f"{NS}intruder",
            source_ip="10.9.9.9",
            destination=f"{NS}s{number % 50}",
            destination_port=1 + number,
            protocol="tcp",
            established=number % 15 == 14,
        )
        for number in range(4000)
    ]
    _, quiet, _ = learned(world, flows)
    _, noisy, _ = learned(world, [*scan, *flows])
    assert [item.to_yaml() for item in noisy.services if item.rules] == [item.to_yaml() for item in quiet.services]


@pytest.mark.parametrize(("routes", "most"), [(corpora.TYPED, 0.01), (corpora.MIXED, 0.05)], ids=["typed", "mixed"])
@pytest.mark.parametrize("seed", range(3))
def test_templates_take_what_comes_and_little_else(routes: list[corpora.Route], most: float, seed: int) -> None:
    paths = corpora.traffic(routes, 5000, seed)
    seen, held = paths[:3500], paths[3500:]
    rows = [flow("web", "api", START + dt.timedelta(seconds=90 * n), path=path) for n, path in enumerate(seen)]
    noise = [
        flow("web", "api", START + dt.timedelta(seconds=9 * n), path=f"/api/{n:x}/x{n}", status=404, replica="bad")
        for n in range(2000)
    ]
    (service,) = propose(rows).services
    patterns = [PathPattern.parse(path) for _, listed in service.rules[0].grants[0].operations for path in listed]

    def accepted(found: list[str]) -> float:
        forms = [canonical_path(path) for path in found]
        return statistics.fmean(
            any(pattern.matches(form.segments) for pattern in patterns)
            for form in forms
            if isinstance(form, CanonicalPath)
        )

    assert accepted(held) >= 0.97
    assert accepted(corpora.probes(routes, seed)) <= most
    assert len(patterns) <= 2 * len(routes)
    assert [item.rules for item in propose([*rows, *noise]).services] == [service.rules]
