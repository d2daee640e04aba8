import dataclasses
import datetime as dt
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.request import Effect, Request
from mesh.spiffe import SpiffePattern
from policyengine.canonical import PathPattern
from policyengine.decide import Index
from policyengine.issuer import Issuer
from policyengine.model import (
    ClaimsCondition,
    Conditions,
    Operation,
    Policy,
    PolicySet,
    Port,
    Principal,
    Rule,
    Service,
    Unless,
)
from policyengine.reach import Chain, blast_radius, rollout, ways_through, who_reaches
from tests.examples import examples

NOW = dt.datetime(2026, 11, 24, 12, 0, tzinfo=dt.UTC)
ID = "spiffe://corp.test/ns/shop/sa/"
NAMES = ("web", "cart", "orders", "payments")


def tree(*edges: tuple[str, str], **fields: Any) -> PolicySet:
    """Services that may call each other: (caller, called)."""
    services = tuple(
        Service(
            name=name,
            owner="",
            identities=(SpiffePattern.parse(ID + name),),
            ports=(Port(port=8080, protocol="http"),),
        )
        for name in NAMES
    )
    policies = []
    for name in NAMES:
        rules = tuple(
            Rule(id=f"from-{place}", effect=Effect.ALLOW, from_=(principal(caller),), **fields)
            for place, (caller, called) in enumerate(edges)
            if called == name
        )
        if rules:
            policies.append(Policy(name=f"p-{name}", owner="", service=name, tier="app", rules=rules))
    return PolicySet(services=services, policies=tuple(policies))


def principal(text: str) -> Principal:
    return Principal.parse(text if ":" in text or text == "any" else ID + text)


def of(policies: PolicySet, *texts: str) -> Any:
    return policies.expand(tuple(principal(text) for text in texts))


def test_says_who_outside_of_a_group_reaches_a_service() -> None:
    policies = tree(("cart", "payments"), ("web", "payments"), ("spiffe://other.test/**", "payments"))
    inside = of(policies, "cart", "web")
    rows = who_reaches(policies, "payments", of(policies, "any"), inside, NOW)
    assert [row.source for row in rows] == ["spiffe://other.test/**"]
    assert all(row.is_replayed for row in rows)
    assert rows[0].because == ("p-payments/from-2",)


def test_says_that_nobody_does() -> None:
    policies = tree(("cart", "payments"))
    assert who_reaches(policies, "payments", of(policies, "any"), of(policies, "cart"), NOW) == ()
    assert who_reaches(policies, "payments", of(policies, "spiffe://other.test/**"), None, NOW) == ()
    assert who_reaches(policies, "nowhere", of(policies, "any"), None, NOW) == ()


def test_says_by_which_requests() -> None:
    operation = (Operation(methods=("GET",), paths=(PathPattern.parse("/pay/{id}"),)),)
    policies = tree(("cart", "payments"), to=operation, when=Conditions(headers=(("x", ("a",)),)))
    (row,) = who_reaches(policies, "payments", of(policies, "spiffe://corp.test/**"), None, NOW)
    assert (row.source, row.methods, row.paths, row.when) == (
        ID + "cart", ("GET",), ("/pay/{id}",), {"headers": {"x": ["a"]}},
    )  # fmt: skip


def test_names_the_shortest_way_through_each_service_that_lets_callers_in() -> None:
    policies = tree(("x", "web"), ("web", "cart"), ("cart", "orders"), ("orders", "payments"), ("web", "orders"))
    asked = (policies, "payments", of(policies, "any"), of(policies, "cart"), NOW)
    assert [(way.via, [row.source.removeprefix(ID) for row in way.access]) for way in ways_through(*asked)] == [
        (("orders",), ["web"]),
        (("cart", "orders"), ["web"]),
        (("web", "orders"), ["x"]),
    ]
    assert all(row.is_replayed for way in ways_through(*asked) for row in way.access)


def test_a_circle_is_no_way_through() -> None:
    policies = tree(("web", "cart"), ("cart", "web"))
    assert [way.via for way in ways_through(policies, "web", of(policies, "any"), None, NOW)] == [("cart",)]
    assert ways_through(policies, "orders", of(policies, "any"), None, NOW) == ()


@settings(max_examples=examples(40), deadline=None)
@given(st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(NAMES)), max_size=7, unique=True))
def test_ways_to_a_service_are_the_blast_radius_seen_from_its_end(edges: list[tuple[str, str]]) -> None:
    policies = tree(*edges)
    for name in ("web", "cart", "orders"):
        callers = of(policies, name)
        ways = ways_through(policies, "payments", callers, None, NOW)
        direct = who_reaches(policies, "payments", callers, None, NOW)
        assert bool(ways or direct) == ("payments" in {found.service for found in blast_radius(policies, callers, NOW)})


def test_follows_services_as_far_as_they_go() -> None:
    policies = tree(("web", "cart"), ("cart", "orders"), ("orders", "payments"), ("web", "orders"))
    found = {reached.service: reached.via for reached in blast_radius(policies, of(policies, "web"), NOW)}
    assert found == {"cart": (), "orders": (), "payments": ("orders",)}
    (last,) = [
        reached for reached in blast_radius(policies, of(policies, "cart"), NOW) if reached.service == "payments"
    ]
    assert last.to_json()["hops"] == 2
    assert last.access[0].is_replayed


def test_a_circle_ends() -> None:
    policies = tree(("web", "cart"), ("cart", "web"))
    assert {reached.service for reached in blast_radius(policies, of(policies, "web"), NOW)} == {"cart", "web"}


def test_a_mix_of_versions_can_open_a_way_that_neither_has() -> None:
    old, new = tree(("cart", "orders")), tree(("web", "cart"))
    assert rollout(old, new, NOW) == (Chain(source=ID + "web", hops=(("cart", ("new",)), ("orders", ("old",)))),)
    assert rollout(old, new, NOW)[0].to_json() == {
        "source": ID + "web",
        "service": "orders",
        "hops": [{"service": "cart", "allowed_by": ["new"]}, {"service": "orders", "allowed_by": ["old"]}],
    }


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param([("web", "cart")], [("web", "cart")], id="equal"),
        pytest.param([("web", "cart")], [("web", "cart"), ("cart", "orders")], id="only-more"),
        pytest.param([("web", "cart"), ("cart", "orders")], [("web", "cart")], id="only-less"),
        pytest.param([("web", "cart")], [("web", "orders")], id="beside"),
        pytest.param([("web", "cart"), ("cart", "orders")], [("web", "orders")], id="another-way-to-the-same"),
    ],
)
def test_a_mix_that_opens_nothing_is_safe(old: Any, new: Any) -> None:
    assert rollout(tree(*old), tree(*new), NOW) == ()


IDP = Issuer(name="idp", owner="", issuer="https://idp.test", audiences=("shop",), jwks_uri="https://idp.test/keys")

ANOTHER = dataclasses.replace(IDP, issuer="https://idp.test/")


def asking(issuer: str) -> dict[str, Any]:
    """Rules that ask for a token."""
    return {"when": Conditions(claims=ClaimsCondition(issuer=issuer, values=(("role", ("admin",)),)))}


def declaring(policies: PolicySet, *issuers: Issuer) -> PolicySet:
    return dataclasses.replace(policies, issuers=issuers)


WEB_CART = (("cart", ("new",)), ("orders", ("old",)))


@pytest.mark.parametrize(
    ("olds", "news", "issuer", "expected"),
    [
        # what the old version has of web's way to cart hangs on a token that it does not believe
        pytest.param((), (IDP,), IDP.issuer, [WEB_CART], id="newly-declared"),
        pytest.param((IDP,), (IDP,), IDP.issuer, [], id="declared-in-both"),
        pytest.param((), (), IDP.issuer, [], id="declared-in-neither"),
        pytest.param((ANOTHER,), (IDP,), IDP.issuer, [WEB_CART], id="another-one"),
        pytest.param((dataclasses.replace(IDP, audiences=("bank",)),), (IDP,), IDP.issuer, [], id="declared-otherwise"),
        pytest.param((), (IDP,), "authzen:user", [], id="said-by-a-caller"),
    ],
)  # fmt: skip
def test_a_hop_that_takes_a_token_is_of_the_versions_that_declare_its_issuer(
    olds: tuple[Issuer, ...], news: tuple[Issuer, ...], issuer: str, expected: list[Any]
) -> None:
    old = declaring(joined(tree(("web", "cart"), **asking(issuer)), tree(("cart", "orders"))), *olds)
    new = declaring(tree(("web", "cart"), **asking(issuer)), *news)
    assert [chain.hops for chain in rollout(old, new, NOW) if chain.source == ID + "web"] == expected


def test_a_deny_that_spares_bearers_of_a_token_spares_nobody_where_its_issuer_is_not_declared() -> None:
    spared = Unless(when=asking(IDP.issuer)["when"])
    deny = tree(("any", "cart"))
    rules = tuple(dataclasses.replace(rule, effect=Effect.DENY, unless=spared) for rule in deny.policies[0].rules)
    guard = Policy(name="guard", owner="", service="cart", tier="guardrail", rules=rules)
    old = tree(("web", "cart"), ("cart", "orders"))
    old = dataclasses.replace(old, policies=(*old.policies, guard))
    new = dataclasses.replace(tree(("web", "cart")), issuers=(IDP,))
    new = dataclasses.replace(new, policies=(*new.policies, guard))
    hops = [chain.hops for chain in rollout(old, new, NOW) if chain.source == ID + "web"]
    assert hops == [WEB_CART]
    assert rollout(declaring(old, IDP), new, NOW) == ()


def joined(one: PolicySet, other: PolicySet) -> PolicySet:
    """The policies of both, whose names differ."""
    return dataclasses.replace(one, policies=(*one.policies, *other.policies))


CALLERS = [*NAMES, "spiffe://corp.test/ns/shop/**", "spiffe://x.test/a", "any"]
EDGES = st.lists(st.tuples(st.sampled_from(CALLERS), st.sampled_from(NAMES)), max_size=5, unique=True)
STARTS = [*(ID + name for name in NAMES), ID + "other", "spiffe://x.test/a", "spiffe://y.test/b"]


def reached(start: str, versions: list[PolicySet]) -> set[str]:
    """What is reached when every hop may be decided by any of the versions, by asking the index about each."""
    found: set[str] = set()
    waiting = [start]
    indices = [Index(version, "") for version in versions]
    while waiting:
        source = waiting.pop()
        for name in NAMES:
            asked = Request(service=name, port=8080, protocol="http", source=source, method="GET", path="/", time=NOW)
            if name not in found and any(index.decide(asked).is_allowed for index in indices):
                found.add(name)
                waiting.append(ID + name)
    return found


def class_of(start: str, *versions: PolicySet) -> str:
    """The narrowest pattern of both versions that holds a caller."""
    named = {
        str(item) for version in versions for policy in version.policies for rule in policy.rules for item in rule.from_
    }
    named |= {ID + name for name in NAMES}
    texts = [start, *(f"{start.rsplit('/', count)[0]}/**" for count in range(1, start.count("/") - 1))]
    return next((text for text in texts if text in named), "any")


@settings(max_examples=examples(40), deadline=None)
@given(EDGES, EDGES)
def test_finds_exactly_what_only_a_mix_reaches(old_edges: Any, new_edges: Any) -> None:
    old, new = tree(*old_edges), tree(*new_edges)
    found = rollout(old, new, NOW)
    for start in STARTS:
        expected = reached(start, [old, new]) - reached(start, [old]) - reached(start, [new])
        said = {chain.hops[-1][0] for chain in found if chain.source == class_of(start, old, new)}
        assert said == expected
    for chain in found:
        assert len({versions for _, versions in chain.hops}) > 1
