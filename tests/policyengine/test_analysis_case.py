"""Plans of services that ignore case, and of those that begin or cease to."""

import dataclasses

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mesh.request import Effect, Request
from policyengine import reference
from policyengine.analysis import plan
from policyengine.diagram import build
from policyengine.lookup import leaf_of
from policyengine.model import (
    PolicySet,
)
from tests.examples import examples
from tests.policyengine import strategies
from tests.policyengine.plans import NOW, paths, policies, rule, service, short, to
from tests.policyengine.rowwords import speaks_of


def test_paths_of_a_service_that_ignores_case_are_planned_as_it_compares_them() -> None:
    folding = (service(path_case="insensitive"),)
    old = policies(rule("cart", to=to(paths=paths("/Orders"))), services=folding)
    new = policies(rule("cart", to=to(paths=paths("/orders", "/Admin"))), services=folding)
    found = plan(old, new, [], NOW)
    assert short(found.newly_allowed) == [("cart", 8080, ("*",), ("/Admin",), {})]
    assert found.is_complete


FOLDING = (service(path_case="insensitive"),)


def test_a_change_of_case_is_planned_letter_by_letter() -> None:
    rules = (rule("cart", to=to(paths=paths("/Orders/{id}"))), rule("web", to=to(paths=paths("/**"))))
    old, new = policies(*rules), policies(*rules, services=FOLDING)
    found = plan(old, new, [], NOW)
    assert found.is_complete
    assert short(found.newly_allowed) == [
        ("cart", 8080, ("*",), ("(?i)/Orders/{id}",), {"path_not_in": ["/Orders/{id}"]})
    ]
    # a path with the kelvin sign has no one lower case: a service that ignores case refuses it
    assert short(found.newly_denied) == [
        ("web", 8080, ("*",), ("/**",), {"path_not_in": ["(?i)/**"]}),
        ("cart", 8080, ("*",), ("/Orders/{id}",), {"path_not_in": ["(?i)/**"]}),
    ]
    back = plan(new, old, [], NOW)
    assert (short(back.newly_allowed), short(back.newly_denied)) == (
        short(found.newly_denied),
        short(found.newly_allowed),
    )


def test_a_deny_that_ignores_case_takes_every_spelling() -> None:
    rules = (rule("cart"), rule("any", effect=Effect.DENY, to=to(paths=paths("/admin/**"))))
    found = plan(policies(*rules), policies(*rules, services=FOLDING), [], NOW)
    assert ("cart", 8080, ("*",), ("(?i)/admin/**",), {"path_not_in": ["/admin/**"]}) in short(found.newly_denied)
    assert found.newly_allowed == ()


def test_paths_without_letters_are_the_same_in_every_case() -> None:
    rules = (rule("cart", to=to(paths=paths("/1/2", "/{id:int}"))),)
    assert plan(policies(*rules), policies(*rules, services=FOLDING), [], NOW).is_empty


@settings(max_examples=examples(4), deadline=None)
@given(strategies.policy_sets, strategies.policy_sets, st.lists(strategies.requests, min_size=1, max_size=4))
def test_rows_across_cases_speak_of_exactly_the_requests_that_are_decided_differently(
    old: PolicySet, new: PolicySet, asked: list[Request]
) -> None:
    assume(not strategies.folds(old))
    folding = tuple(dataclasses.replace(item, path_case="insensitive") for item in new.services)
    new = dataclasses.replace(new, services=folding)
    found = plan(old, new, [], strategies.NOW)
    assert found.is_complete
    assert all(row.is_replayed for row in (*found.newly_allowed, *found.newly_denied))
    diagram = build("db", [old, new], strategies.NOW)
    headers = old.headers_for("db") | new.headers_for("db")
    for request in (dataclasses.replace(item, service="db") for item in asked):
        leaf = leaf_of(diagram, request)
        if leaf is None or (request.time is not None and request.time < strategies.NOW):
            continue
        before, after = (reference.decide(side, request, snapshot="").effect for side in (old, new))
        assert tuple(verdict.effect for verdict in leaf.verdicts) == (before, after)
        gained = any(speaks_of(row, request, headers) for row in found.newly_allowed)
        lost = any(speaks_of(row, request, headers) for row in found.newly_denied)
        assert gained == ((before, after) == (Effect.DENY, Effect.ALLOW))
        assert lost == ((before, after) == (Effect.ALLOW, Effect.DENY))
