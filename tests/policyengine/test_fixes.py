"""The smallest fix: the fewest changes, then what opens least; and it works."""

# ruff: noqa: E501  a table reads best with one case a line

import dataclasses
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings

from mesh.request import Effect, Request
from policyengine import model, reference
from policyengine.analysis import plan
from policyengine.canonical import PathPattern
from policyengine.differences import rule_differences
from policyengine.fixes import Fix, about, facts_of, smallest_fix, with_opening
from policyengine.model import Operation, PolicySet
from tests.examples import examples
from tests.policyengine.corners import (
    ADMIN,
    CART,
    CLAIM_ADMIN,
    FUTURE,
    NOW,
    PAST,
    ROLE_ADMIN,
    TD,
    WEB,
    allow,
    ask,
    deny,
    go_on,
    grant,
    tree,
)
from tests.policyengine.strategies import policy_sets, requests

SHOP = f"{TD}/ns/shop/**"


def to(method: str, *paths: str) -> dict[str, Any]:
    return {"to": [{"methods": [method], "paths": list(paths)}]}


def by(*callers: str) -> dict[str, Any]:
    return {"from": list(callers)}


def changes(policies: PolicySet, request: Request) -> list[tuple[str, str]]:
    found = smallest_fix(policies, request)
    assert found is not None
    return [(f"{change.policy}/{change.rule}", change.field) for change in found.changes]


@pytest.mark.parametrize(
    ("policies", "request_", "expected"),
    [
        # the fewest changes
        pytest.param(tree(app=[allow(id="one", **by(WEB), to=[{"methods": ["GET"]}]), allow(id="two", **by(CART), **to("POST", "/x"))]), ask(), [("app-db/one", "from")], id="one-change-before-two"),
        pytest.param(tree(app=[allow(id="a", to=[{"methods": ["POST"], "paths": ["/x"]}, {"paths": ["/y"]}])]), ask(), [("app-db/a", "paths")], id="the-entry-that-lacks-least"),
        pytest.param(tree(app=[allow(id="open", **by(CART)), deny(id="d1"), deny(id="d2")], baseline=[allow(id="far", **to("POST", "/x"))]), ask(), [("app-db/d1", "unless"), ("app-db/d2", "unless")], id="two-denies-need-two-changes"),
        pytest.param(tree(guardrail=[deny(id="g")], app=[allow(id="a", **to("POST", "/orders"))]), ask(), [("app-db/a", "methods"), ("guardrail-db/g", "unless")], id="a-lack-behind-a-guardrail"),
        pytest.param(tree(app=[deny(id="d")], guardrail=[allow(id="g", **to("POST", "/orders"))]), ask(), [("guardrail-db/g", "methods")], id="an-allow-before-the-deny-needs-no-way-round"),
        pytest.param(tree(app=[go_on(id="p"), allow(id="a")], baseline=[allow(id="b", **to("POST", "/orders"))]), ask(), [("app-db/p", "unless")], id="a-pass-of-its-own-tier"),
        # of equally many the one that opens least
        pytest.param(tree(app=[allow(id="wide", **by(SHOP), **to("POST", "/orders")), allow(id="exact", **by(CART), **to("POST", "/orders"))]), ask(), [("app-db/exact", "methods")], id="fewer-callers"),
        pytest.param(tree(app=[allow(id="deep", **by(CART), **to("POST", "/**")), allow(id="one", **by(CART), **to("POST", "/orders"))]), ask(), [("app-db/one", "methods")], id="fewer-paths"),
        pytest.param(tree(app=[allow(id="all", **by(WEB)), allow(id="few", **by(WEB), **to("GET", "/orders"))]), ask(), [("app-db/few", "from")], id="the-caller-where-it-may-do-least"),
        pytest.param(tree(app=[allow(id="paths", **by(SHOP), **to("GET", "/a", "/b")), allow(id="callers", **by(WEB), **to("GET", "/orders"))]), ask(), [("app-db/callers", "from")], id="one-caller-before-a-path-for-many"),
        pytest.param(tree(app=[allow(id="a"), deny(id="d", **by(CART, ADMIN))]), ask(), [("app-db/d", "from")], id="a-caller-by-name-leaves-the-deny"),
        pytest.param(tree(app=[allow(id="a"), deny(id="d", unless={"from": [ADMIN], "when": CLAIM_ADMIN})]), ask(), [("app-db/d", "effect")], id="a-deny-that-can-spare-nobody-goes"),
        pytest.param(tree(app=[allow(id="a"), deny(id="d", when=ROLE_ADMIN)]), ask(headers=(("x-role", "admin"),)), [("app-db/d", "headers.x-role")], id="a-header-that-may-be-left-out-opens-nothing"),
        pytest.param(tree(exceptions=[grant(PAST)]), ask(), [("fire/exception", "until")], id="an-exception-that-ended"),
        pytest.param(tree(app=[allow(id="a", **by(SHOP), **to("GET", "/a"))], exceptions=[grant(FUTURE, **to("GET", "/b"))]), ask(), [("app-db/a", "paths")], id="an-exception-is-not-widened"),
    ],
)  # fmt: skip
def test_smallest_fix(policies: PolicySet, request_: Request, expected: list[tuple[str, str]]) -> None:
    assert changes(policies, request_) == expected


def test_what_others_allow_already_is_not_opened() -> None:
    wide = allow(id="wide", **by(SHOP), **to("POST", "/orders"))
    few = allow(id="few", **by(WEB, ADMIN), **to("GET", "/orders", "/a", "/b", "/c"))
    everybody = allow(id="else", **by(SHOP), **to("GET", "/orders"), unless={"from": [CART]})
    # alone, GET for the whole of the shop is more than a caller on four paths; with the others it is one caller on one
    assert changes(tree(app=[wide, few]), ask()) == [("app-db/few", "from")]
    assert changes(tree(app=[wide, few, everybody]), ask()) == [("app-db/else", "unless")]


def applied(policies: PolicySet, fix: Fix) -> PolicySet:
    """The policy set with the edits of a fix, made here by hand and not by the search."""
    kept = []
    for policy in policies.policies:
        rules: list[model.Rule] = []
        for rule in policy.rules:
            found: model.Rule | None = rule
            for change in fix.changes:
                if (change.policy, change.rule) == (policy.name, rule.id) and change.edit is not None and found:
                    found = change.edit(found)
            rules += [found] if found is not None else []
        kept += [dataclasses.replace(policy, rules=tuple(rules))] if rules else []
    return dataclasses.replace(policies, policies=tuple(kept))


# INVARIANT: rules that name others alone decide nothing of a request, unless by what they read of it.
@settings(max_examples=examples(100), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(policy_sets, requests)
def test_what_is_about_a_caller_decides_its_requests(policies: PolicySet, request: Request) -> None:
    facts = facts_of(policies, request)
    if facts is None:
        return
    assert reference.decide(about(policies, facts), request, snapshot="s") == reference.decide(
        policies, request, snapshot="s"
    )


# what is not worked out because something of fewer changes works would not have been chosen
@settings(max_examples=examples(50), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(policy_sets, requests)
def test_the_fix_is_the_one_of_working_everything_out(policies: PolicySet, request: Request) -> None:
    found = smallest_fix(policies, request)
    with mock.patch("policyengine.fixes.fewest_gaps", return_value=-1000):
        whole = smallest_fix(policies, request)
    assert (found is None) == (whole is None)
    if found is not None and whole is not None:
        assert (found.miss, found.near, found.opening) == (whole.miss, whole.near, whole.opening)


def test_rules_that_lack_more_are_not_worked_out_where_a_nearer_one_works() -> None:
    rules = [allow(id=f"r{place}", **by(f"{TD}/ns/n{place}/sa/x"), **to("GET", f"/p{place}")) for place in range(60)]
    policies = tree(app=[allow(id="own", **by(CART), **to("GET", "/orders")), *rules])
    with mock.patch("policyengine.fixes.rule_differences", side_effect=rule_differences) as worked:
        found = smallest_fix(policies, ask(method="POST", path="/orders"))
    assert found is not None
    assert (found.miss.rule, found.miss.differs) == ("own", ("methods",))
    assert worked.call_count == 1


def test_a_header_that_only_a_rule_about_others_reads_comes_once_all_the_same() -> None:
    when = {"headers": {"x-tenant": ["a"]}}
    policies = tree(app=[allow(id="mine", **by(CART)), allow(id="theirs", when=when, **by(WEB))])
    twice = ask(headers=(("x-tenant", "a"), ("x-tenant", "b")))
    facts = facts_of(policies, twice)
    assert facts is not None
    assert reference.decide(about(policies, facts), twice, snapshot="").code == "LM2304"


# INVARIANT: with its changes made, the rules allow the request; nobody loses access by a change to an allow.
@settings(max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(policy_sets, requests)
def test_a_fix_works(policies: PolicySet, request: Request) -> None:
    found = smallest_fix(policies, request)
    if found is None or not found.changes or any(change.renews for change in found.changes):
        return
    if any(change.policy == item.name for change in found.changes for item in policies.exceptions):
        return
    asked = request
    for change in found.changes:
        asked = change.on_request(asked)
    assert reference.decide(applied(policies, found), asked, snapshot="").policy_effect is Effect.ALLOW


# INVARIANT: no single change to one field of one allow would have done it where the fix makes two.
@settings(max_examples=examples(30), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(policy_sets, requests)
def test_no_single_change_does_what_a_fix_of_two_does(policies: PolicySet, request: Request) -> None:
    found = smallest_fix(policies, request)
    service = policies.service_for(request.service)
    if found is None or len(found.changes) < 2 or service is None:
        return
    for policy in policies.policies:
        for rule in policy.rules:
            for single in _single_changes(rule, request):
                edited = dataclasses.replace(
                    policy, rules=tuple(single if item is rule else item for item in policy.rules)
                )
                changed = tuple(edited if item is policy else item for item in policies.policies)
                decided = reference.decide(dataclasses.replace(policies, policies=changed), request, snapshot="")
                assert decided.policy_effect is Effect.DENY


def _single_changes(rule: model.Rule, request: Request) -> list[model.Rule]:
    """The rule with one field opened for a request."""
    if rule.effect is not Effect.ALLOW or request.source is None:
        return []
    found = []
    try:
        caller = model.Principal.parse(request.source)
    except ValueError:
        return []
    found.append(dataclasses.replace(rule, from_=(*rule.from_, caller)))
    for place, entry in enumerate(rule.to or ()):
        for field, value in (("methods", request.method), ("ports", request.port)):
            held = getattr(entry, field)
            if held is not None and value is not None:
                opened = dataclasses.replace(entry, **{field: (*held, value)})
                assert rule.to is not None
                entries = tuple(opened if index == place else item for index, item in enumerate(rule.to))
                found.append(dataclasses.replace(rule, to=entries))
    return found


def test_what_a_fix_opens_is_what_a_plan_shows() -> None:
    policies = tree(
        app=[
            allow(id="wide", **by(SHOP), **to("POST", "/orders")),
            allow(id="exact", **by(CART), **to("POST", "/orders")),
        ]
    )
    found = smallest_fix(policies, ask())
    assert found is not None
    shown = plan(policies, applied(policies, found), (), NOW)
    assert [(row.source, row.methods, row.paths) for row in shown.newly_allowed] == [(CART, ("GET",), ("/orders",))]
    assert shown.newly_denied == ()


def test_the_right_one_of_thousands_is_found() -> None:
    operation = model.Operation(methods=("GET",), paths=(PathPattern.parse("/orders/{id:int}"),))
    rules = tuple(
        model.Rule(
            id=f"r{n}", effect=Effect.ALLOW, from_=(model.Principal.parse(f"{TD}/ns/n/sa/c{n}"),), to=(operation,)
        )
        for n in range(2000)
    )
    policies = tree(app=[allow()])
    policies = dataclasses.replace(policies, policies=(dataclasses.replace(policies.policies[0], rules=rules),))
    assert changes(policies, ask(source=f"{TD}/ns/n/sa/c7", path="/orders/5", method="PUT")) == [
        ("app-db/r7", "methods")
    ]


def test_one_rule_more_before_two_changes_of_one_that_open_what_nobody_asked_about() -> None:
    policies = tree(app=[allow(id="a", **by(ADMIN), **to("POST", "/x")), allow(id="b", **by(WEB), **to("GET", "/x"))])
    found = smallest_fix(policies, ask())
    assert found is not None
    assert found.addition is not None
    tier, rule = found.addition
    assert (tier, rule.to) == (
        "app",
        (Operation(ports=(8080,), methods=("GET",), paths=(PathPattern.parse("/orders"),)),),
    )
    # the nearest rule is named all the same, of two that lack more than one field the one that lacks least
    assert (found.miss.policy, found.miss.rule, found.miss.differs) == ("app-db", "b", ("from", "paths"))
    assert "add a rule to the app tier" in found.miss.fix
    (row,) = with_opening(policies, ask(), found).opening.rows  # type: ignore[union-attr]  # it has one
    assert (row.source, row.methods, row.paths) == (CART, ("GET",), ("/orders",))
