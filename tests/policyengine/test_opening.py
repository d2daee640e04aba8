"""What a change opens are the rows of its plan, and how much they are orders changes."""

from typing import Any

from policyengine.breadth import NOTHING
from policyengine.opening import opened
from tests.policyengine.corners import CART, NOW, ROLE_ADMIN, TD, allow, tree

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
