"""What must hold between the objects of a set; the loader's table covers the single rules."""

import dataclasses

from mesh.spiffe import SpiffePattern
from policyengine.consistency import check
from policyengine.model import Port, Service
from tests.policyengine.corners import FUTURE, TD, allow, grant, tree


def service(name: str, *identities: str) -> Service:
    return Service(
        name=name,
        owner="",
        identities=tuple(SpiffePattern.parse(text) for text in identities),
        ports=(Port(port=80, protocol="http"),),
    )


def overlaps(*services: Service) -> set[str]:
    found = check(dataclasses.replace(tree(), services=services, policies=()))
    return {str(item.facts["identity"]) for item in found if item.code == "LM2034"}


def test_disjoint_identities_are_accepted() -> None:
    assert not overlaps(
        service("a", f"{TD}/ns/a", f"{TD}/ns/a/**"),
        service("b", f"{TD}/ns/ab/**"),
        service("c", "spiffe://other.test/**"),
    )


def test_identity_of_two_services_is_refused() -> None:
    assert overlaps(service("a", f"{TD}/x"), service("b", f"{TD}/x")) == {f"{TD}/x"}


def test_identity_inside_anothers_subtree_is_refused() -> None:
    assert overlaps(service("a", f"{TD}/x/y/z"), service("b", f"{TD}/x/**")) == {f"{TD}/x/y/z"}
    assert overlaps(service("a", f"{TD}/x/y/**"), service("b", f"{TD}/**")) == {f"{TD}/x/y/**"}


def test_node_itself_is_not_below_its_subtree() -> None:
    assert not overlaps(service("a", f"{TD}/x"), service("b", f"{TD}/x/**"))


def test_neighbour_between_does_not_hide_an_overlap() -> None:
    found = overlaps(service("a", f"{TD}/x/**"), service("b", f"{TD}/x/b/c"), service("c", f"{TD}/x/b/d"))
    assert found == {f"{TD}/x/b/c", f"{TD}/x/b/d"}


def test_ten_thousand_services_are_checked_quickly() -> None:
    services = tuple(service(f"s{n}", f"{TD}/ns/n{n % 100}/sa/s{n}") for n in range(10_000))
    assert not overlaps(*services)


def test_exceptions_share_the_names_of_policies() -> None:
    found = tree(app=[allow()], exceptions=[grant(FUTURE)])
    clash = dataclasses.replace(found.exceptions[0], name="app-db")
    codes = [item.code for item in check(dataclasses.replace(found, exceptions=(clash,)))]
    assert codes == ["LM2030"]
