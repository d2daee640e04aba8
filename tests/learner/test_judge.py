import pytest

from learner.history import History
from learner.judge import Judge, as_flow
from policyengine.loader import load_text
from tests.learner.worlds import NS, START, flow

TREE = f"""
apiVersion: limen.dev/v1
kind: Service
metadata: {{name: db, owner: t}}
spec:
  identities: ["{NS}db"]
  ports: [{{port: 8080, protocol: http}}]
---
apiVersion: limen.dev/v1
kind: Policy
metadata: {{name: p, owner: t}}
spec:
  service: db
  tier: app
  rules:
  - id: reads
    effect: allow
    from: ["{NS}web"]
    to: [{{ports: [8080], methods: [GET], paths: ["/a"]}}]
  - id: tenants
    effect: allow
    from: ["{NS}web"]
    to: [{{ports: [8080], methods: [PUT], paths: ["/a"]}}]
    when: {{headers: {{x-tenant: [a]}}}}
"""


@pytest.mark.parametrize(
    ("fields", "allowed", "uncertain"),
    [
        ({}, True, False),
        ({"path": "/b"}, False, False),
        ({"method": "PUT"}, False, True),
        ({"protocol": "udp"}, False, False),
    ],
    ids=["allowed", "denied", "hangs-on-a-header", "udp"],
)
def test_a_tree_is_asked_about_each_kind(fields: dict[str, object], *, allowed: bool, uncertain: bool) -> None:
    policies, _ = load_text(TREE, "t")
    history = History()
    history.add([flow("web", "db", START, **{"path": "/a", **fields})])
    (kind,) = history.kinds.values()
    judge = Judge(policies)
    found = judge(kind)
    assert (found.is_allowed, found.is_uncertain) == (allowed, uncertain)
    assert judge.denies(kind) is not allowed
    assert as_flow(kind).destination == f"{NS}db"


def test_unused_rules_are_those_that_nothing_can_have_needed() -> None:
    policies, _ = load_text(TREE, "t")
    history = History()
    history.add([flow("web", "db", START, path="/a")])
    judge = Judge(policies)
    assert [grant.rule for grant in judge.unused("db", history.kinds.values())] == ["tenants"]
