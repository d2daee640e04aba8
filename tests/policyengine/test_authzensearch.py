"""Searches find exactly what evaluations allow, among what the policies name."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyengine import authzensearch
from policyengine.atoms import TooLarge, path_classes
from policyengine.authzen import AuthzenError
from policyengine.authzensearch import Kind, search
from policyengine.canonical import PathPattern
from tests.policyengine.test_authzen import (
    _FIELDS,
    _JSON,
    ADMIN,
    ALICE,
    ARCHIVED,
    BOB,
    CART,
    NOW,
    PDP,
    PEP,
    R1,
    R2,
    TD,
    WEB,
)  # fmt: skip


def results(kind: Kind, body: Any, **more: Any) -> list[Any]:
    found: Any = search(PDP, kind, body, caller=PEP, now=NOW, **more)
    return [row.get("id", row.get("name")) for row in found["results"]]


READ, WRITE = {"name": "read"}, {"name": "write"}
USERS, RECORDS = {"type": "user"}, {"type": "record"}


def test_the_certification_fixture_is_found() -> None:
    assert results("subject", {"subject": USERS, "action": READ, "resource": R1}) == ["alice", "bob"]
    assert results("subject", {"subject": USERS, "action": WRITE, "resource": R1}) == ["alice"]
    assert results("subject", {"subject": USERS, "action": WRITE, "resource": ARCHIVED}) == ["bob"]
    assert results("resource", {"subject": ALICE, "action": READ, "resource": RECORDS}) == ["record-1", "record-2"]
    archived = {**RECORDS, "properties": {"status": "archived"}}
    assert "record-2" in results("resource", {"subject": ADMIN, "action": WRITE, "resource": archived})
    assert results("action", {"subject": ALICE, "resource": R1}) == ["read", "write"]
    assert results("action", {"subject": BOB, "resource": R1}) == ["read"]
    assert "write" in results("action", {"subject": ADMIN, "resource": ARCHIVED})


def test_an_id_of_what_is_looked_for_is_ignored_and_context_taken() -> None:
    body = {"subject": ALICE, "action": WRITE, "resource": R1, "context": {"time": "x"}, "more": 1}
    assert results("subject", body) == ["alice"]


def test_nothing_is_found_of_what_nobody_knows() -> None:
    assert results("subject", {"subject": {"type": "spaceship"}, "action": READ, "resource": R1}) == []
    assert results("action", {"subject": {"type": "user", "id": "nobody"}, "resource": R1}) == []
    assert results("resource", {"subject": ALICE, "action": READ, "resource": {"type": "spaceship"}}) == []


def service(**properties: Any) -> dict[str, Any]:
    return {"type": "service", "id": "db", "properties": properties}


def test_workloads_and_services_are_found() -> None:
    get = {"name": "GET"}
    asked: dict[str, Any] = {"subject": {"type": "workload"}, "action": get}
    assert results("subject", {**asked, "resource": service(path="/orders/7")}) == [CART]
    assert results("subject", {**asked, "action": {"name": "connect"}, "resource": service(port=5432)}) == [WEB]
    # without a path: whoever may call some path
    assert results("subject", {**asked, "resource": service()}) == [CART]
    cart = {"type": "workload", "id": CART}
    assert results("resource", {"subject": cart, "action": get, "resource": {"type": "service"}}) == ["db"]
    assert results("resource", {"subject": cart, "action": {"name": "POST"}, "resource": {"type": "service"}}) == []
    assert results("action", {"subject": cart, "resource": service(path="/orders/7")}) == ["GET"]
    assert results("action", {"subject": {"type": "workload", "id": WEB}, "resource": service()}) == ["connect"]


def test_where_paths_cross_too_often_one_of_every_pattern_is_a_candidate(monkeypatch: pytest.MonkeyPatch) -> None:
    def crossing(patterns: list[PathPattern]) -> Any:
        if len(patterns) > 1:
            raise TooLarge
        return path_classes(patterns)

    monkeypatch.setattr(authzensearch, "path_classes", crossing)
    asked: dict[str, Any] = {"subject": {"type": "workload"}, "action": {"name": "GET"}}
    assert results("subject", {**asked, "resource": service()}) == [CART]


def test_identities_that_exist_are_candidates_too() -> None:
    body = {"subject": {"type": "workload"}, "action": {"name": "GET"}, "resource": service(path="/orders/7")}
    assert results("subject", body, known=lambda: [f"{TD}/ns/x/sa/y", CART]) == [CART]


def test_results_come_in_pages() -> None:
    body: dict[str, Any] = {"subject": USERS, "action": READ, "resource": R1, "page": {"limit": 1}}
    first: Any = search(PDP, "subject", body, caller=PEP, now=NOW)
    assert (first["results"], first["page"]["count"], first["page"]["total"]) == ([ALICE], 1, 2)
    second: Any = search(PDP, "subject", {**body, "page": {"token": first["page"]["next_token"]}}, caller=PEP, now=NOW)
    assert (second["results"], second["page"]["next_token"]) == ([BOB], "")


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("subject", {"subject": USERS, "resource": R1}),
        ("subject", {"subject": USERS, "action": READ, "resource": RECORDS}),
        ("resource", {"action": READ, "resource": RECORDS}),
        ("resource", {"subject": USERS, "action": READ, "resource": RECORDS}),
        ("action", {"subject": ALICE}),
        ("subject", {"subject": USERS, "action": READ, "resource": R1, "page": {"token": "x.1"}}),
        ("subject", {"subject": USERS, "action": READ, "resource": R1, "page": {"limit": 0}}),
        ("subject", {"subject": USERS, "action": READ, "resource": R1, "page": {"token": 7}}),
        ("subject", {"subject": USERS, "action": READ, "resource": R1, "page": []}),
        ("action", []),
    ],
)  # fmt: skip
def test_what_is_no_search_is_refused(kind: Kind, body: Any) -> None:
    with pytest.raises(AuthzenError):
        search(PDP, kind, body, caller=PEP, now=NOW)


def test_a_search_that_is_too_wide_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authzensearch, "MAX_QUESTIONS", 1)
    with pytest.raises(AuthzenError, match="too wide"):
        search(PDP, "subject", {"subject": USERS, "action": READ, "resource": R1}, caller=PEP, now=NOW)


@given(st.dictionaries(_FIELDS, _JSON) | _JSON, st.sampled_from(("subject", "resource", "action")))
def test_any_body_is_answered_or_refused(body: Any, kind: Kind) -> None:
    try:
        found: Any = search(PDP, kind, body, caller=PEP, now=NOW)
    except AuthzenError:
        return
    assert found["results"] == []


# INVARIANT: what a search finds, an evaluation allows; what it does not find of its candidates, none does.
@given(st.sampled_from((ALICE, BOB, ADMIN)), st.sampled_from((READ, WRITE)), st.sampled_from((R1, R2, ARCHIVED)))
def test_a_search_and_an_evaluation_never_disagree(subject: Any, action: Any, resource: Any) -> None:
    allowed = PDP.evaluate({"subject": subject, "action": action, "resource": resource}, caller=PEP, now=NOW)[
        "decision"
    ]
    body = {"subject": subject, "action": action, "resource": resource}
    assert (subject["id"] in results("subject", body)) is allowed or "properties" in subject
    assert (resource["id"] in results("resource", body)) is allowed
    assert (action["name"] in results("action", body)) is allowed
