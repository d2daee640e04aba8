"""Istio's values: said exactly, by less in an allow, by more in a deny, or not at all."""

import pytest

from mesh.spiffe import TrustDomain
from policyengine.compile.boxes import PATHS, Field
from policyengine.importers import istiofields
from policyengine.importers.documents import read_documents
from policyengine.importers.istiofields import CannotSay, Reading

NO = "it cannot be said"


def reading(*, is_deny: bool = False) -> Reading:
    (document,) = read_documents([("f", "kind: A\n")])[0]
    return Reading(document, "r", is_deny, TrustDomain("corp.test"), "shop")


def said(read, value: str, widens: bool) -> object:
    try:
        found = read(reading(), value, widens).patterns
    except CannotSay:
        return NO
    return found if found is None else tuple(map(str, found))


@pytest.mark.parametrize(
    ("kind", "value", "less", "more"),
    [
        ("principal", "*", None, None),
        ("principal", "corp.test/ns/a/sa/b", ("spiffe://corp.test/ns/a/sa/b",), ("spiffe://corp.test/ns/a/sa/b",)),
        ("principal", "cluster.local/ns/a/sa/b", ("spiffe://corp.test/ns/a/sa/b",), ("spiffe://corp.test/ns/a/sa/b",)),
        ("principal", "corp.test/ns/a/*", ("spiffe://corp.test/ns/a/**",), ("spiffe://corp.test/ns/a/**",)),
        ("principal", "corp.test/ns/a/sa/b*", NO, ("spiffe://corp.test/ns/a/sa/**",)),
        ("principal", "*/sa/b", NO, NO),
        ("principal", "Corp.test/ns/a/sa/b", NO, NO),
        ("account", "b", ("spiffe://corp.test/ns/shop/sa/b",), ("spiffe://corp.test/ns/shop/sa/b",)),
        ("account", "a/b", ("spiffe://corp.test/ns/a/sa/b",), ("spiffe://corp.test/ns/a/sa/b",)),
        ("namespace", "a*", NO, NO),
        ("method", "get", NO, NO),
        ("method", "*", None, None),
        ("host", "API.test:8080", ("api.test",), ("api.test",)),
        ("host", "api.test:*", ("api.test",), ("api.test",)),
        ("host", "*.api.test", ("*.api.test",), NO),
        ("host", "api.*", NO, NO),
        ("path", "/a", ("/a",), ("/a",)),
        ("path", "/a/*", ("/a/**",), ("/a/**",)),
        ("path", "/a/b*", ("/a/b", "/a/b/**"), ("/a/**",)),
        ("path", "/*", None, None),
        ("path", "*.html", NO, NO),
        ("path", "/a/{*}/b", ("/a/{x0}/b",), ("/a/{x0}/b",)),
        ("path", "/a/{**}", ("/a/**",), ("/a/**",)),
        ("path", "/a/{**}/b", NO, ("/a/**",)),
        ("path", "/a;x", NO, NO),
        ("path", "/a/../b", NO, NO),
        ("block", "10.1.2.3/8", ("10.0.0.0/8",), ("10.0.0.0/8",)),
        ("block", "::ffff:10.0.0.0/104", NO, NO),
        ("header_value", "adm*", NO, NO),
        ("header_value", "a,b", NO, NO),
    ],
)
def test_a_value_is_said_by_less_or_by_more(kind, value, less, more) -> None:
    read = getattr(istiofields, kind)
    assert said(read, value, False) == less
    assert said(read, value, True) == more


def test_what_cannot_be_said_is_left_out_of_an_allow_and_frees_the_field_of_a_deny() -> None:
    allow, deny = reading(), reading(is_deny=True)
    values = ("/a", "*.html")
    assert allow.field("paths", values, None, istiofields.path, PATHS) == Field(
        tuple(istiofields.path(allow, "/a", False).patterns or ())
    )
    assert deny.field("paths", values, None, istiofields.path, PATHS) == Field()
    assert [item.code for item in allow.document.findings] == ["LM2500"]
    assert [item.code for item in deny.document.findings] == ["LM2501"]


def test_what_an_allow_cannot_leave_out_leaves_nothing() -> None:
    assert reading().field("paths", None, ("*.html",), istiofields.path, PATHS) is None
