"""The policies that ship are worth copying: clean, formatted, tested to the last condition, and no rule is idle."""

import dataclasses
import datetime as dt
import pathlib
from collections.abc import Iterator

import pytest

from limen.__main__ import run as limen
from policyengine.analysis import plan
from policyengine.loader import load_tested_tree
from policyengine.model import PolicySet
from policyengine.suite import run

POLICIES = pathlib.Path(__file__).parents[2] / "policies"
NOW = dt.datetime(2026, 11, 24, 12, 0, tzinfo=dt.UTC)
TREES = [".", "examples", "examples/bank"]


@pytest.mark.parametrize("tree", TREES)
def test_lint_and_tests_are_content_with_each_tree_by_itself(tree: str) -> None:
    assert limen(["policy", "lint", "--policies", str(POLICIES / tree)]) == 0
    assert limen(["policy", "test", "--policies", str(POLICIES / tree), "--fail-under", "100"]) == 0


def test_it_is_formatted_and_compiles() -> None:
    assert limen(["policy", "fmt", "--policies", str(POLICIES), "--check"]) == 0
    assert limen(["policy", "compile", "--policies", str(POLICIES)]) == 0


@pytest.mark.parametrize("tree", TREES)
def test_invariants_hold_and_nothing_is_open_to_strangers(tree: str) -> None:
    policies, _, _ = load_tested_tree(POLICIES / tree)
    found = plan(None, policies, (), NOW)
    assert all(result.holds for result in found.invariants)
    if tree == ".":
        assert len(found.invariants) >= 4


def without_each_rule(policies: PolicySet) -> Iterator[tuple[str, PolicySet]]:
    """The policy set once for each rule, without it."""
    for place, policy in enumerate(policies.policies):
        for rule in policy.rules:
            left = tuple(item for item in policy.rules if item is not rule)
            changed = (dataclasses.replace(policy, rules=left),) if left else ()
            others = policies.policies
            yield (
                f"{policy.name}/{rule.id}",
                dataclasses.replace(policies, policies=(*others[:place], *changed, *others[place + 1 :])),
            )


@pytest.mark.parametrize("tree", TREES[:2])
def test_a_rule_that_goes_missing_is_noticed_by_a_test(tree: str) -> None:
    policies, tests, _ = load_tested_tree(POLICIES / tree)
    assert all(item.has_passed for item in run(policies, tests, NOW, snapshot="s"))
    unnoticed = [
        name
        for name, changed in without_each_rule(policies)
        if all(item.has_passed for item in run(changed, tests, NOW, snapshot="s"))
    ]
    assert unnoticed == []
