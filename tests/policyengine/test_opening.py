"""What a change opens are the rows of its plan, and how much they are orders changes."""

import dataclasses
from typing import Any

from hypothesis import HealthCheck, given, settings

from policyengine.analysis import plan
from policyengine.breadth import NOTHING
from policyengine.model import PolicySet
from policyengine.opening import opened
from tests.examples import examples
from tests.policyengine.corners import CART, NOW, ROLE_ADMIN, TD, allow, tree
from tests.policyengine.setedits import histories

ORDERS: dict[str, Any] = {"to": [{"methods": ["GET"], "paths": ["/orders"]}]}


def test_rows_and_how_much_they_are() -> None:
    before = tree(app=[allow(**{"from": [CART]}, **ORDERS)])
    post: dict[str, Any] = {"to": [{"methods": ["GET", "POST"], "paths": ["/orders"]}]}
    one = opened(before, tree(app=[allow(**{"from": [CART]}, **post)]), NOW)
    many = opened(before, tree(app=[allow(**{"from": [CART]}, **ORDERS), allow(**{"from": [f"{TD}/**"]}, **post)]), NOW)
    assert [(row.source, row.methods, row.paths) for row in one.rows] == [(CART, ("POST",), ("/orders",))]
    assert one.is_complete
    assert one.breadth < many.breadth


def test_conditions_take_some_of_it_away() -> None:
    before = tree(app=[allow(**{"from": [CART]}, **ORDERS)])
    plain = opened(before, tree(app=[allow(**ORDERS)]), NOW)
    asked = opened(before, tree(app=[allow(**{"from": [CART]}, **ORDERS), allow(when=ROLE_ADMIN, **ORDERS)]), NOW)
    assert asked.breadth < plain.breadth


def test_many_callers_that_share_a_row_are_as_many_as_they_are() -> None:
    before = tree(app=[allow(**{"from": [CART]}, **ORDERS)])
    crowd = opened(before, tree(app=[allow(**{"from": [f"{TD}/ns/c/{n}" for n in range(30)]}, **ORDERS)]), NOW)
    below = opened(before, tree(app=[allow(**{"from": [f"{TD}/ns/c/**"]}, **ORDERS)]), NOW)
    few = opened(before, tree(app=[allow(**{"from": [f"{TD}/ns/c/{n}" for n in range(3)]}, **ORDERS)]), NOW)
    assert [row.source for row in crowd.rows] == [row.source for row in below.rows] == [f"{TD}/ns/c/**"]
    assert few.breadth < crowd.breadth < below.breadth


def test_what_opens_nothing_is_less_than_anything() -> None:
    same = tree(app=[allow(**ORDERS)])
    assert opened(same, same, NOW).breadth == NOTHING


# INVARIANT: what rules about other callers say does not matter to what a change opens: its rows are those of the plan.
@settings(max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(histories(most=2))
def test_what_is_opened_is_what_the_whole_plan_newly_allows(history: list[PolicySet]) -> None:
    before, after = history[0], history[-1]
    found = opened(before, after, NOW)
    whole = plan(dataclasses.replace(before, invariants=()), dataclasses.replace(after, invariants=()), (), NOW)
    if found.is_complete and whole.is_complete:
        assert [row.to_json() for row in found.rows] == [row.to_json() for row in whole.newly_allowed]
