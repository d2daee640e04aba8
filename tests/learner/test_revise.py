import datetime as dt

import pytest

from learner.history import History
from learner.propose import learn
from learner.revise import Revision, Tightening, merged
from learner.risk import Watch
from mesh.flow import Flow
from policyengine.loader import load_text
from policyengine.model import PolicySet
from tests.learner.worlds import NS, START, flow

TREE = f"""# the database of the shop
apiVersion: limen.dev/v1
kind: Service
metadata: {{name: db, owner: team-data}}
spec:
  identities: ["{NS}db"]
  ports: [{{port: 8080, protocol: http}}]  # see the runbook
---
apiVersion: limen.dev/v1
kind: Policy
metadata: {{name: db-app, owner: team-data}}
spec:
  service: db
  tier: app
  rules:
  # the shop front
  - id: front
    effect: allow
    from: ["{NS}web"]
    to:
    - {{ports: [8080], methods: [GET], paths: ["/a"]}}  # reads
  - id: never
    effect: deny
    from: ["{NS}evil"]
"""


def revision(flows: list[Flow]) -> Revision:
    policies, findings = load_text(TREE, "t.yaml")
    assert not findings
    found = Revision(policies, {"t.yaml": TREE}, {"t.yaml": "t.yaml"})
    history = History()
    history.add(flows)
    found.extend(learn(history, Watch()))
    return found


def loaded(found: Revision) -> PolicySet:
    policies, findings = load_text("---\n".join(found.texts.values()), "after")
    assert not [item for item in findings if item.severity == "error"]
    return policies


def comments(text: str) -> list[str]:
    return [line.partition("#")[2] for line in text.splitlines() if "#" in line]


def test_what_is_allowed_already_changes_nothing() -> None:
    found = revision([flow("web", "db", START, path="/a")])
    assert found.texts == {"t.yaml": TREE}
    assert found.changes == []


def test_a_path_goes_into_the_rule_of_its_caller_and_comments_survive() -> None:
    found = revision([flow("web", "db", START, path="/b")])
    assert [change.kind for change in found.changes] == ["rule extended"]
    assert 'paths: ["/a", /b]' in found.texts["t.yaml"] or '"/b"' in found.texts["t.yaml"]
    assert comments(found.texts["t.yaml"]) == comments(TREE)
    rule = loaded(found).policies[0].rules[0]
    assert '"n": 1' in str(rule.evidence) or '"n":1' in str(rule.evidence)


def test_a_method_never_multiplies_with_the_paths_of_another() -> None:
    found = revision([flow("web", "db", START, method="POST", path="/b")])
    assert [change.kind for change in found.changes] == ["rule added"]
    rules = {rule.id: rule for rule in loaded(found).policies[0].rules}
    assert set(rules) == {"front", "never", "from-web"}
    assert [str(path) for path in rules["from-web"].to[0].paths or ()] == ["/b"]  # type: ignore[index]
    assert comments(found.texts["t.yaml"]) == comments(TREE)


def test_new_callers_services_and_ports() -> None:
    found = revision(
        [
            flow("job", "db", START, path="/a"),
            flow("web", "cache", START, path="/k"),
            flow("web", "db", START, destination_port=9090, protocol="tcp", method=None, path=None),
        ]
    )
    assert {change.kind for change in found.changes} == {"rule added", "service added", "port added"}
    policies = loaded(found)
    assert {service.name for service in policies.services} == {"db", "cache"}
    assert policies.service_for("db").protocol_of(9090) == "tcp"  # type: ignore[union-attr]
    assert comments(found.texts["t.yaml"]) == comments(TREE)


def test_what_a_deny_decides_is_left_to_people() -> None:
    found = revision([flow("evil", "db", START, path="/a")])
    assert [change.kind for change in found.changes] == ["left"]
    assert "rule never denies" in found.changes[0].what
    assert found.texts == {"t.yaml": TREE}


def test_the_same_traffic_again_changes_nothing_more() -> None:
    flows = [flow("web", "db", START, path="/b"), flow("job", "db", START, method="PUT", path="/c")]
    first = revision(flows)
    policies, _ = load_text(first.texts["t.yaml"], "t.yaml")
    again = Revision(policies, first.texts, {"t.yaml": "t.yaml"})
    history = History()
    history.add(flows)
    again.extend(learn(history, Watch()))
    assert again.changes == []
    assert again.texts == first.texts


@pytest.mark.parametrize(
    ("paths", "left"),
    [(None, {"never"}), (("/b",), {"front", "never"})],
    ids=["a-whole-rule", "a-path"],
)
def test_tightening_takes_away_and_nothing_else(paths: tuple[str, ...] | None, left: set[str]) -> None:
    found = revision([flow("web", "db", START, path="/b")])
    policies = loaded(found)
    again = Revision(load_text(found.texts["t.yaml"], "t.yaml")[0], found.texts, {"t.yaml": "t.yaml"})
    again.tighten([Tightening("db-app", "front", "db", "unused", paths)])
    rules = {rule.id: rule for rule in loaded(again).policies[0].rules}
    assert set(rules) == left
    assert len(policies.policies[0].rules) == 2
    if paths is not None:
        assert [str(path) for path in rules["front"].to[0].paths or ()] == ["/a"]  # type: ignore[index]


def test_evidence_adds_up() -> None:
    old = {"n": 2, "days": 1, "first": "2026-01-02T00:00:00Z", "last": "2026-01-02T00:00:00Z", "sensors": ["a"]}
    new = {"n": 3, "days": 2, "first": "2026-01-01T00:00:00Z", "last": "2026-01-05T00:00:00Z", "sensors": ["b"]}
    found = merged(old, new)
    assert (found["n"], found["days"], found["sensors"]) == (5, 3, ["a", "b"])
    assert (found["first"], found["last"]) == ("2026-01-01T00:00:00Z", "2026-01-05T00:00:00Z")
    assert dt.datetime.fromisoformat(str(found["last"])).day == 5
