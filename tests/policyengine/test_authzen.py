"""AuthZEN questions as requests: the certification scenario's fixture as policies, and what no body may do."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.request import Request
from policyengine.authzen import MAX_EVALUATIONS, AuthzenError, Pdp, Question
from policyengine.loader import load_text

NOW = dt.datetime(2026, 11, 24, 12, 0, tzinfo=dt.UTC)
TD = "spiffe://corp.test"
PEP, CART, WEB = f"{TD}/ns/apps/sa/pep", f"{TD}/ns/shop/sa/cart", f"{TD}/ns/shop/sa/web"

# the fixture of "Authorization API 1.0 - Certification Scenario" §3.4, rules 1 to 8
FIXTURE = f"""apiVersion: limen.dev/v1
kind: Service
metadata: {{name: record, owner: t}}
spec:
  identities: ["{TD}/ns/apps/sa/record"]
  ports: [{{port: 443, protocol: http}}]
---
apiVersion: limen.dev/v1
kind: Service
metadata: {{name: db, owner: t}}
spec:
  identities: ["{TD}/ns/shop/sa/db"]
  ports: [{{port: 8080, protocol: http}}, {{port: 5432, protocol: tcp}}]
---
apiVersion: limen.dev/v1
kind: Policy
metadata: {{name: records, owner: t}}
spec:
  service: record
  tier: app
  rules:
  - id: read
    effect: allow
    from: ["{PEP}"]
    to: [{{methods: [READ], paths: ["/record-1", "/record-2"]}}]
    when: {{claims: {{issuer: "authzen:user", sub: [alice, bob]}}}}
  - id: write
    effect: allow
    from: ["{PEP}"]
    to: [{{methods: [WRITE], paths: ["/record-1", "/record-2"]}}]
    when: {{claims: {{issuer: "authzen:user", sub: [alice]}}}}
    unless: {{when: {{headers: {{x-resource-status: [archived]}}}}}}
  - id: admins
    effect: allow
    from: ["{PEP}"]
    to: [{{methods: [WRITE], paths: ["/{{id}}"]}}]
    when: {{claims: {{issuer: "authzen:user", role: [admin]}}, headers: {{x-resource-status: [archived]}}}}
  - id: bob-is-an-admin
    effect: allow
    from: ["{PEP}"]
    to: [{{methods: [WRITE], paths: ["/record-2"]}}]
    when: {{claims: {{issuer: "authzen:user", sub: [bob]}}, headers: {{x-resource-status: [archived]}}}}
  - id: delete
    effect: allow
    from: ["{PEP}"]
    to: [{{methods: [DELETE], paths: ["/record-1"]}}]
    when: {{claims: {{issuer: "authzen:user", sub: [alice]}}, headers: {{x-action-soft: ["true"]}}}}
---
apiVersion: limen.dev/v1
kind: Policy
metadata: {{name: shop, owner: t}}
spec:
  service: db
  tier: app
  rules:
  - {{id: orders, effect: allow, from: ["{CART}"], to: [{{methods: [GET], paths: ["/orders/{{id:int}}"]}}]}}
  - {{id: sql, effect: allow, from: ["{WEB}"], to: [{{ports: [5432]}}]}}
  - id: people
    effect: allow
    from: ["{WEB}"]
    to: [{{methods: [GET], paths: ["/me"]}}]
    when: {{claims: {{issuer: https://idp.test, roles: [admin]}}}}
"""


def fixture() -> Pdp:
    policies, found = load_text(FIXTURE, "f.yaml")
    assert [str(item) for item in found] == []
    return Pdp(policies, "sha256:00")


PDP = fixture()
ALICE, BOB = {"type": "user", "id": "alice"}, {"type": "user", "id": "bob"}
R1, R2 = {"type": "record", "id": "record-1"}, {"type": "record", "id": "record-2"}
ARCHIVED = {**R2, "properties": {"status": "archived"}}
ADMIN = {**BOB, "properties": {"role": "admin"}}


def body(subject: Any, action: Any, resource: Any, **more: Any) -> dict[str, Any]:
    named = action if isinstance(action, dict) else {"name": action}
    return {"subject": subject, "action": named, "resource": resource, **more}


def decision(given: Any) -> Any:
    return PDP.evaluate(given, caller=PEP, now=NOW)["decision"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param(body(ALICE, "read", R1), True, id="1"),
        pytest.param(body(ALICE, "write", R1), True, id="2"),
        pytest.param(body(BOB, "read", R1), True, id="3"),
        pytest.param(body(BOB, "write", R1), False, id="4"),
        pytest.param(body(ALICE, "write", ARCHIVED), False, id="5"),
        pytest.param(body(ADMIN, "write", ARCHIVED), True, id="6"),
        pytest.param(body(ALICE, {"name": "delete", "properties": {"soft": True}}, R1), True, id="7"),
        pytest.param(body(ALICE, {"name": "delete", "properties": {"soft": False}}, R1), False, id="8"),
        pytest.param(
            body(ALICE, "read", R1, context={"time": "2025-06-27T18:03-07:00", "ip": "192.168.1.1"}), True, id="context"
        ),
        pytest.param(body(ALICE, "read", R1, foo="bar", futureField={"nested": True}), True, id="unknown-fields"),
        pytest.param(body(ALICE, "read", {"type": "spaceship", "id": "1"}), False, id="unknown-type"),
        pytest.param(body({"type": "robot", "id": "alice"}, "read", R1), False, id="another-type-of-subject"),
        pytest.param(
            body({**BOB, "properties": {"sub": "alice", "iss": "authzen:user"}}, "write", R1), False,
            id="a-property-is-no-id",
        ),
        pytest.param(
            body({**ALICE, "properties": {"iss": "https://idp.test", "roles": ["admin"]}}, "GET",
                 {"type": "service", "id": "db", "properties": {"path": "/me"}}), False, id="a-property-is-no-issuer",
        ),
        pytest.param(body(ALICE, "write", {**R1, "properties": {"status": ["archived"]}}), False, id="odd-property"),
        pytest.param(body(ALICE, "read", {"type": "record", "id": "x/../record-1"}), False, id="an-id-is-one-segment"),
    ],
)  # fmt: skip
def test_the_certification_fixture(given: Any, expected: bool) -> None:
    assert decision(given) is expected


@pytest.mark.parametrize(
    ("subject", "action", "properties", "expected"),
    [
        pytest.param(CART, "GET", {"path": "/orders/7"}, True, id="workload-and-path"),
        pytest.param(CART, "GET", {"path": "/orders/x"}, False, id="another-path"),
        pytest.param(CART, "get", {"path": "/orders/7"}, False, id="A19-methods-are-exact"),
        pytest.param(CART, "GET", {"path": "/x/../orders/7"}, True, id="A01-canonical"),
        pytest.param(CART, "GET", {"path": "/orders/7;x"}, False, id="A08-ambiguous"),
        pytest.param(CART, "GET", {}, False, id="no-path"),
        pytest.param(WEB, "connect", {"port": 5432}, True, id="tcp"),
        pytest.param(CART, "connect", {"port": 5432}, False, id="tcp-of-another"),
        pytest.param(WEB, "GET", {"port": 5432, "path": "/orders/7"}, False, id="no-request-on-a-tcp-port"),
        pytest.param(CART, "GET", {"path": "/orders/7", "port": 1}, False, id="undeclared-port"),
        pytest.param(CART, "GET", {"path": "/orders/7", "port": "8080"}, False, id="a-port-is-a-number"),
        pytest.param(f"{CART},{WEB}", "GET", {"path": "/orders/7"}, False, id="no-identity"),
    ],
)
def test_a_service_is_asked_about_as_sidecars_ask(
    subject: str, action: str, properties: dict[str, Any], expected: bool
) -> None:
    given = body({"type": "workload", "id": subject}, action, {"type": "service", "id": "db", "properties": properties})
    assert decision(given) is expected
    by_id = {**given, "resource": {**given["resource"], "id": f"{TD}/ns/shop/sa/db"}}
    assert decision(by_id) is expected


def test_claims_of_a_workloads_token_are_what_the_caller_verified() -> None:
    resource = {"type": "service", "id": "db", "properties": {"path": "/me"}}
    claims = {"claims": {"iss": "https://idp.test", "roles": ["admin"]}}
    assert decision(body({"type": "workload", "id": WEB, "properties": claims}, "GET", resource))
    assert not decision(body({"type": "workload", "id": WEB}, "GET", resource))


def test_an_answer_says_which_rule_gave_it() -> None:
    assert PDP.evaluate(body(ALICE, "read", R1), caller=PEP, now=NOW)["context"] == {
        "code": "LM2300", "snapshot": "sha256:00", "mode": "enforce", "policy_decision": "allow",
        "tier": "app", "policy": "records", "rule": "read",
    }  # fmt: skip


def test_another_caller_does_not_speak_for_anybody() -> None:
    assert not PDP.evaluate(body(ALICE, "read", R1), caller=WEB, now=NOW)["decision"]


def test_a_question_is_a_request_of_the_servers_time() -> None:
    question = Question(ALICE, {"name": "read"}, R1, {"time": "1985-01-01T00:00:00Z", "peer_ip": "10.0.0.1"})
    found = PDP.request_of(question, PEP, NOW)
    assert found == Request(
        service="record", port=443, protocol="http", source=PEP, method="READ", path="/record-1",
        claims={"iss": "authzen:user", "sub": "alice"}, peer_ip="10.0.0.1", time=NOW,
    )  # fmt: skip


@pytest.mark.parametrize(
    "given",
    [
        pytest.param({"action": {"name": "read"}, "resource": R1}, id="no-subject"),
        pytest.param({"subject": ALICE, "resource": R1}, id="no-action"),
        pytest.param({"subject": ALICE, "action": {"name": "read"}}, id="no-resource"),
        pytest.param(body({"id": "alice"}, "read", R1), id="subject-without-type"),
        pytest.param(body({"type": "user"}, "read", R1), id="subject-without-id"),
        pytest.param(body(ALICE, {}, R1), id="action-without-name"),
        pytest.param(body(ALICE, "read", {"id": "1"}), id="resource-without-type"),
        pytest.param(body(ALICE, "read", {"type": "record"}), id="resource-without-id"),
        pytest.param(body("alice", "read", R1), id="subject-is-a-text"),
        pytest.param(body(ALICE, {"name": 123}, R1), id="name-is-a-number"),
        pytest.param(body(ALICE, "read", R1, context=[]), id="context-is-a-list"),
        pytest.param(body({**ALICE, "properties": []}, "read", R1), id="properties-are-a-list"),
        pytest.param(body({"type": "user", "id": ""}, "read", R1), id="empty-id"),
        pytest.param([], id="list"),
        pytest.param(None, id="null"),
    ],
)
def test_what_is_no_question_is_refused(given: Any) -> None:
    with pytest.raises(AuthzenError):
        PDP.evaluate(given, caller=PEP, now=NOW)


def decisions(given: Any) -> Any:
    found = PDP.evaluate_all(given, caller=PEP, now=NOW)
    return [item["decision"] for item in found["evaluations"]]  # type: ignore[attr-defined]  # a list of objects


def test_evaluations_take_what_stands_beside_them() -> None:
    both = [{"action": {"name": "read"}}, {"action": {"name": "write"}}]
    assert decisions({"subject": BOB, "resource": R1, "evaluations": both}) == [True, False]
    active = {"resource": {"id": "record-1", "properties": {"status": "active"}}}
    given = {**body(ALICE, "write", {"type": "record"}), "evaluations": [active, {"resource": ARCHIVED}]}
    assert decisions(given) == [True, False]
    assert decisions({**body(ALICE, "write", ARCHIVED), "evaluations": [{}, {"subject": ADMIN}]}) == [False, True]
    # an object replaces the default as a whole
    assert decisions({**body(ALICE, "write", ARCHIVED), "evaluations": [{"resource": R2}]}) == [True]


def test_one_that_cannot_be_read_is_denied_alone() -> None:
    given = {"subject": ALICE, "action": {"name": "read"}, "evaluations": [{"resource": R1}, {}, 7]}
    found: Any = PDP.evaluate_all(given, caller=PEP, now=NOW)["evaluations"]
    assert [item["decision"] for item in found] == [True, False, False]
    assert found[1]["context"]["error"]["status"] == 400


@pytest.mark.parametrize("more", [{}, {"evaluations": []}])
def test_without_evaluations_it_is_one(more: dict[str, Any]) -> None:
    assert PDP.evaluate_all({**body(ALICE, "read", R1), **more}, caller=PEP, now=NOW)["decision"] is True


@pytest.mark.parametrize(
    ("semantic", "actions", "expected"),
    [
        ("execute_all", ("read", "nothing", "write"), [True, False, True]),
        ("deny_on_first_deny", ("read", "nothing", "write"), [True, False]),
        ("deny_on_first_deny", ("read", "write"), [True, True]),
        ("permit_on_first_permit", ("nothing", "read", "write"), [False, True]),
        ("permit_on_first_permit", ("nothing", "no"), [False, False]),
    ],
)
def test_semantics_end_it(semantic: str, actions: tuple[str, ...], expected: list[bool]) -> None:
    given = {
        "subject": ALICE, "resource": R1, "options": {"evaluations_semantic": semantic, "another": 1},
        "evaluations": [{"action": {"name": name}} for name in actions],
    }  # fmt: skip
    assert decisions(given) == expected


@pytest.mark.parametrize(
    "more",
    [
        {"evaluations": {}},
        {"evaluations": [{}] * (MAX_EVALUATIONS + 1)},
        {"evaluations": [{}], "options": {"evaluations_semantic": "stop"}},
        {"evaluations": [{}], "options": []},
        {"evaluations": [{}], "subject": "alice"},
    ],
    ids=["object", "too-many", "semantic", "options", "default"],
)
def test_what_is_wrong_with_the_whole_is_refused(more: dict[str, Any]) -> None:
    with pytest.raises(AuthzenError):
        PDP.evaluate_all({**body(ALICE, "read", R1), **more}, caller=PEP, now=NOW)


_NAMES = st.sampled_from(("type", "id", "name", "properties", "claims", "headers", "path", "port", "x y"))
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_NAMES, inner, max_size=4),
    max_leaves=12,
)
_FIELDS = st.sampled_from(("subject", "action", "resource", "context", "evaluations", "options", "page"))


# INVARIANT: whatever a body holds, it is answered with decisions or refused, and never allowed by accident.
@given(st.dictionaries(_FIELDS, _JSON) | _JSON)
def test_any_body_is_answered_or_refused(given: Any) -> None:
    for ask in (PDP.evaluate, PDP.evaluate_all):
        try:
            found = ask(given, caller=PEP, now=NOW)
        except AuthzenError:
            continue
        json.dumps(found)
        assert True not in [found.get("decision"), *(item["decision"] for item in found.get("evaluations", ()))]  # type: ignore[attr-defined]  # a list of objects
    assert PDP._index.errors == 0


@given(_JSON, _JSON, _JSON)
def test_any_properties_are_taken(subject: Any, action: Any, resource: Any) -> None:
    one, two, three = ({"properties": {"p": found}} for found in (subject, action, resource))
    given = body({**ALICE, **one}, {"name": "read", **two}, {**R1, **three})
    assert decision(given) is True
    assert PDP._index.errors == 0
