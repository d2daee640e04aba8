"""Whose policies answer, and what a search for workloads knows beside them."""

import json

import pytest

from limen.authzen import AUDIENCE, PATHS
from limen.recorded import flow_of
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
    found, rows = world.app.authzen.answer(path, pdp, body, caller=caller, known=world.app.authzen.known())
    world.app.authzen.record(caller, rows)
    return found


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


def decided(world: World) -> list[dict[str, object]]:
    return world.app.records(after=0, kind="decision", limit=100)


def test_every_decision_is_recorded_as_those_of_enforcers_are(world: World) -> None:
    world.app.authzen.admit(("spiffe://world.test/user/**",))
    snapshot = world.publish()
    ask(world)
    both = {**QUESTION, "evaluations": [{}, {"action": {"name": "POST"}}]}
    ask(world, "evaluations", both)
    ask(world, "search/action")
    rows = decided(world)
    assert [(row["decision"], row["method"], row["code"]) for row in rows] == [
        ("allow", "GET", "LM2300"),
        ("allow", "GET", "LM2300"),
        ("deny", "POST", "LM2302"),
    ]
    first = rows[0]
    assert (first["actor"], first["caller"], first["direction"]) == ("spiffe://world.test/user/1000", CART, "authzen")
    assert (first["destination"], first["port"], first["path"], first["snapshot"]) == (
        "db",
        8080,
        "/orders/7",
        snapshot,
    )
    flow = flow_of(first)
    assert flow is not None
    assert (flow.source, flow.destination, flow.method) == (CART, "db", "GET")


def test_people_and_what_is_said_of_them_stay_out_of_the_log(world: World) -> None:
    world.app.authzen.admit(("spiffe://world.test/user/**",))
    world.publish()
    subject = {"type": "user", "id": "ann@corp.test", "properties": {"salary": "93000", "token": "hunter2"}}
    path = "/orders/7?token=hunter2"
    ask(world, body={**QUESTION, "subject": subject})
    ask(world, body={**QUESTION, "resource": {"type": "service", "id": "db", "properties": {"path": path}}})
    rows = decided(world)
    text = json.dumps(rows)
    assert "ann@corp.test" not in text
    assert "93000" not in text
    assert "hunter2" not in text
    assert str(rows[0]["sub"]).startswith("hmac:")
    assert rows[0]["subject_type"] == "user"


def searched(world: World) -> list[dict[str, object]]:
    found: list[dict[str, object]] = world.app.records(after=0, kind="search", limit=100)
    return found


def test_a_search_is_one_record_with_its_counts(world: World) -> None:
    world.app.authzen.admit(("spiffe://world.test/user/**",))
    snapshot = world.publish()
    found = ask(world, "search/action")
    row = searched(world)[0]
    assert found["results"] == [{"name": "GET"}]
    assert (row["actor"], row["direction"], row["search"]) == ("spiffe://world.test/user/1000", "authzen", "action")
    assert (row["caller"], row["destination"], row["path"], row["method"]) == (CART, "db", "/orders/7", None)
    assert (row["allowed"], row["returned"], row["snapshot"]) == (1, 1, snapshot)
    assert isinstance(row["decided"], int)
    assert row["decided"] > 1
    assert not decided(world)


@pytest.mark.parametrize("path", [path for path in PATHS if path.startswith("search/")])
def test_every_kind_of_search_is_recorded(world: World, path: str) -> None:
    world.app.authzen.admit(("spiffe://world.test/user/**",))
    world.publish()
    found = ask(world, path)
    row = searched(world)[0]
    assert (row["search"], row["returned"]) == (path.partition("/")[2], len(found["results"]))  # type: ignore[arg-type]


def test_a_search_that_is_refused_is_not_recorded(world: World) -> None:
    world.app.authzen.admit(("spiffe://world.test/user/**",))
    world.publish()
    with pytest.raises(Invalid, match="LM2643"):
        ask(world, "search/action", {**QUESTION, "page": {"token": "old.1"}})
    assert not searched(world)


def test_people_who_are_searched_for_stay_out_of_the_log(world: World) -> None:
    world.app.authzen.admit(("spiffe://world.test/user/**",))
    world.publish()
    subject = {"type": "user", "id": "ann@corp.test", "properties": {"salary": "93000"}}
    ask(world, "search/action", {**QUESTION, "subject": subject})
    ask(world, "search/resource", {**QUESTION, "subject": subject, "resource": {"type": "service"}})
    ask(world, "search/subject", {**QUESTION, "subject": subject})
    text = json.dumps(searched(world))
    assert "ann@corp.test" not in text
    assert "93000" not in text
    assert len(searched(world)) == 3
