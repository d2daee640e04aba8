"""The JSON of an explanation keeps the keys of a decision and adds where, by which way, and what would help."""

from limen.decisions import decision_to_json
from limen.explained import explanation_to_json, located, place
from mesh.problems import Span
from policyengine.explain import explain
from policyengine.loader import load_text
from policyengine.model import policy_set_from_json
from tests.policyengine.corners import ask

TEXT = """\
apiVersion: limen.dev/v1
kind: Service
metadata: {name: db, owner: o}
spec: {identities: ["spiffe://corp.test/ns/shop/sa/db"], ports: [{port: 8080, protocol: http}]}
---
apiVersion: limen.dev/v1
kind: Policy
metadata: {name: p, owner: o}
spec:
  service: db
  tier: app
  rules:
  - {id: closed, effect: deny, from: [any], to: [{paths: ["/admin"]}]}
  - {id: orders, effect: allow, from: [any], to: [{paths: ["/orders"]}]}
---
apiVersion: limen.dev/v1
kind: Exception
metadata: {name: fire, owner: o}
spec:
  rule: {service: db, from: ["spiffe://corp.test/ns/shop/sa/cart"], to: [{paths: ["/fire"]}]}
  until: "2027-01-01T00:00:00Z"
  reason: incident
"""


def test_the_keys_of_a_decision_stay_as_they_are() -> None:
    policies, _ = load_text(TEXT, "db.yaml")
    found = explain(policies, ask(path="/refunds"), snapshot="s")
    plain, full = decision_to_json(found.decision, nearest=found.nearest), explanation_to_json(found)
    nearest = full.pop("nearest")
    assert isinstance(nearest, dict)
    assert isinstance(plain["nearest"], dict)
    assert plain["nearest"].items() <= nearest.items()
    assert {name: value for name, value in plain.items() if name != "nearest"}.items() <= full.items()
    assert (nearest["file"], nearest["line"]) == ("db.yaml", 14)
    assert [(item["changes"], item["rule"], item["field"]) for item in nearest["changes"]] == [
        ("policy", "orders", "paths")
    ]
    assert [(row["source"], row["paths"], row["replayed"]) for row in nearest["opens"]] == [("any", ["/refunds"], True)]
    assert nearest["complete"] is True


def test_the_deciding_rule_and_every_tier_are_placed() -> None:
    policies, _ = load_text(TEXT, "db.yaml")
    found = explanation_to_json(explain(policies, ask(path="/admin"), snapshot="s"))
    assert (found["file"], found["line"], found["column"]) == ("db.yaml", 13, 5)
    path = found["path"]
    assert isinstance(path, list)
    assert [(step["tier"], step["reached"], step["effect"], step["line"]) for step in path] == [
        ("guardrail", True, None, None),
        ("app", True, "deny", 13),
        ("baseline", False, None, None),
    ]


def test_a_tree_lends_its_places_to_a_snapshot() -> None:
    files, _ = load_text(TEXT, "db.yaml")
    snapshot = policy_set_from_json(files.to_json())
    assert explain(snapshot, ask(path="/admin"), snapshot="s").span is None
    lent = located(snapshot, files)
    assert lent == snapshot
    for path, line in (("/admin", 13), ("/orders", 14), ("/fire", 18)):
        span = explain(lent, ask(path=path), snapshot="s").span
        assert span is not None
        assert (span.file, span.line) == ("db.yaml", line)
    assert located(snapshot, None) is snapshot


def test_what_has_no_place_says_so() -> None:
    assert place(None) == {"file": None, "line": None, "column": None}
    assert place(Span(file="a", line=1, column=2)) == {"file": "a", "line": 1, "column": 2}
