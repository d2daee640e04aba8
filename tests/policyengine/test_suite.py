"""Policy tests say what must hold: they pass only for the right decision, and fail with their place and reason."""

import datetime as dt
import pathlib
from typing import Any

import pytest

from mesh.request import Effect
from policyengine import suite
from policyengine.loader import load_tested_tree
from policyengine.suite import Expected, request_of, run
from tests.policyengine.test_loader import DB, HEAD

NOW = dt.datetime(2026, 11, 24, 12, 0, tzinfo=dt.UTC)
CART = "spiffe://corp.test/ns/shop/sa/cart"
POLICY = (
    HEAD
    + f"""kind: Policy
metadata: {{name: p, owner: t}}
spec:
  service: db
  tier: app
  rules:
  - {{id: read, effect: allow, from: ["{CART}"], to: [{{ports: [8080], methods: [GET]}}]}}
---
"""
)
EXCEPTION = (
    HEAD
    + """kind: Exception
metadata: {name: e, owner: t}
spec: {rule: {service: db, from: [any], to: [{ports: [5432]}]}, until: 2026-12-01T00:00:00Z, reason: r}
---
"""
)


def document(*cases: str, given: str = "") -> str:
    return (
        DB
        + POLICY
        + EXCEPTION
        + HEAD
        + "kind: PolicyTest\nmetadata: {name: t}\nspec:\n"
        + (f"  given: {given}\n" if given else "")
        + "  cases:\n"
        + "".join(f"  - {{{case}}}\n" for case in cases)
    )


@pytest.fixture
def load(tmp_path: pathlib.Path) -> Any:
    def make(text: str) -> Any:
        (tmp_path / "x_test.yaml").write_text(text)
        return load_tested_tree(tmp_path)

    return make


GIVEN = f'given: {{source: "{CART}", service: db, port: 8080, method: GET, path: /a}}, because: b'


@pytest.mark.parametrize(
    ("expect", "differs"),
    [
        ("allow", None),
        ("{decision: allow, policy_decision: allow, tier: app, policy: p, rule: read, code: LM2300}", None),
        ("deny", "decision is `allow`, not `deny`"),
        ("{decision: allow, tier: baseline}", "tier is `app`, not `baseline`"),
        ("{decision: deny, code: LM2302}", "decision is `allow`, not `deny`; code is `LM2300`, not `LM2302`"),
        ("{decision: allow, rule: exception}", "rule is `read`, not `exception`"),
    ],
)
def test_a_case_passes_only_for_what_it_expects(load: Any, expect: str, differs: str | None) -> None:
    policies, tests, found = load(document(f"name: a, {GIVEN}, expect: {expect}"))
    assert found == []
    (outcome,) = run(policies, tests, NOW, snapshot="s")
    assert outcome.has_passed is (differs is None)
    if differs is not None:
        assert outcome.finding is not None
        assert (outcome.finding.code, outcome.finding.facts["differs"]) == ("LM2700", differs)
        assert outcome.finding.span is not None
        assert outcome.finding.span.line == outcome.case.span.line
        assert "b" in outcome.finding.help


@pytest.mark.parametrize(
    ("case", "code"),
    [
        (f"name: a, {GIVEN.replace('service: db', 'service: bd')}, expect: deny", "LM2703"),
        (f"name: a, {GIVEN.replace('service: db', 'service: bd')}, expect: {{decision: deny, code: LM2305}}", None),
        ("name: a, given: {source: null, service: db}, expect: deny, because: b", "LM2704"),
        ("name: a, given: {source: null, service: db, method: GET}, expect: deny, because: b", None),
        (f"name: a, {GIVEN}, expect: {{decision: allow, policy: q}}", "LM2705"),
        (f"name: a, {GIVEN}, expect: {{decision: allow, rule: q}}", "LM2705"),
        (f"name: a, {GIVEN}, expect: {{decision: allow, policy: e, rule: read}}", "LM2705"),
        (f"name: a, {GIVEN}, expect: {{decision: allow, policy: e, rule: exception}}", None),
    ],
)
def test_what_a_case_names_is_in_the_tree(load: Any, case: str, code: str | None) -> None:
    found = load(document(case))[2]
    assert [item.code for item in found] == ([code] if code else [])


def test_names_of_tests_and_cases_stand_once(load: Any) -> None:
    text = document(f"name: a, {GIVEN}, expect: allow", f"name: a, {GIVEN}, expect: allow")
    again = text.partition("kind: PolicyTest")[2]
    found = load(f"{text}---\n{HEAD}kind: PolicyTest{again.replace('name: a', 'name: b', 1)}")[2]
    assert [item.code for item in found] == ["LM2702", "LM2030"]


def test_what_cases_share_stands_once_and_a_case_overrides_it(load: Any) -> None:
    shared = f'{{source: "{CART}", service: db, port: 8080, method: GET, headers: {{x: a}}}}'
    policies, tests, found = load(
        document(
            "name: a, given: {path: /a}, expect: allow, because: b",
            "name: b, given: {path: /a, method: POST, headers: [[x, b], [x, c]]}, expect: deny, because: b",
            given=shared,
        )
    )
    assert found == []
    first, second = run(policies, tests, NOW, snapshot="s")
    assert first.has_passed
    assert second.has_passed
    assert (first.request.headers, second.request.headers) == ((("x", "a"),), (("x", "b"), ("x", "c")))


def test_a_missing_time_is_that_of_the_run_and_a_missing_port_the_only_one(load: Any) -> None:
    policies, tests, found = load(
        document(
            "name: now, given: {source: null, service: db, port: 5432}, expect: deny, because: b",
            f'name: later, given: {{source: "{CART}", service: db, port: 5432, time: 2026-12-02T00:00:00Z}},'
            " expect: deny, because: b",
            "name: http, given: {source: null, service: db, path: /}, expect: deny, because: b",
        )
    )
    assert found == []
    now, later, http = (request_of(policies, case.given, NOW) for case in tests[0].cases)
    assert (now.time, now.protocol) == (NOW, "tcp")
    assert later.time == dt.datetime(2026, 12, 2, tzinfo=dt.UTC)
    assert (http.port, http.protocol) == (8080, "http")
    assert all(item.has_passed for item in run(policies, tests, NOW, snapshot="s"))


def test_a_case_fails_where_the_evaluators_disagree(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    policies, tests, _ = load(document(f"name: a, {GIVEN}, expect: allow"))
    monkeypatch.setattr(
        suite.reference,
        "decide",
        lambda policies, request, *, snapshot: suite.reference._deny(snapshot, "LM2302", policies.services[0].mode),
    )
    (outcome,) = run(policies, tests, NOW, snapshot="s")
    assert outcome.finding is not None
    assert outcome.finding.code == "LM2701"


def test_an_expectation_without_more_looks_at_the_decision_alone() -> None:
    assert Expected(decision=Effect.ALLOW).rule is None
