import dataclasses
from typing import Any

import pytest

from mesh.spiffe import SpiffePattern
from policyengine.model import ExceptionGrant, Group, Invariant, Principal
from policyengine.ownership import owners_required, touched_services


def test_nothing_is_touched_when_nothing_changes(releases: Any) -> None:
    assert touched_services(releases.snapshot("cart"), releases.snapshot("cart")) == frozenset()


def test_a_changed_rule_touches_the_called_service_only(releases: Any) -> None:
    before, after = releases.snapshot("cart"), releases.snapshot("cart", "batch")
    assert touched_services(before, after) == {"db"}
    assert owners_required(before, after) == {"team-data": ("db",)}


def with_policies(snapshot: Any, **fields: Any) -> Any:
    return dataclasses.replace(snapshot, policies=dataclasses.replace(snapshot.policies, **fields))


@pytest.mark.parametrize("field", ["identity_rules", "federation", "jwt_issuers"])
def test_who_anybody_is_touches_every_service(releases: Any, field: Any) -> None:
    value = "rules: []" if field == "identity_rules" else (("other.test", "https://other.test"),)
    before = releases.snapshot("cart")
    assert touched_services(before, dataclasses.replace(before, **{field: value})) == {"db", "web"}


def test_a_changed_group_touches_the_services_whose_rules_name_it(releases: Any) -> None:
    def with_members(*members: str) -> Any:
        group = Group(name="g", owner="team-web", members=tuple(Principal.parse(text) for text in members))
        return with_policies(releases.snapshot("group:g"), groups=(group,))

    before = with_members("spiffe://corp.test/ns/a/sa/a")
    assert touched_services(before, with_members("spiffe://corp.test/**")) == {"db"}


def test_the_identities_of_a_calling_service_touch_the_called_one(releases: Any, make_service: Any) -> None:
    before = releases.snapshot("service:web")
    more = (SpiffePattern.parse("spiffe://corp.test/ns/shop/sa/web"), SpiffePattern.parse("spiffe://corp.test/ns/x/**"))
    services = (make_service("db", "team-data"), make_service("web", "team-web", identities=more))
    assert touched_services(before, with_policies(before, services=services)) == {"db", "web"}


def test_a_removed_invariant_touches_its_service(releases: Any) -> None:
    invariant = Invariant(name="pci", owner="", from_=(Principal.parse("any"),), service="web")
    before = with_policies(releases.snapshot("cart"), invariants=(invariant,))
    assert touched_services(before, releases.snapshot("cart")) == {"web"}


def test_a_new_service_that_claims_the_identities_of_another_touches_it(releases: Any, make_service: Any) -> None:
    before = releases.snapshot("cart")
    thief = make_service("thief", identities=(SpiffePattern.parse("spiffe://corp.test/ns/shop/**"),))
    after = with_policies(before, services=(*before.policies.services, thief))
    assert touched_services(before, after) == {"db", "web"}


def test_a_new_service_touches_nobody(releases: Any, make_service: Any) -> None:
    before = releases.snapshot("cart")
    after = with_policies(before, services=(*before.policies.services, make_service("new")))
    assert touched_services(before, after) == frozenset()


def test_the_order_of_rules_touches_nothing(releases: Any, make_rule: Any, make_policy: Any) -> None:
    rules = (make_rule("a", "cart"), make_rule("b", "web"))
    before = with_policies(releases.snapshot("cart"), policies=(make_policy("db", *rules),))
    after = with_policies(before, policies=(make_policy("db", *reversed(rules)),))
    assert touched_services(before, after) == frozenset()


def test_a_service_without_an_owner_requires_nobody(releases: Any, make_service: Any) -> None:
    free = (make_service("db"), make_service("web", "team-web"))
    before = with_policies(releases.snapshot("cart"), services=free)
    after = with_policies(before, policies=())
    assert touched_services(before, after) == {"db"}
    assert owners_required(before, after) == {}


def test_an_exception_touches_its_service(releases: Any) -> None:
    grant = ExceptionGrant(
        name="e", owner="", service="web", from_=(Principal.parse("any"),), until=releases.now, reason="r"
    )
    before = releases.snapshot("cart")
    assert touched_services(before, with_policies(before, exceptions=(grant,))) == {"web"}
