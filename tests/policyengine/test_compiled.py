"""What is compiled after edits is what would be compiled from nothing, and one changed rule is one grant."""

import dataclasses

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mesh.request import Effect, Request
from policyengine import compiled, reference
from policyengine.compiled import Compiled
from policyengine.decide import Index
from policyengine.ir import Grant
from policyengine.model import EXCEPTION_RULE, Group, PolicySet, Principal
from policyengine.parts import Part, Parts
from tests.examples import examples
from tests.policyengine.corners import CART, FUTURE, WEB, allow, ask, deny, grant, tree
from tests.policyengine.setedits import histories
from tests.policyengine.strategies import SOURCES, requests
from tests.policyengine.test_operationtable import finds


def part_of(policies: PolicySet) -> Part:
    found = Parts(policies).of("db")
    assert found is not None
    return found


def meaning(found: Compiled) -> dict[tuple[str, str], object]:
    """The grants, but for what only orders or places them."""
    return {key: dataclasses.replace(item, rank=0, span=None) for key, item in placed(found).items()}


def placed(found: Compiled) -> dict[tuple[str, str], Grant]:
    assert found.grants is not None
    return {(item.policy, item.rule): item for item in found.grants}


# INVARIANT: whatever was edited before, an index is what it is when it is built from nothing.
@settings(max_examples=examples(50), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(history=histories(), asked=st.lists(requests, min_size=8, max_size=8))
def test_after_edits_it_decides_as_the_reference_does(history: list[PolicySet], asked: list[Request]) -> None:
    index = Index(history[0], "0")
    index.service("db")
    for place, current in enumerate(history[1:], start=1):
        index = Index(current, str(place), index)
        for request in asked:
            assert index.decide(request) == reference.decide(current, request, snapshot=str(place))
        assert index.errors == 0


# INVARIANT: the same, looked at from inside: the same grants, in the same order, at every place of every class.
@settings(max_examples=examples(50), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(history=histories())
def test_after_edits_it_holds_what_it_holds_when_it_is_compiled_from_nothing(history: list[PolicySet]) -> None:
    found = Compiled.of(history[0], part_of(history[0]))
    for current in history[1:]:
        before = {source: held(found, source) for source in SOURCES}
        after = found.after(current, part_of(current))
        assert {source: held(found, source) for source in SOURCES} == before, "what was compiled before stays"
        whole = Compiled.of(current, part_of(current))
        assert (after.headers, after.part.is_same(whole.part)) == (whole.headers, True)
        assert meaning(after) == meaning(whole)
        assert {source: held(after, source) for source in SOURCES} == {s: held(whole, s) for s in SOURCES}
        found = after


def held(found: Compiled, source: str | None) -> list[object]:
    """What stands for a caller, place by place in the order of rank."""
    return [list(finds(table)) for table in found.callers._tables(source) if table]


ONE = tree(app=[allow(id="a"), allow(id="b", **{"from": ["group:g"]}), deny(id="c")], groups={"g": [CART]})


def edited(policies: PolicySet, **rules: object) -> PolicySet:
    first = policies.policies[0]
    after = tuple(rules.get(rule.id, rule) for rule in first.rules)
    return dataclasses.replace(policies, policies=(dataclasses.replace(first, rules=after), *policies.policies[1:]))


def kept(before: Compiled, after: Compiled) -> set[str]:
    held_before = placed(before)
    return {key[1] for key, item in placed(after).items() if held_before.get(key) is item}


def test_one_changed_rule_is_one_grant_that_goes_and_one_that_comes() -> None:
    before = Compiled.of(ONE, part_of(ONE))
    other = dataclasses.replace(ONE.policies[0].rules[0], effect=Effect.DENY)
    current = edited(ONE, a=other)
    after = before.after(current, part_of(current))
    assert kept(before, after) == {"b", "c"}
    assert after.edits == 2


def test_a_group_that_changes_touches_the_rules_that_name_it() -> None:
    before = Compiled.of(ONE, part_of(ONE))
    current = dataclasses.replace(ONE, groups=(Group(name="g", owner="", members=(Principal.parse(WEB),)),))
    assert kept(before, before.after(current, part_of(current))) == {"a", "c"}


def test_a_service_that_observes_is_the_same_caller() -> None:
    set_ = tree(app=[allow(**{"from": ["service:web"]}), deny()])
    before = Compiled.of(set_, part_of(set_))
    db, web = set_.services
    current = dataclasses.replace(set_, services=(db, dataclasses.replace(web, learn=True)))
    assert kept(before, before.after(current, part_of(current))) == {"r0", "r1"}


def test_an_exception_that_changes_is_another_grant() -> None:
    set_ = tree(app=[allow()], exceptions=[grant(FUTURE)])
    before = Compiled.of(set_, part_of(set_))
    other = dataclasses.replace(set_.exceptions[0], reason="another one")
    current = dataclasses.replace(set_, exceptions=(other,))
    after = before.after(current, part_of(current))
    assert kept(before, after) == {"r0"}
    assert (other.name, EXCEPTION_RULE) in placed(after)


def test_two_policies_of_one_name_are_compiled_from_nothing_each_time() -> None:
    twice = dataclasses.replace(ONE, policies=(*ONE.policies, dataclasses.replace(ONE.policies[0], tier="baseline")))
    assert Compiled.of(twice, part_of(twice)).grants is None
    for before, after in ((ONE, twice), (twice, ONE), (twice, twice)):
        found = Index(after, "s", _asked(before))
        assert found.decide(ask()) == reference.decide(after, ask(), snapshot="s")


def _asked(policies: PolicySet) -> Index:
    found = Index(policies, "s")
    found.decide(ask())
    return found


def test_when_most_changes_it_is_compiled_from_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    many = tree(app=[allow(id=f"r{place}") for place in range(100)])
    none = tree(app=[deny(id=f"r{place}") for place in range(100)])
    before = Compiled.of(many, part_of(many))
    assert before.after(none, part_of(none)).edits == 0
    monkeypatch.setattr(compiled, "_MOST_EDITS", 1)
    current = edited(many, r3=none.policies[0].rules[3])
    assert before.after(current, part_of(current)).edits == 0
