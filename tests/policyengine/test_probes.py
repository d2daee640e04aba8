"""Probes: every service and caller has its turn, what no class holds is among them, never more than asked."""

import datetime as dt

import pytest

from policyengine import reference
from policyengine.probes import batches, probes_of
from tests.policyengine.corners import CART, NOW, TD, WEB, allow, deny, tree

POLICIES = tree(
    guardrail=[deny(to=[{"paths": ["/admin/**"]}])],
    app=[allow(**{"from": [CART], "to": [{"methods": ["GET"]}]}), allow(**{"from": [f"{TD}/ns/batch/**"]})],
)


def test_probes_meet_every_rule_and_every_kind_of_denial() -> None:
    found = [reference.decide(POLICIES, request, snapshot="s") for request in probes_of(POLICIES, NOW, 500)]
    assert {"r0", "r1"} <= {item.rule for item in found if item.is_allowed}
    assert {"LM2300", "LM2301", "LM2302", "LM2303", "LM2304", "LM2305", "LM2306"} <= {item.code for item in found}


def test_probes_are_bounded_and_turn_by_turn() -> None:
    found = probes_of(POLICIES, NOW, 12)
    assert len(found) == 12
    assert {"db", "web"} <= {request.service for request in found}
    assert any(request.source == CART for request in probes_of(POLICIES, NOW, 40))
    assert any(request.source == WEB or request.service == "web" for request in found)


def test_probes_of_nothing_ask_about_an_unknown_service() -> None:
    empty = tree()
    assert len(probes_of(type(empty)(), NOW + dt.timedelta(days=1), 10)) == 1


def test_batches_keep_everything() -> None:
    found = probes_of(POLICIES, NOW, 25)
    assert [len(batch) for batch in batches(found, 10)] == [10, 10, 5]


def test_a_service_that_is_too_large_to_look_at_leaves_the_others_their_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("policyengine.atoms.MAX_PATH_STEPS", 2)
    found = probes_of(POLICIES, NOW, 500)
    assert found[0].service == ""
    assert {request.source for request in found} >= {f"{TD}/ns/batch/limen-witness"}
