"""A part is the same as another exactly when everything that a service's index is made from is the same object."""

import dataclasses

import pytest

from policyengine.model import PolicySet, Principal, RegoModule
from policyengine.parts import Part, Parts, middles
from tests.policyengine.corners import CART, FUTURE, TD, WEB, allow, grant, tree

SET = tree(
    app=[allow(**{"from": ["group:outer", "service:web"]}, unless={"from": ["group:spared"]})],
    groups={"outer": ["group:inner"], "inner": [CART], "spared": [WEB], "unused": [WEB]},
    exceptions=[grant(FUTURE)],
)


def part(policies: PolicySet, name: str = "db") -> Part:
    found = Parts(policies).of(name)
    assert found is not None
    return found


def test_a_part_holds_what_its_rules_lead_to() -> None:
    assert set(part(SET).named) == {
        ("group", "outer"), ("group", "inner"), ("group", "spared"), ("service", "web"),
    }  # fmt: skip
    assert not part(SET, "web").named
    assert Parts(SET).of("nothing") is None


def test_the_same_objects_are_the_same_part_in_another_set() -> None:
    assert part(SET).is_same(part(dataclasses.replace(SET)))


def copied(kind: str, name: str) -> PolicySet:
    """The set with one object written anew, equal to what it was."""
    items = getattr(SET, kind)
    return dataclasses.replace(
        SET, **{kind: tuple(dataclasses.replace(item) if item.name == name else item for item in items)}
    )


TOUCHED = [
    pytest.param("services", "db", id="the-service-itself"),
    pytest.param("services", "web", id="a-service-that-a-rule-names"),
    pytest.param("policies", "app-db", id="a-policy"),
    pytest.param("exceptions", "fire", id="an-exception"),
    pytest.param("groups", "outer", id="a-group"),
    pytest.param("groups", "inner", id="a-group-within-a-group"),
    pytest.param("groups", "spared", id="a-group-in-unless"),
]


@pytest.mark.parametrize(("kind", "name"), TOUCHED)
def test_another_object_is_another_part(kind: str, name: str) -> None:
    assert not part(SET).is_same(part(copied(kind, name)))


def test_what_no_rule_leads_to_does_not_matter() -> None:
    assert part(SET).is_same(part(copied("groups", "unused")))
    assert part(SET, "web").is_same(part(copied("groups", "outer"), "web"))


def test_a_name_that_comes_to_be_defined_is_another_part() -> None:
    missing = dataclasses.replace(SET, groups=tuple(item for item in SET.groups if item.name != "inner"))
    assert part(missing).named["group", "inner"] is None
    assert not part(missing).is_same(part(SET))


def test_a_policy_less_or_more_and_another_module_are_other_parts() -> None:
    assert not part(SET).is_same(part(dataclasses.replace(SET, policies=())))
    assert not part(SET).is_same(part(dataclasses.replace(SET, exceptions=())))
    assert not part(SET).is_same(part(dataclasses.replace(SET, rego=(RegoModule("a.rego", "package a"),))))


def test_principals_that_are_no_names_lead_nowhere() -> None:
    policies = tree(app=[allow(**{"from": ["any", CART, f"{TD}/**"]})])
    assert not part(policies).named
    assert Principal.parse("any") in policies.policies[0].rules[0].from_


MIDDLES = [
    ("abc", "abc", "", ""),
    ("abc", "axc", "b", "x"),
    ("abc", "abxc", "", "x"),
    ("abxc", "abc", "x", ""),
    ("aaa", "aa", "a", ""),
    ("", "ab", "", "ab"),
    ("abcd", "acbd", "bc", "cb"),
]


@pytest.mark.parametrize(("ours", "theirs", "left", "right"), MIDDLES)
def test_the_middles_of_two_lists(ours: str, theirs: str, left: str, right: str) -> None:
    objects = {letter: object() for letter in "abcdx"}
    one, other = tuple(objects[item] for item in ours), tuple(objects[item] for item in theirs)
    mine, yours, begin = middles(one, other)
    assert mine == tuple(objects[item] for item in left)
    assert yours == tuple(objects[item] for item in right)
    assert one[:begin] == other[:begin]
    assert len(mine) + len(one[begin + len(mine) :]) + begin == len(one)


def test_equal_is_not_the_same_object() -> None:
    assert middles((True, []), (True, [])) == (([],), ([],), 1)
