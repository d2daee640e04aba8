"""The index agrees with the reference, on the named corners and on generated cases, and never raises."""

import dataclasses
import datetime as dt
import itertools
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mesh.request import Effect, Request
from policyengine import reference
from policyengine.canonical import CanonicalPath, canonical_path
from policyengine.decide import Index
from policyengine.model import PolicySet
from tests.examples import examples
from tests.policyengine.corners import CORNERS, FUTURE, NOW, WEB, Corner, allow, ask, deny, grant, token, tree
from tests.policyengine.strategies import policy_sets, requests


@pytest.mark.parametrize("corner", CORNERS, ids=lambda corner: corner.name)
def test_index_agrees_on_corner(corner: Corner) -> None:
    index = Index(corner.policies, "s")
    expected = reference.decide(corner.policies, corner.request, snapshot="s")
    assert index.decide(corner.request) == expected
    assert index.decide(corner.request) == expected, "a caller that was here before is decided a shorter way"


# INVARIANT: the index and the reference decide every request alike. 400 sets with 6 requests each.
@settings(max_examples=examples(100), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(policies=policy_sets, asked=st.lists(requests, min_size=6, max_size=6))
def test_index_equals_reference_on_generated_cases(policies: PolicySet, asked: list[Request]) -> None:
    index = Index(policies, "s")
    for request in asked:
        expected = reference.decide(policies, request, snapshot="s")
        assert index.decide(request) == expected
        assert index.decide(request) == expected, "a caller that was here before is decided a shorter way"
    assert index.errors == 0


# INVARIANT: a request is decided alike in full and without the steps that it does not need, whatever else was asked.
@settings(max_examples=examples(100), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(policies=policy_sets, asked=st.lists(requests, min_size=4, max_size=4))
def test_the_shorter_way_decides_as_the_full_one(policies: PolicySet, asked: list[Request]) -> None:
    index = Index(policies, "s")
    for first, other in itertools.product(asked, repeat=2):
        service = index.service(first.service)
        if service is not None:
            request = dataclasses.replace(first, source=other.source, path=other.path, host=other.host)
            expected = service.decide_in_full(request)
            assert service.decide(request) == expected


# INVARIANT: what is looked up once for all paths decides each of them as the whole request would be.
@settings(max_examples=examples(100), suppress_health_check=[HealthCheck.too_slow])
@given(policies=policy_sets, asked=st.lists(requests, min_size=2, max_size=4))
def test_what_decides_by_the_path_alone_says_what_the_whole_request_would(
    policies: PolicySet, asked: list[Request]
) -> None:
    index = Index(policies, "s")
    for first, other in itertools.permutations(asked, 2):
        decider = index.plainly(first)
        path = canonical_path(other.path or "/")
        if decider is not None and isinstance(path, CanonicalPath):
            found = decider.decide(path.segments)
            assert found == index.decide(dataclasses.replace(first, path=path.target, unknown=frozenset()))


@pytest.mark.parametrize(
    "corner", [corner for corner in CORNERS if corner.request.path], ids=lambda corner: corner.name
)
def test_corners_are_decided_by_the_path_alone_as_they_are(corner: Corner) -> None:
    decider = Index(corner.policies, "s").plainly(corner.request)
    path = canonical_path(corner.request.path or "")
    if decider is not None and isinstance(path, CanonicalPath):
        assert decider.decide(path.segments) == reference.decide(corner.policies, corner.request, snapshot="s")


def test_a_condition_is_never_decided_by_the_path_alone() -> None:
    policies = tree(app=[allow(when={"hours": {"tz": "UTC", "from": "08:00", "to": "09:00"}})])
    assert Index(policies, "s").plainly(ask()) is None
    service = Index(policies, "s").service("db")
    assert service is not None
    decider = service.plainly(ask())
    assert decider is not None
    assert decider.decide(("a",)) is None


def test_denies_and_counts_when_the_decision_point_fails() -> None:
    index = Index(tree(app=[allow()]), "s")
    found = index.decide(ask(path=b"/orders"))
    assert (found.effect, found.code, index.errors) == (Effect.DENY, "LM2390", 1)


def test_repeated_callers_are_remembered_within_bounds() -> None:
    policies = tree(app=[allow(**{"from": ["spiffe://corp.test/ns/shop/**"]})])
    index = Index(policies, "s")
    for place in range(5000):
        assert index.decide(ask(source=f"spiffe://corp.test/ns/shop/sa/w{place}")).is_allowed
    service = index.service("db")
    assert service is not None
    assert 0 < sum(map(len, service.callers._remembered.values())) <= 4096


def test_many_conditional_rules_at_one_place_stay_exact() -> None:
    rules = [allow(id=f"r{n:03}", when={"headers": {"x-t": [f"t{n}"]}}) for n in range(200)]
    index = Index(tree(app=[*rules, deny(id="z", when={"headers": {"x-t": ["t7"]}})]), "s")
    assert index.decide(ask(headers=(("x-t", "t150"),))).rule == "r150"
    assert index.decide(ask(headers=(("x-t", "t7"),))).rule == "z"
    assert index.decide(ask(headers=(("x-t", "t777"),))).code == "LM2302"


def test_what_did_not_change_is_kept_and_what_did_is_decided_anew() -> None:
    before = tree(app=[allow()], baseline=[deny(**{"from": [WEB]})])
    old = Index(before, "old")
    kept = old.service("db")
    assert kept is not None
    assert old.decide(ask()).rule == "r0"
    same = Index(before, "new", old)
    again = same.service("db")
    assert again is not None
    assert again.callers is kept.callers
    assert same.decide(ask()).snapshot == "new"
    assert old.decide(ask()).snapshot == "old"
    other = Index(dataclasses.replace(before, policies=tree(app=[deny()]).policies), "other", same)
    assert other.decide(ask()).policy_effect is Effect.DENY


# INVARIANT: an index that keeps what another built decides as one that was built from nothing.
@settings(max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    history=st.lists(policy_sets, min_size=2, max_size=4),
    taken=st.lists(st.tuples(*[st.booleans()] * 4), min_size=3, max_size=3),
    asked=st.lists(requests, min_size=4, max_size=4),
)
def test_an_index_after_edits_equals_one_from_nothing(
    history: list[PolicySet], taken: list[tuple[bool, ...]], asked: list[Request]
) -> None:
    current = history[0]
    index = Index(current, "0")
    for place, (other, kinds) in enumerate(zip(history[1:], taken, strict=False), start=1):
        for request in asked:
            index.decide(request)
        fields = ("services", "policies", "groups", "exceptions")
        edits = {name: getattr(other, name) for name, is_taken in zip(fields, kinds, strict=True) if is_taken}
        current = dataclasses.replace(current, **edits)
        index = Index(current, str(place), index)
        for request in asked:
            expected = reference.decide(current, request, snapshot=str(place))
            assert index.decide(request) == expected
            assert index.decide(request) == expected, "a caller that was here before is decided a shorter way"
        assert index.errors == 0


def test_decisions_of_a_plain_service_hang_on_no_address_time_header_or_claim() -> None:
    plain = [corner for corner in CORNERS if Index(corner.policies, "s").is_plain("db")]
    assert len(plain) > 20
    for corner in plain:
        index, asked = Index(corner.policies, "s"), corner.request
        others: tuple[dict[str, Any], ...] = (
            {"time": None},
            {"time": NOW + dt.timedelta(days=36_500)},
            {"peer_ip": "203.0.113.9"},
            {"headers": (*asked.headers, ("x-role", "admin"))},
            {"claims": token(roles=["admin"])},
            {"unknown": asked.unknown | {"claims"}},
        )
        for other in others:
            assert index.decide(dataclasses.replace(asked, **other)) == index.decide(asked), (corner.name, other)


@pytest.mark.parametrize(
    ("policies", "is_plain"),
    [
        pytest.param(tree(guardrail=[deny(**{"from": [WEB]})], app=[allow(to=[{"paths": ["/a"]}])]), True, id="plain"),
        pytest.param(tree(app=[allow(when={"peer_ip": ["10.0.0.0/8"]})]), False, id="condition"),
        pytest.param(tree(app=[allow(unless={"from": [WEB]})]), False, id="unless"),
        pytest.param(tree(exceptions=[grant(FUTURE)]), False, id="exception"),
        pytest.param(tree(observe=FUTURE), False, id="observe"),
    ],
)
def test_a_service_is_plain_only_without_conditions_exceptions_and_observe(policies: PolicySet, is_plain: bool) -> None:
    assert Index(policies, "s").is_plain("db") is is_plain
