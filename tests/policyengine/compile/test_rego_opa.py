"""A real OPA answers as `decide` does: every corner, 10,000 generated cases, and a million in `make soak`."""

import contextlib
import dataclasses
import json
import math
import os
import pathlib
import random
import subprocess
import time
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from limen.decisions import decision_from_json
from limen.opa import Opa, find_opa, running_opa
from mesh.clock import SystemClock
from mesh.request import Request
from policyengine import reference
from policyengine.compile.rego import DECISION, compile_rego
from policyengine.customrules import with_custom_rules
from policyengine.decide import Index
from policyengine.inputdoc import input_of
from policyengine.model import PolicySet, RegoModule
from tests.policyengine.corners import CORNERS, ask, tree
from tests.policyengine.kinds import Tally
from tests.policyengine.strategies import mixed, policy_sets, requests
from tests.tools import require_opa

pytestmark = pytest.mark.peer
SOAK = bool(os.environ.get("LIMEN_SOAK"))
DRAWN, BATCH = (25, 500) if SOAK else (20, 100)
SETS = 2_000 if SOAK else 100
LONGEST_S = float(os.environ.get("LIMEN_SOAK_S", "inf"))  # what was compared by then is what the result says
RESULTS = pathlib.Path(__file__).parents[3] / "benchmarks" / "results" / "rego_equivalence.json"


def commit() -> str:
    """What was compared, by its name in the history."""
    done = subprocess.run(
        ["git", "-C", str(RESULTS.parent), "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip()


@pytest.fixture(scope="module")
def opa() -> Iterator[Opa]:
    require_opa()
    with running_opa() as found:
        found.load(compile_rego(tree(), "s"))
        yield found


def test_opa_agrees_on_every_corner(opa: Opa) -> None:
    for corner in CORNERS:
        opa.load_data(compile_rego(corner.policies, "s"))
        found = decision_from_json(opa.decide(input_of(corner.request)))
        assert found == Index(corner.policies, "s").decide(corner.request), corner.name


# INVARIANT: OPA decides every request as the index does, and both as the reference.
@pytest.mark.slow
@pytest.mark.timeout(21600 if SOAK else 600)
def test_opa_equals_decide_on_generated_cases(opa: Opa) -> None:
    cases, began = 0, time.monotonic()
    tally = Tally()

    @settings(
        max_examples=SETS, deadline=None, database=None, suppress_health_check=list(HealthCheck), derandomize=not SOAK
    )
    @given(
        policies=policy_sets,
        candidate=policy_sets,
        drawn=st.lists(requests, min_size=DRAWN, max_size=DRAWN),
        dice=st.randoms(use_true_random=True),
    )
    def agree(policies: PolicySet, candidate: PolicySet, drawn: list[Request], dice: random.Random) -> None:
        nonlocal cases
        if time.monotonic() - began > LONGEST_S:
            raise pytest.skip.Exception("over")  # by this Hypothesis ends at once
        asked = drawn + mixed(drawn, BATCH - DRAWN, dice)
        opa.load_data(compile_rego(policies, "s"))
        index, beside = Index(policies, "s"), Index(candidate, "c")
        answers = opa.decide_all([input_of(request) for request in asked])
        assert len(answers) == len(asked)
        for place, (request, answer) in enumerate(zip(asked, answers, strict=True)):
            expected = index.decide(request)
            if place < DRAWN:  # the reference is slow, and so is counting
                assert reference.decide(policies, request, snapshot="s") == expected, request
                tally.add(policies, request, expected, beside.decide(request))
            assert decision_from_json(answer) == expected, request
        cases += len(asked)

    with contextlib.suppress(pytest.skip.Exception):
        agree()
    assert cases >= SETS * BATCH or time.monotonic() - began > LONGEST_S
    # a comparison that only ever sees the default deny would prove nothing
    assert {"LM2300 allow", "LM2301 deny", "LM2301 allow", "LM2304 deny"} <= set(tally.codes)
    assert not tally.missing(cases // (100 * BATCH))
    if SOAK:
        found = {
            "what": "generated policies and requests: a real OPA = the index, and where counted below = the reference",
            "cases": cases,
            "cases_of_a_whole_run": SETS * BATCH,
            "differences": 0,
            "seconds": round(time.monotonic() - began),
            "counted": sum(tally.codes.values()),
            "decisions": dict(sorted(tally.codes.items())),
            "rules_that_decided": dict(sorted(tally.held.items())),
            "rules_that_did_not_apply": dict(sorted(tally.failed.items())),
            "command": "make soak" if math.isinf(LONGEST_S) else f"make soak, LIMEN_SOAK_S={LONGEST_S:.0f}",
            "commit": commit(),
            "date": SystemClock().now().date().isoformat(),
        }
        RESULTS.write_text(json.dumps(found, indent=2) + "\n", "utf-8")


def test_opa_evaluates_custom_rules_as_they_are_evaluated_in_process() -> None:
    require_opa()
    source = (
        'package shop\n\ndefault extra := false\n\nextra if input.path[0] == "orders"\n\nmaybe if input.port == 1\n'
    )
    for name in ("data.shop.extra", "data.shop.maybe", "data.none.x"):
        for effect in ("allow", "deny"):
            plain = tree(app=[{"effect": effect, "when": {"rego": name}}, {"effect": "allow", "id": "z"}])
            policies = dataclasses.replace(plain, rego=(RegoModule("shop.rego", source),))
            with running_opa() as opa, with_custom_rules(policies, deadline_s=10.0) as evaluated:
                opa.load(compile_rego(policies, "s"))
                for request in (ask(), ask(path="/carts"), ask(port=1)):
                    found = decision_from_json(opa.decide(input_of(request)))
                    assert found == Index(evaluated, "s").decide(request), (name, effect, request)


def allocations(folder: pathlib.Path, count: int) -> float:
    """What one decision of a prepared query allocates in OPA: by that its work is counted, however busy the machine."""
    rules = [
        {"effect": "allow", "id": f"r{n}", "from": [f"spiffe://corp.test/sa/c{n}"], "to": [{"paths": [f"/p{n}/{{x}}"]}]}
        for n in range(count)
    ]
    program = compile_rego(tree(app=rules), "s")
    folder.mkdir()
    for place, text in enumerate(program.modules.values()):
        (folder / f"m{place}.rego").write_text(text, "utf-8")
    (folder / "data.json").write_text(json.dumps(program.data), "utf-8")
    asked = ask(source=f"spiffe://corp.test/sa/c{count - 1}", path=f"/p{count - 1}/7")
    assert Index(tree(app=rules), "s").decide(asked).is_allowed
    command = [find_opa(), "bench", "--data", str(folder), "--stdin-input", "--format", "json", DECISION]
    done = subprocess.run(command, input=json.dumps(input_of(asked)), capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    return float(found["MemAllocs"]) / float(found["N"])


def test_the_cost_of_a_decision_in_opa_does_not_grow_with_the_rules(tmp_path: pathlib.Path) -> None:
    require_opa()
    few, many = allocations(tmp_path / "few", 10), allocations(tmp_path / "many", 2000)
    assert many <= 1.2 * few
