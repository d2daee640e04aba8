"""What compilers share: places, names, notes in front of files."""

from __future__ import annotations

import datetime as dt

import pytest
import yaml

from mesh.request import Mode
from mesh.spiffe import SpiffePattern, TrustDomain
from policyengine import model
from policyengine.compile.export import Findings, Place, allowed_for, documents, domain_of, object_name, place_of
from tests.policyengine.targets import trees

TD = TrustDomain("corp.test")


@pytest.mark.parametrize(
    ("pattern", "place"),
    [
        ("spiffe://corp.test/ns/shop/sa/cart", Place("shop", "cart")),
        ("spiffe://corp.test/ns/shop/sa/cart.io", Place("shop", "cart.io")),
        ("spiffe://corp.test/ns/shop/**", Place("shop", None)),
        ("spiffe://corp.test/ns/shop/sa/**", Place("shop", None)),
        ("spiffe://corp.test/ns/**", Place(None, None)),
        ("spiffe://corp.test/**", Place(None, None)),
        ("spiffe://corp.test/ns/shop/sa/cart/**", None),
        ("spiffe://corp.test/ns/Shop/sa/cart", None),
        ("spiffe://corp.test/host/x", None),
        ("spiffe://other.test/ns/shop/sa/cart", None),
    ],
)
def test_an_identity_has_a_place_in_the_cluster_or_none(pattern: str, place: Place | None) -> None:
    assert place_of(SpiffePattern.parse(pattern), TD) == place


def test_names_that_had_to_be_changed_do_not_meet() -> None:
    assert object_name("db") == "limen-db"
    names = {object_name("Db"), object_name("d_b"), object_name("d.b"), object_name("x" * 90), object_name("x" * 91)}
    assert len(names) == 5
    assert all(len(name) <= 63 for name in names)


def test_a_file_begins_with_what_it_does_not_say() -> None:
    findings = Findings("db")
    findings.stricter("p/r", "a reason")
    findings.stricter("p/r", "a reason")
    text = documents([{"a": {"x": "no"}}], "A heading.", findings.all())
    assert text.splitlines()[:2] == ["# A heading.", "# LM2511: `p/r` is stricter for `db` there: a reason"]
    assert yaml.safe_load(text) == {"a": {"x": "no"}}
    assert len(findings.all()) == 1


def test_a_service_that_is_observed_is_enforced_there_and_that_is_said() -> None:
    import dataclasses

    tree = trees.tree([{"id": "r", "effect": "allow", "from": ["any"]}])
    until = dt.datetime(2027, 1, 1, tzinfo=dt.UTC)
    service = dataclasses.replace(tree.service_for("db"), mode=Mode.OBSERVE, until=until)
    findings = Findings("db")
    allowed_for(dataclasses.replace(tree, services=(service,)), service, findings)
    assert [item.code for item in findings.all()] == ["LM2511"]


def test_the_trust_domain_is_that_of_all_services_or_open() -> None:
    assert domain_of(trees.tree([])) == TD
    assert domain_of(model.PolicySet()) is None
