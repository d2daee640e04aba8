"""The nearest miss is the smallest change that was tried and works; the path names every tier."""

# ruff: noqa: E501  a table reads best with one case a line

import dataclasses

import pytest
from hypothesis import HealthCheck, given, settings

from mesh.request import Effect, Request
from policyengine import reference
from policyengine.explain import explain, nearest_miss
from policyengine.loader import load_text
from policyengine.model import PolicySet
from tests.examples import examples
from tests.policyengine.corners import (
    ADMIN,
    CART,
    CLAIM_ADMIN,
    CORNERS,
    FUTURE,
    PAST,
    ROLE_ADMIN,
    TD,
    WEB,
    Corner,
    allow,
    ask,
    deny,
    go_on,
    grant,
    tree,
)
from tests.policyengine.strategies import policy_sets, requests

ORDERS = {"methods": ["GET"], "paths": ["/orders"]}


@pytest.mark.parametrize(
    ("policies", "request_", "differs", "fix"),
    [
        pytest.param(tree(app=[allow(to=[ORDERS])]), ask(method="POST"), ("methods",), "add `POST` to `methods`", id="method"),
        pytest.param(tree(app=[allow(to=[ORDERS])]), ask(path="/orders/5"), ("paths",), "add `/orders/5` to `paths`", id="path"),
        pytest.param(tree(app=[allow(**{"from": [WEB]})]), ask(), ("from",), f"add `{CART}` to `from`", id="caller"),
        pytest.param(tree(app=[allow(to=[{"hosts": ["a.test"]}])]), ask(), ("hosts",), "add `db.corp.test` to `hosts`", id="host"),
        pytest.param(tree(app=[allow(to=[{"hosts": ["a.test"]}])]), ask(host=None), ("hosts",), "send the Host `a.test`", id="no-host"),
        pytest.param(tree(app=[allow(to=[{"hosts": ["*.a.test"]}])]), ask(host="?"), ("hosts",), "send the Host `www.a.test`", id="malformed-host"),
        pytest.param(tree(app=[allow(to=[{"ports": [81]}])], ports=[(8080, "http"), (81, "http")]), ask(), ("ports",), "add `8080` to `ports`", id="port"),
        pytest.param(tree(app=[allow(when=ROLE_ADMIN)]), ask(), ("headers.x-role",), "send the header `x-role: admin`", id="header"),
        pytest.param(tree(app=[allow(when=CLAIM_ADMIN)]), ask(), ("claims",), "present a token of `https://idp.test` with `roles: admin`", id="claims"),
        pytest.param(tree(app=[allow(when={"peer_ip": ["192.0.2.0/24"]})]), ask(), ("peer_ip",), "call from 192.0.2.0/24", id="address"),
        pytest.param(tree(app=[allow(when={"hours": {"tz": "UTC", "from": "01:00", "to": "02:00"}})]), ask(), ("hours",), "call between 01:00 and 02:00 UTC", id="hours"),
        pytest.param(tree(app=[allow(when={"rego": "data.shop.x"})]), ask(), ("rego",), "meet the custom rule `data.shop.x`, or remove it", id="rego"),
        pytest.param(tree(app=[allow(unless={"from": [CART]})]), ask(), ("unless",), f"take `{CART}` out of `unless.from`", id="unless"),
        pytest.param(tree(app=[allow(), deny()]), ask(), ("unless",), f"add `{CART}` to `unless.from`", id="deny"),
        pytest.param(tree(app=[allow(), go_on()]), ask(), ("unless",), f"add `{CART}` to `unless.from`", id="pass"),
        pytest.param(tree(app=[deny(), allow(to=[ORDERS])]), ask(method="POST"), ("methods", "unless"), "add `POST` to `methods`", id="deny-and-allow"),
        pytest.param(tree(exceptions=[grant(PAST)]), ask(), ("until",), "renew exception `fire`", id="exception"),
        pytest.param(tree(), ask(), ("rule",), "add a rule to the app tier", id="no-rule"),
        pytest.param(tree(app=[allow()]), ask(source=None), ("source",), "connect with an SVID", id="identity"),
        pytest.param(tree(app=[allow()]), ask(path="/a;b"), ("path",), "send a request that can be read in one way only", id="ambiguous"),
        pytest.param(tree(app=[allow()]), ask(port=81), ("port",), "call a port that `db` declares (8080)", id="undeclared-port"),
        pytest.param(tree(app=[allow()]), ask(service="dbb"), ("service",), "did you mean `db`?", id="service"),
    ],
)  # fmt: skip
def test_nearest_miss(policies: PolicySet, request_: Request, differs: tuple[str, ...], fix: str) -> None:
    found = nearest_miss(policies, request_)
    assert found is not None
    assert found.differs == differs
    assert fix in found.fix


def test_the_smallest_gap_wins() -> None:
    policies = tree(
        app=[
            allow(id="far", **{"from": [WEB]}, to=[{"methods": ["POST"], "paths": ["/orders"]}]),
            allow(id="near", **{"from": [CART]}, to=[ORDERS]),
        ]
    )
    found = nearest_miss(policies, ask(method="POST"))
    assert found is not None
    assert (found.policy, found.rule, found.differs) == ("app-db", "near", ("methods",))


def test_nothing_is_nearest_to_what_is_allowed() -> None:
    assert nearest_miss(tree(app=[allow()]), ask()) is None


def test_observe_still_has_a_nearest_miss() -> None:
    assert nearest_miss(tree(observe=FUTURE), ask()) is not None


def test_a_deny_that_asks_for_a_token_is_met_by_one() -> None:
    policies = tree(guardrail=[deny(unless={"when": CLAIM_ADMIN})], app=[allow()])
    found = nearest_miss(policies, ask())
    assert found is not None
    assert (found.policy, found.rule, found.differs) == ("guardrail-db", "r0", ("claims",))
    assert found.fix == "present a token of `https://idp.test` with `roles: admin`"


@pytest.mark.parametrize("corner", CORNERS, ids=lambda corner: corner.name)
def test_explanation_never_contradicts_the_decision(corner: Corner) -> None:
    found = explain(corner.policies, corner.request, snapshot="s")
    assert found.decision == reference.decide(corner.policies, corner.request, snapshot="s")
    named = [
        step
        for step in found.steps
        if step.rule and step.rule == found.decision.rule and step.tier == found.decision.tier
    ]
    assert bool(named) == (bool(found.decision.rule) and not found.ambiguous)


def test_path_names_every_tier() -> None:
    found = explain(tree(guardrail=[go_on()], app=[allow()]), ask(), snapshot="s")
    assert [(step.tier, step.is_reached, step.effect) for step in found.steps] == [
        ("guardrail", True, Effect.PASS),
        ("app", True, Effect.ALLOW),
        ("baseline", False, None),
    ]


def test_a_step_names_all_that_matched_the_deciding_one_first() -> None:
    policies = tree(app=[allow(id="a"), go_on(id="b"), deny(id="c"), allow(id="d", **{"from": [WEB]})])
    step = explain(policies, ask(), snapshot="s").steps[1]
    assert [(str(item.effect), item.rule) for item in step.matched] == [("deny", "c"), ("pass", "b"), ("allow", "a")]
    assert (step.effect, step.rule) == (Effect.DENY, "c")


def test_the_deciding_rule_and_the_nearest_have_their_places() -> None:
    text = """\
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
"""
    policies, findings = load_text(text, "db.yaml")
    assert findings == []
    denied = explain(policies, ask(path="/admin"), snapshot="s")
    assert denied.span is not None
    assert (denied.span.file, denied.span.line) == ("db.yaml", 13)
    missed = explain(policies, ask(path="/refunds"), snapshot="s")
    assert missed.span is None
    assert missed.fix is not None
    assert missed.fix.span is not None
    assert missed.fix.span.line == 14
    assert missed.fix.miss.fix == "add `/refunds` to `paths` in rule `orders` of policy `p` at db.yaml:14:5"


@pytest.mark.parametrize("corner", [c for c in CORNERS if c.effect == "deny"], ids=lambda corner: corner.name)
def test_nearest_miss_of_a_denied_corner_is_an_answer_or_none(corner: Corner) -> None:
    found = nearest_miss(corner.policies, corner.request)
    assert found is None or (found.fix and found.differs)


def test_exact_id_in_fix_is_the_callers() -> None:
    policies = tree(app=[allow(**{"from": [f"{TD}/ns/shop/**"]})])
    found = nearest_miss(policies, ask(source=ADMIN))
    assert found is not None
    assert ADMIN in found.fix
    rule = dataclasses.replace(policies.policies[0].rules[0])
    assert rule.id == found.rule


# INVARIANT: what the rules allow has no nearest miss, and a named rule exists.
@settings(max_examples=examples(40), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(policy_sets, requests)
def test_nearest_miss_of_generated_cases(policies: PolicySet, request_: Request) -> None:
    found = nearest_miss(policies, request_)
    if reference.decide(policies, request_, snapshot="").policy_effect is Effect.ALLOW:
        assert found is None
    elif found is not None and found.rule:
        names = {(policy.name, rule.id) for policy in policies.policies for rule in policy.rules}
        names |= {(exception.name, "exception") for exception in policies.exceptions}
        assert (found.policy, found.rule) in names
