import datetime as dt

import pytest

from learner.drift import Drift, find_drift
from learner.history import History
from learner.judge import Judge
from learner.propose import learn
from learner.risk import Watch
from mesh.flow import Flow
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
  - id: front
    effect: allow
    from: ["{NS}web"]
    to: [{{ports: [8080], methods: [GET], paths: ["/a", "/b"]}}]
  - id: close
    effect: allow
    from: ["{NS}closer"]
    to: [{{ports: [8080], methods: [GET], paths: ["/c"]}}]
    evidence: {{n: 4, days: 4, first: "2026-07-01T00:00:00Z", last: "2026-10-01T00:00:00Z", longest_gap_days: 31}}
  - id: never
    effect: deny
    from: ["{NS}evil"]
"""


def drift(flows: list[Flow], unused_after: int = 30) -> Drift:
    history = History()
    history.add(flows)
    policies, findings = load_text(TREE, "t")
    assert not findings
    return find_drift(history, learn(history, Watch()), Judge(policies), (), unused_after)


def daily(days: int, path: str = "/a") -> list[Flow]:
    return [flow("web", "db", START + dt.timedelta(days=day), path=path) for day in range(days)]


def test_paths_of_a_used_rule_are_looked_at_one_by_one() -> None:
    found = drift(daily(10))
    assert [(item.rule, item.paths, item.is_due) for item in found.never_used] == [("front", ("/b",), False)]
    assert not [item for item in found.vanished if item.rule == "front"]


@pytest.mark.parametrize(
    ("days", "where"),
    [(14, "waiting"), (40, "waiting"), (70, "vanished")],
    ids=["two-weeks", "forty-days", "ten-weeks"],
)
def test_a_monthly_rule_is_missed_after_twice_its_pause(days: int, where: str) -> None:
    found = drift([*daily(days), *daily(days, "/b")])
    assert [item.rule for item in getattr(found, where)] == ["close"]
    assert found.has_findings is (where == "vanished")


def test_only_what_was_watched_in_silence_is_tightened() -> None:
    found = drift([*daily(20), *daily(20, "/b")], unused_after=10)
    assert list(found.tightenings()) == []
    found = drift([*daily(70), *daily(70, "/b")], unused_after=10)
    assert [(item.rule, item.paths) for item in found.tightenings()] == [("close", None)]


def test_denies_are_never_unused() -> None:
    found = drift(daily(90), unused_after=1)
    rules = {item.rule for group in (found.never_used, found.vanished, found.waiting) for item in group}
    assert "never" not in rules


def test_weekends_are_no_drift() -> None:
    week = [item for item in daily(26) if item.start.weekday() < 5]
    assert [item.rule for item in drift(week).vanished] == []


def test_what_a_rule_denies_names_it() -> None:
    found = drift([*daily(3), flow("evil", "db", START, path="/a")])
    assert [item.reason for item in found.new] == ["rule p/never denies it"]
