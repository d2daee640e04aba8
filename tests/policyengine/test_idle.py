"""Rules on conditions that decide nothing: found on the diagram, and gone without a trace."""

# ruff: noqa: E501  a table reads best with one case a line

import dataclasses
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mesh.request import Request
from policyengine import model, reference
from policyengine.diagram import build, leaves
from policyengine.idle import idle, unnamed
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


def at(*paths: str) -> dict[str, Any]:
    return {"to": [{"methods": ["GET"], "paths": list(paths)}]}


@pytest.mark.parametrize(
    ("policies", "expected"),
    [
        pytest.param(
            tree(app=[rule("a", **at("/o/{x}")), deny(id="d", **at("/o/{x:token}")), deny(id="e", **at("/o/{x}"))]),
            {"a": ("shadowed", ("d", "e"))}, id="two-on-one-path",
        ),
        pytest.param(
            tree(app=[rule("a", **at("/o/**")), deny(id="d", **at("/o/{x}", "/o/")), deny(id="e", **at("/o/{x}/**"))]),
            {"a": ("shadowed", ("d", "e"))}, id="several-together",
        ),
        pytest.param(
            tree(guardrail=[deny(id="g", **at("/o/{x}", "/o/"))], app=[rule("a", **at("/o/**")), deny(id="e", **at("/o/{x}/**"))]),
            {"a": ("shadowed", ("g", "e"))}, id="two-tiers-together",
        ),
        pytest.param(
            tree(app=[rule("a", **at("/o/**")), deny(id="d", **at("/o/{x}")), deny(id="e", **at("/o/{x}/**"))]),
            {}, id="a-slash-at-the-end-is-left",
        ),
        pytest.param(
            tree(app=[allow(id="a"), deny(id="d", to=[{"paths": ["/**"]}])]), {}, id="connections-are-left",
        ),
    ],
)  # fmt: skip
def test_a_rule_that_no_leaf_names_is_found(
    policies: PolicySet, expected: dict[str, tuple[str, tuple[str, ...]]]
) -> None:
    form = normalise(policies, policies.services[0])
    unasked = [grant for grant in form.grants if grant.rule != "a"]
    found = unnamed(form, unasked, NOW)
    assert {item.grant.rule: (item.kind, tuple(by.rule for by in item.by)) for item in found} == expected


# INVARIANT: what no leaf names decides no request, also none that the diagram does not speak of.
@settings(max_examples=examples(30), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(policy_sets, st.lists(requests, min_size=1, max_size=20))
def test_what_no_leaf_names_never_decides(policies: PolicySet, asked: list[Request]) -> None:
    form = normalise(policies, policies.services[0])
    silent = {(item.grant.policy, item.grant.rule) for item in unnamed(form, (), NOW)}
    for request in (dataclasses.replace(item, service="db") for item in asked):
        if (request.time is not None and request.time < NOW) or "path" in request.unknown:
            continue
        decision = reference.decide(policies, request, snapshot="")
        assert (decision.policy, decision.rule) not in silent


# INVARIANT: look-ups and leaves are one diagram: what a look-up calls covered by stronger rules no leaf names.
@settings(max_examples=examples(30), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(policy_sets)
def test_what_look_ups_call_shadowed_no_leaf_names(policies: PolicySet) -> None:
    form = normalise(policies, policies.services[0])
    named = {
        leaf.verdicts[0].grant.rank
        for _, _, tree_ in build("db", [policies], NOW).trees()
        for leaf in leaves(tree_)
        if leaf.verdicts[0].grant is not None
    }
    covered = [item for item in Shadowing(form).covered() if item.kind != "redundant"]
    assert not named & {item.grant.rank for item in covered}
