"""Lints say only what is sure."""

# ruff: noqa: E501  a table reads best with one case a line
import dataclasses
import pathlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mesh.request import Effect, Request
from policyengine import reference
from policyengine.lint import lint, lint_tree
from policyengine.model import Group, Policy, PolicySet, Principal, Rule
from tests.examples import examples
from tests.policyengine.corners import (
    CART,
    CLAIM_ADMIN,
    FUTURE,
    NOW,
    ROLE_ADMIN,
    TD,
    WEB,
    allow,
    ask,
    deny,
    go_on,
    tree,
)
from tests.policyengine.strategies import policy_sets, requests


def codes(policies: PolicySet) -> set[str]:
    owned = tuple(dataclasses.replace(item, owner="x") for item in policies.policies)
    only_db = tuple(dataclasses.replace(item, owner="x") for item in policies.services if item.name == "db")
    return {item.code for item in lint(dataclasses.replace(policies, policies=owned, services=only_db), NOW)}


PLAIN = {"from": [CART]}


@pytest.mark.parametrize(
    ("policies", "expected"),
    [
        pytest.param(tree(app=[allow(**PLAIN)]), set(), id="clean"),
        pytest.param(tree(), {"LM2101"}, id="service-without-allow"),
        pytest.param(tree(app=[allow()]), {"LM2108"}, id="allow-any"),
        pytest.param(tree(app=[allow(**{"from": [f"{TD}/**"]})]), {"LM2108"}, id="allow-trust-domain"),
        pytest.param(tree(app=[allow(**PLAIN)], observe=FUTURE), {"LM2109"}, id="observe"),
        pytest.param(tree(guardrail=[allow(**PLAIN)]), {"LM2110"}, id="guardrail-allow"),
        pytest.param(tree(baseline=[allow(**{"from": [WEB]}), go_on(**PLAIN)]), {"LM2107"}, id="pass-in-baseline"),
        pytest.param(tree(app=[allow(**PLAIN), deny(when=ROLE_ADMIN, **PLAIN)]), {"LM2105"}, id="deny-on-header"),
        pytest.param(tree(app=[allow(**PLAIN), deny(when=CLAIM_ADMIN, **PLAIN)]), {"LM2105"}, id="deny-on-claims"),
        pytest.param(tree(app=[allow(**PLAIN), deny(unless={"when": CLAIM_ADMIN}, **PLAIN)]), set(), id="deny-unless-claims"),
        pytest.param(tree(app=[allow(**PLAIN), deny()]), {"LM2104"}, id="allow-under-deny"),
        pytest.param(tree(app=[allow(**PLAIN), go_on()]), {"LM2104"}, id="allow-under-pass"),
        pytest.param(tree(app=[allow(**PLAIN), deny(to=[{"paths": ["/a"]}])]), set(), id="allow-partly-under-deny"),
        pytest.param(tree(app=[allow(**PLAIN, to=[{"paths": ["/a/{x:int}"]}]), deny(to=[{"paths": ["/a/**"]}])]), {"LM2104"}, id="path-under-subtree"),
        pytest.param(tree(app=[allow(**PLAIN, to=[{"paths": ["/a"]}]), deny(to=[{"paths": ["/a/**"]}])]), set(), id="path-beside-subtree"),
        pytest.param(tree(app=[allow(**PLAIN)], baseline=[allow(**PLAIN)]), {"LM2104"}, id="later-tier"),
        pytest.param(tree(app=[allow(**PLAIN), go_on(when=ROLE_ADMIN, **PLAIN)], baseline=[allow(**PLAIN)]), set(), id="later-tier-behind-a-pass"),
        pytest.param(tree(app=[allow(id="a", **PLAIN), allow(id="b", **PLAIN)]), {"LM2106"}, id="duplicate"),
        pytest.param(tree(app=[allow(id="a", **PLAIN, to=[{"paths": ["/**"]}])], baseline=[deny(**PLAIN, to=[{"paths": ["/x"]}])]), set(), id="deny-behind-allow-still-holds-for-unknown-paths"),
    ],
)  # fmt: skip
def test_lint(policies: PolicySet, expected: set[str]) -> None:
    assert codes(policies) == expected


@pytest.mark.parametrize(("effect", "code"), [(Effect.ALLOW, "LM2102"), (Effect.DENY, "LM2103")])
def test_groups_that_resolve_to_nobody(effect: Effect, code: str) -> None:
    rule = Rule(id="r", effect=effect, from_=(Principal.parse("group:g"),))
    policies = dataclasses.replace(
        tree(app=[allow(**PLAIN)]),
        groups=(Group(name="g", owner="", members=()),),
        policies=(
            *tree(app=[allow(**PLAIN)]).policies,
            Policy(name="p", owner="", service="db", tier="app", rules=(rule,)),
        ),
    )
    assert codes(policies) == {code}


def test_owners_are_asked_for() -> None:
    found = lint(tree(app=[allow(**PLAIN)]), NOW)
    assert {(item.code, item.facts["name"]) for item in found if item.code == "LM2100"} == {
        ("LM2100", "web"),
        ("LM2100", "app-db"),
    }


# INVARIANT: a rule that is called shadowed never decides.
@settings(max_examples=examples(50), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(policy_sets, st.lists(requests, min_size=4, max_size=4))
def test_what_is_called_shadowed_never_decides(policies: PolicySet, asked: list[Request]) -> None:
    shadowed = {
        (item.facts["policy"], item.facts["rule"]) for item in lint(policies, NOW) if item.code in {"LM2104", "LM2106"}
    }
    for request in asked:
        found = reference.decide(policies, request, snapshot="s")
        if found.rule and request.source is not None and "source" not in request.unknown and request.port != 1:
            assert (found.policy, found.rule) not in shadowed or found.code == "LM2304" or _nobody(request)


def _nobody(request: Request) -> bool:
    return reference.decide(tree(app=[allow()]), ask(source=request.source), snapshot="").code == "LM2303"


def test_lint_tree_stops_at_errors(tmp_path: pathlib.Path) -> None:
    (tmp_path / "x.yaml").write_text("kind: Policy\n")
    assert {item.code for item in lint_tree(tmp_path, NOW)} == {"LM2003"}
