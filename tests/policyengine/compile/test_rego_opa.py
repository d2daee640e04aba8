"""A real OPA answers as `decide` does: every corner, 10,000 generated cases, and a million in `make soak`."""

import dataclasses
import json
import os
import pathlib
import time
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from limen.decisions import decision_from_json
from limen.opa import Opa, running_opa
from mesh.clock import SystemClock
from mesh.request import Request
from policyengine.compile.rego import compile_rego
from policyengine.customrules import with_custom_rules
from policyengine.decide import Index
from policyengine.inputdoc import input_of
from policyengine.model import PolicySet, RegoModule
from tests.policyengine.corners import CORNERS, ask, tree
from tests.policyengine.strategies import policy_sets, requests
from tests.tools import require_opa

pytestmark = pytest.mark.peer
SOAK = bool(os.environ.get("LIMEN_SOAK"))
BATCH = 50
SETS = 20_000 if SOAK else 200
RESULTS = pathlib.Path(__file__).parents[3] / "benchmarks" / "results" / "rego_equivalence.json"


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


# INVARIANT: OPA decides every request as the index does.
@pytest.mark.slow
@pytest.mark.timeout(7200 if SOAK else 600)
def test_opa_equals_decide_on_generated_cases(opa: Opa) -> None:
    cases, began = 0, time.monotonic()
    effects: dict[str, int] = {}

    @settings(
        max_examples=SETS, deadline=None, database=None, suppress_health_check=list(HealthCheck), derandomize=False
    )
    @given(policies=policy_sets, asked=st.lists(requests, min_size=BATCH, max_size=BATCH))
    def agree(policies: PolicySet, asked: list[Request]) -> None:
        nonlocal cases
        opa.load_data(compile_rego(policies, "s"))
        index = Index(policies, "s")
        answers = opa.decide_all([input_of(request) for request in asked])
        assert len(answers) == len(asked)
        for request, answer in zip(asked, answers, strict=True):
            expected = index.decide(request)
            assert decision_from_json(answer) == expected, request
            key = f"{expected.code} {expected.effect}"
            effects[key] = effects.get(key, 0) + 1
        cases += len(asked)

    agree()
    assert cases >= SETS * BATCH
    # a comparison that only ever sees the default deny would prove nothing
    assert {"LM2300 allow", "LM2301 deny", "LM2301 allow", "LM2304 deny"} <= set(effects)
    if SOAK:
        found = {
            "what": "a real OPA against decide, generated policies and requests",
            "cases": cases,
            "policy_sets": SETS,
            "differences": 0,
            "seconds": round(time.monotonic() - began),
            "decisions": dict(sorted(effects.items())),
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
