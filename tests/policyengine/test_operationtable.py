"""A table after grants came and went finds what one that was made of the same grants finds, in the same order."""

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from policyengine.ir import Grant, normalise
from policyengine.model import PolicySet
from policyengine.operationtable import Table, edited_table, rank_of, table_of
from tests.examples import examples
from tests.policyengine.corners import allow, deny, tree
from tests.policyengine.strategies import policy_sets

HOSTS = ("db.corp.test", "x.corp.test", "other.test", "", None)
PATHS = (("orders",), ("orders", "7"), ("admin", ""), ("a", "b", "c"), ("",), None)


def finds(table: Table) -> Iterator[tuple[object, ...]]:
    """Everything that a table says, leaf by leaf."""
    for key in sorted(table):
        hosts = table[key]
        for host in HOSTS:
            tries = [*([hosts.always] if hosts.always is not None else []), *hosts.by_host(host)]
            for path in PATHS:
                leaves = sorted([entry.rank for entry in leaf] for trie in tries for leaf in trie.find(path))
                yield key, host, path, leaves


def grants_of(policies: PolicySet) -> tuple[Grant, ...]:
    return normalise(policies, policies.services[0]).grants


# INVARIANT: whatever came and went, and in whatever order, a table is as if it had been made of what is there.
@settings(max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(policy_sets, st.data())
def test_an_edited_table_equals_one_from_nothing(policies: PolicySet, data: st.DataObject) -> None:
    listed = grants_of(policies)
    places = st.sets(st.integers(0, len(listed) - 1)) if listed else st.just(set[int]())
    first, second = data.draw(places), data.draw(places)
    table = table_of(grant for place, grant in enumerate(listed) if place in first)
    before = list(finds(table))
    edited = table
    for place in data.draw(st.permutations(sorted(first ^ second))):
        edited = edited_table(edited, listed[place], comes=place in second)
    made = table_of(grant for place, grant in enumerate(listed) if place in second)
    assert list(finds(edited)) == list(finds(made))
    assert edited.keys() == made.keys()
    assert list(finds(table)) == before


def test_ranks_are_in_the_order_of_the_normal_form() -> None:
    listed = grants_of(tree(guardrail=[deny(id="z"), allow(id="a")], app=[allow(id="b"), deny(id="y")]))
    assert sorted(listed, key=rank_of) == list(listed)


@pytest.mark.parametrize("comes", [True, False])
def test_what_is_there_comes_once_and_what_is_not_goes_in_silence(comes: bool) -> None:
    grant = grants_of(tree(app=[allow()]))[0]
    once = edited_table({}, grant, comes=comes)
    assert list(finds(edited_table(once, grant, comes=comes))) == list(finds(once))
    assert bool(once) == comes
