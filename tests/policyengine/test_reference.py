"""The reference evaluator, held to the table of design D3's corners."""

import pytest

from mesh.request import Effect, Mode
from policyengine.model import Group, Operation, Policy, PolicySet, Principal, Rule
from policyengine.reference import decide
from tests.policyengine.corners import CORNERS, Corner, allow, ask, deny, tree


@pytest.mark.parametrize("corner", CORNERS, ids=lambda corner: corner.name)
def test_corner(corner: Corner) -> None:
    found = decide(corner.policies, corner.request, snapshot="s")
    by = f"{found.tier}/{found.rule}" if found.rule else found.code
    assert (str(found.effect), by) == (corner.effect, corner.by)


def test_names_of_corners_are_unique() -> None:
    names = [corner.name for corner in CORNERS]
    assert len(names) == len(set(names))


def test_decision_names_snapshot_policy_and_mode() -> None:
    found = decide(tree(app=[allow()]), ask(), snapshot="sha256:00")
    assert (found.snapshot, found.policy, found.mode, found.code) == ("sha256:00", "app-db", Mode.ENFORCE, "LM2300")


def test_policy_decision_stays_deny_when_observe_overrides() -> None:
    found = decide(tree(app=[deny()], observe="2026-12-01T00:00:00Z"), ask(), snapshot="s")
    assert (found.effect, found.policy_effect, found.mode) == (Effect.ALLOW, Effect.DENY, Mode.OBSERVE)


def test_order_inside_a_tier_does_not_matter() -> None:
    rules = [allow(id="a"), deny(id="b"), deny(id="c")]
    found = {decide(tree(app=order), ask(), snapshot="s").rule for order in (rules, rules[::-1])}
    assert found == {"b"}


@pytest.mark.parametrize(
    ("effect", "members", "expected"),
    [
        pytest.param(Effect.ALLOW, (), "LM2302", id="A38-allow-for-nobody-allows-nothing"),
        pytest.param(Effect.DENY, (), "LM2300", id="A38-deny-for-nobody-denies-nothing"),
        pytest.param(Effect.ALLOW, None, "LM2302", id="allow-for-a-missing-group-allows-nothing"),
        pytest.param(Effect.DENY, None, "LM2301", id="deny-for-a-missing-group-denies-everybody"),
    ],
)
def test_groups_without_members(effect: Effect, members: tuple[()] | None, expected: str) -> None:
    plain = tree(app=[allow(id="z")]) if effect is Effect.DENY else tree()
    rule = Rule(id="r", effect=effect, from_=(Principal.parse("group:g"),), to=(Operation(ports=(8080,)),))
    policies = PolicySet(
        services=plain.services,
        policies=(*plain.policies, Policy(name="p", owner="", service="db", tier="app", rules=(rule,))),
        groups=() if members is None else (Group(name="g", owner="", members=members),),
    )
    assert decide(policies, ask(), snapshot="s").code == expected
