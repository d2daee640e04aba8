"""Callers find what may match them, and what is remembered of them is bounded."""

import pytest

from mesh.spiffe import SpiffeId
from policyengine.callers import Callers, Reach, _above
from policyengine.ir import normalise
from policyengine.model import PolicySet
from policyengine.operationtable import Entry
from tests.policyengine.corners import CART, TD, WEB, allow, deny, tree

SERVICE = tree().services[0]


def callers(policies: PolicySet) -> Callers:
    return Callers(normalise(policies, policies.services[0]).grants)


def rules(found: Reach, host: str | None = "db.corp.test", path: tuple[str, ...] | None = ("orders",)) -> set[str]:
    every, by_host = found
    tries = [*every, *(trie for hosts in by_host for trie in hosts.by_host(host))]
    entries: list[Entry] = [entry for trie in tries for leaf in trie.find(path) for entry in leaf]
    return {entry.grant.rule for entry in entries}


CLASSES = {
    "exact": [CART],
    "below": [f"{TD}/ns/shop/**"],
    "far-below": [f"{TD}/ns/**"],
    "domain": [f"{TD}/**"],
    "any": ["any"],
    "web": [WEB],
    "other-domain": ["spiffe://other.test/**"],
    "itself-is-not-below-itself": [f"{CART}/**"],
}


def test_a_caller_is_in_its_own_class_in_all_above_and_in_everybody() -> None:
    found = callers(tree(app=[allow(id=name, **{"from": who}) for name, who in CLASSES.items()]))
    assert rules(found.reach(CART, 8080, "GET")) == {"exact", "below", "far-below", "domain", "any"}
    assert rules(found.reach("spiffe://other.test/x", 8080, "GET")) == {"other-domain", "any"}


def test_a_caller_without_identity_meets_the_denies_alone() -> None:
    found = callers(tree(app=[allow(id="allow"), deny(id="deny", **{"from": [WEB]})]))
    assert rules(found.reach(None, 8080, "GET")) == {"deny"}


def test_everything_above_an_identity() -> None:
    identity = SpiffeId.parse(f"{TD}/ns/shop/sa/cart")
    assert [str(found) for found in _above(identity)] == [
        f"{TD}", f"{TD}/ns", f"{TD}/ns/shop", f"{TD}/ns/shop/sa",
    ]  # fmt: skip


METHODS = [
    pytest.param("GET", {"get", "every", "not-get"}, id="named"),
    pytest.param("BREW", {"every"}, id="that-no-rule-names"),
    pytest.param(None, {"every", "not-get"}, id="unknown-matches-denies"),
]


@pytest.mark.parametrize(("method", "expected"), METHODS)
def test_by_method(method: str | None, expected: set[str]) -> None:
    to = [{"methods": ["GET"]}]
    found = callers(tree(guardrail=[deny(id="not-get", to=to)], app=[allow(id="get", to=to), allow(id="every")]))
    assert rules(found.reach(CART, 8080, method)) == expected


HOSTS = [
    pytest.param("db.corp.test", {"one", "wild", "every", "deny"}, id="named"),
    pytest.param("x.corp.test", {"wild", "every"}, id="one-label-below"),
    pytest.param("x.y.corp.test", {"every"}, id="two-labels-below"),
    pytest.param("", {"every"}, id="absent"),
    pytest.param(None, {"every", "deny"}, id="unknown-matches-denies"),
]


@pytest.mark.parametrize(("host", "expected"), HOSTS)
def test_by_host(host: str | None, expected: set[str]) -> None:
    one, wild = [{"hosts": ["db.corp.test"]}], [{"hosts": ["*.corp.test"]}]
    found = callers(
        tree(
            guardrail=[deny(id="deny", to=one)],
            app=[allow(id="one", to=one), allow(id="wild", to=wild), allow(id="every")],
        )
    )
    assert rules(found.reach(CART, 8080, "GET"), host) == expected


def test_what_no_rule_names_is_remembered_once() -> None:
    found = callers(tree(app=[allow(to=[{"ports": [8080], "methods": ["GET"]}])]))
    for port in range(8000, 8200):
        for method in ("GET", "BREW", f"M{port}"):
            found.reach(CART, port, method)
    assert len(found._remembered) == 4  # this port or another, this method or another


def test_a_small_class_is_put_in_order_when_its_caller_comes_and_a_large_one_at_once() -> None:
    many = [allow(id=f"r{place}", to=[{"paths": [f"/p{place}"]}], **{"from": [WEB]}) for place in range(40)]
    found = callers(tree(app=[allow(id="one", **{"from": [CART]}), *many]))
    cart, web = SpiffeId.parse(CART), SpiffeId.parse(WEB)
    assert not isinstance(found._exact[cart], dict)
    assert isinstance(found._exact[web], dict)
    assert rules(found.reach(CART, 8080, "GET")) == {"one"}
    assert isinstance(found._exact[cart], dict)


def test_other_grants_make_other_callers_and_leave_these_as_they_are() -> None:
    listed = normalise(
        tree(app=[allow(id="one"), allow(id="two"), deny(id="no", to=[{"methods": ["GET"]}])]), SERVICE
    ).grants
    before = Callers(listed)
    no, one, two = listed
    after = before.edited([no], [])
    assert rules(before.reach(CART, 8080, "GET")) == {"one", "no"}
    assert rules(after.reach(CART, 8080, "GET")) == {"one"}
    assert rules(before.edited([one], []).reach(CART, 8080, "GET")) == {"two", "no"}
    assert rules(before.edited([one, two], []).reach(CART, 8080, "GET")) == {"no"}
    assert rules(after.edited([], [no]).reach(None, 8080, "GET")) == {"no"}


def test_a_class_that_grows_large_is_put_in_order_at_once() -> None:
    many = [allow(id=f"r{place:02}", to=[{"paths": [f"/p{place}"]}], **{"from": [WEB]}) for place in range(17)]
    first, *others = normalise(tree(app=many), SERVICE).grants
    web = SpiffeId.parse(WEB)
    found = Callers([first])
    for grant in others:
        assert not isinstance(found._exact[web], dict)
        found = found.edited([], [grant])
    assert isinstance(found._exact[web], dict)
    for grant in (first, *others):
        found = found.edited([grant], [])
    assert not found._exact


def test_the_names_of_ports_and_methods_that_come_are_told_apart() -> None:
    named = normalise(tree(app=[allow(to=[{"ports": [8080], "methods": ["GET"]}])]), SERVICE).grants
    found = Callers(()).edited([], named)
    assert rules(found.reach(CART, 8080, "GET")) == {"r0"}
    assert not rules(found.reach(CART, 8080, "POST"))
    assert not rules(found.reach(CART, 5432, "GET"))
