"""Rules on conditions that decide nothing: found on the diagram, and gone without a trace."""

# ruff: noqa: E501  a table reads best with one case a line

import dataclasses
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mesh.request import Request
from policyengine import model, reference
from policyengine.idle import idle
from policyengine.ir import normalise
from policyengine.model import PolicySet
from policyengine.shadowing import Shadowing
from tests.examples import examples
from tests.policyengine.corners import CART, CLAIM_ADMIN, NOW, ROLE_ADMIN, WEB, allow, deny, go_on, tree
from tests.policyengine.strategies import policy_sets, requests

ROLES = {"headers": {"x-role": ["admin", "ops"]}}
GET = {"to": [{"methods": ["GET"], "paths": ["/orders"]}]}


def found(policies: PolicySet) -> dict[str, tuple[str, tuple[str, ...]]]:
    service = policies.service_for("db")
    assert service is not None
    form = normalise(policies, service)
    return {
        item.grant.rule: (item.kind, tuple(by.rule for by in item.by)) for item in idle(form, Shadowing(form), (), NOW)
    }


def rule(name: str, **fields: Any) -> dict[str, Any]:
    return allow(id=name, **{**GET, **fields})


@pytest.mark.parametrize(
    ("policies", "expected"),
    [
        pytest.param(tree(app=[rule("a", when=ROLES), rule("b", when=ROLE_ADMIN)]), {"b": ("redundant", ("a",))}, id="one-value-of-two"),
        pytest.param(tree(app=[rule("a", when=ROLE_ADMIN), rule("b", when=ROLES)]), {"a": ("redundant", ("b",))}, id="whatever-the-order"),
        pytest.param(tree(app=[rule("a", when={**ROLES, **CLAIM_ADMIN}), rule("b", when=ROLE_ADMIN)]), {}, id="two-conditions-are-not-one"),
        pytest.param(tree(app=[rule("a", when=ROLE_ADMIN), deny(id="d", when=ROLES, **GET)]), {"a": ("shadowed", ("d",))}, id="a-deny-on-more"),
        pytest.param(tree(guardrail=[deny(id="d", when=ROLES, **GET)], app=[rule("a", when=ROLE_ADMIN)]), {"a": ("unreachable", ("d",))}, id="a-guardrail-on-more"),
        pytest.param(tree(app=[rule("a", when=ROLE_ADMIN), deny(id="d", unless={"when": ROLE_ADMIN}, **GET)]), {}, id="a-deny-that-spares-it"),
        pytest.param(tree(app=[rule("a", when=ROLE_ADMIN), deny(id="d", unless={"when": CLAIM_ADMIN}, **GET), deny(id="e", when=CLAIM_ADMIN, **GET)]), {"a": ("shadowed", ("d", "e"))}, id="two-denies-leave-nothing"),
        pytest.param(tree(app=[rule("a", when=ROLE_ADMIN), go_on(id="p", when=ROLES, **GET)], baseline=[rule("z", **{"from": [WEB]})]), {"a": ("shadowed", ("p",))}, id="passed-over"),
        pytest.param(tree(app=[rule("a", when=ROLE_ADMIN)]), {}, id="alone"),
        pytest.param(tree(app=[allow(id="a", when=ROLES), allow(id="b", when=ROLE_ADMIN)]), {}, id="without-methods-it-is-not-asked"),
        pytest.param(tree(app=[rule("a", when={"peer_ip": ["10.0.0.0/8"]}), rule("b", when={"peer_ip": ["10.1.0.0/16"]}, **{"from": [CART]})]), {"b": ("redundant", ("a",))}, id="a-network-inside"),
    ],
)  # fmt: skip
def test_idle(policies: PolicySet, expected: dict[str, tuple[str, tuple[str, ...]]]) -> None:
    assert found(policies) == expected


# INVARIANT: without what is called idle every decision is the same.
@settings(max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(policy_sets, st.lists(requests, min_size=6, max_size=6))
def test_an_idle_rule_can_go(policies: PolicySet, asked: list[Request]) -> None:
    dead = {
        (item.grant.policy, item.grant.rule)
        for service in policies.services
        for form in (normalise(policies, service),)
        for item in idle(form, Shadowing(form), (), NOW)
    }
    kept = tuple(
        dataclasses.replace(policy, rules=rules)
        for policy in policies.policies
        if (rules := tuple(item for item in policy.rules if (policy.name, item.id) not in dead))
    )
    without = dataclasses.replace(
        policies,
        policies=kept,
        exceptions=tuple(item for item in policies.exceptions if (item.name, model.EXCEPTION_RULE) not in dead),
    )
    for request in asked:
        before = reference.decide(policies, request, snapshot="")
        after = reference.decide(without, request, snapshot="")
        assert (before.effect, before.policy_effect) == (after.effect, after.policy_effect)
