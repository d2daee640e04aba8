"""Whose policies answer, and what a search for workloads knows beside them."""

import pytest

from limen.authzen import AUDIENCE, PATHS
from mesh.problems import Forbidden, Invalid
from tests.limen.test_opabundles import header
from tests.world import TREE, World

CART = "spiffe://world.test/ns/shop/sa/cart"
QUESTION = {
    "subject": {"type": "workload", "id": CART},
    "action": {"name": "GET"},
    "resource": {"type": "service", "id": "db", "properties": {"path": "/orders/7"}},
}


def ask(world: World, path: str = "evaluation", body: object = QUESTION) -> dict[str, object]:
    caller, pdp = world.app.authzen.enter(header(world, AUDIENCE))
    return world.app.authzen.answer(path, pdp, body, caller=caller, known=world.app.authzen.known())


def test_the_active_snapshot_answers_and_before_the_first_nothing_is_allowed(world: World) -> None:
    world.app.authzen.admit(("spiffe://world.test/user/**",))
    assert ask(world)["decision"] is False
    first = world.publish()
    found = ask(world)
    assert (found["decision"], found["context"]["snapshot"]) == (True, first)  # type: ignore[index]  # an object
    second = world.publish(TREE.replace("effect: allow", "effect: deny").replace("to: [{", "to: [{ports: [8080], "))
    found = ask(world)
    assert (found["decision"], found["context"]["snapshot"]) == (False, second)  # type: ignore[index]  # an object


def test_without_a_caller_nobody_may_ask(world: World) -> None:
    with pytest.raises(Forbidden, match="LM2642"):
        world.app.authzen.enter(header(world, AUDIENCE))
    with pytest.raises(Invalid, match="LM2640"):
        world.app.authzen.admit(("web",))


def test_a_search_knows_who_was_issued_an_identity(world: World) -> None:
    world.app.authzen.admit(("spiffe://world.test/**",))
    world.publish(TREE.replace(CART, "spiffe://world.test/user/**"))
    world.rules('rules:\n- id: user\n  match: {"unix:uid": "7"}\n  spiffe_id: "/user/{unix:uid}"\n')
    world.issue(world.join(), unix__uid="7")
    found = ask(world, "search/subject", {**QUESTION, "subject": {"type": "workload"}})
    assert {"type": "workload", "id": "spiffe://world.test/user/7"} in found["results"]  # type: ignore[operator]  # a list


@pytest.mark.parametrize("path", PATHS)
def test_what_is_no_request_is_refused_with_a_reason(world: World, path: str) -> None:
    world.app.authzen.admit(("spiffe://world.test/**",))
    with pytest.raises(Invalid, match="LM2643"):
        ask(world, path, [])
