"""Coverage says which rules decided nothing and which conditions came out one way only."""

import datetime as dt
from typing import Any

import pytest

from mesh.request import Effect
from policyengine.coverage import Coverage, coverage_of
from policyengine.loader import load_text
from policyengine.model import Conditions, ExceptionGrant, Operation, PolicySet, Principal, Unless
from policyengine.suite import Case, Expected, Given, PolicyTest, run

NOW = dt.datetime(2026, 11, 24, 12, 0, tzinfo=dt.UTC)
ID = "spiffe://corp.test/ns/shop/sa/"


@pytest.fixture
def reach(make_service: Any, make_policy: Any) -> Any:
    """The coverage of rules about `db` by requests to it."""

    def covered(rules: Any, *given: Any, exceptions: Any = (), tier: str = "app") -> Coverage:
        policies = PolicySet(
            services=(make_service("db"),), policies=(make_policy("db", *rules, tier=tier),), exceptions=exceptions
        )
        cases = tuple(
            Case(
                name=f"c{place}",
                given=Given({"source": f"{ID}cart", "service": "db", "method": "GET", "path": "/", **fields}),
                expect=Expected(decision=Effect.ALLOW),
                because="x",
            )
            for place, fields in enumerate(given)
        )
        tests = (PolicyTest(name="t", owner="", cases=cases),)
        return coverage_of(policies, run(policies, tests, NOW, snapshot="s"))

    return covered


def ways(found: Coverage) -> dict[str, tuple[int, int]]:
    return {branch.name: (branch.true, branch.false) for rule in found.rules for branch in rule.branches}


def test_a_rule_is_reached_when_it_decides(reach: Any, make_rule: Any) -> None:
    rules = (make_rule("a", "cart"), make_rule("b", "batch"))
    found = reach(rules, {}, {})
    assert {rule.rule: rule.decided for rule in found.rules} == {"a": 2, "b": 0}


def test_a_condition_is_reached_only_where_all_before_it_held(reach: Any, make_rule: Any) -> None:
    to, when = (Operation(methods=("GET",)),), Conditions(headers=(("x", ("a",)), ("y", ("b",))))
    rules = (make_rule("a", "cart", to=to, when=when),)
    # somebody else's request says nothing about the method, and a wrong method nothing about the headers
    found = reach(rules, {"source": f"{ID}other"}, {"method": "PUT"}, {"headers": (("x", "z"),)})
    assert ways(found) == {"from": (2, 1), "to": (1, 1), "when.headers.x": (0, 1), "when.headers.y": (0, 0)}
    assert (found.total, found.reached, found.percent) == (9, 5, 55.5)


def test_unless_is_part_by_part(reach: Any, make_rule: Any) -> None:
    exempt = Unless(from_=(Principal.parse(f"{ID}ops"),), when=Conditions(peer_ip=None, rego="data.x.y"))
    rules = (make_rule("a", "any", effect=Effect.DENY, unless=exempt),)
    found = reach(rules, {}, {"source": f"{ID}ops"})
    assert ways(found) == {"unless.from": (1, 1), "unless.when.rego": (0, 1)}  # unknown counts as not true


def test_any_caller_is_no_condition(reach: Any, make_rule: Any) -> None:
    found = reach((make_rule("a", "any"),), {})
    assert (ways(found), found.percent) == ({}, 100.0)


def test_an_exception_has_its_end_as_a_condition(reach: Any, make_rule: Any) -> None:
    until = NOW + dt.timedelta(days=1)
    grant = ExceptionGrant(
        name="e", owner="", service="db", from_=(Principal.parse(f"{ID}cart"),), until=until, reason="r"
    )
    found = reach((make_rule("a", "ops"),), {}, {"time": until}, exceptions=(grant,))
    assert ways(found)["until"] == (1, 1)


def test_an_ambiguous_request_reaches_no_condition(reach: Any, make_rule: Any) -> None:
    found = reach((make_rule("a", "cart"),), {"path": "/a;b"}, {"path": "/../x"})
    assert ways(found) == {"from": (0, 0)}


def test_a_request_to_another_service_counts_for_nobody(reach: Any, make_rule: Any) -> None:
    assert ways(reach((make_rule("a", "cart"),), {"service": "elsewhere"})) == {"from": (0, 0)}


def test_nothing_to_reach_is_all_of_it() -> None:
    assert coverage_of(load_text("", "f.yaml")[0], ()).percent == 100.0
