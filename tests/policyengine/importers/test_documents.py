"""Documents: read strictly, each with its place, and one word for what became of it."""

import pytest

from policyengine.importers.documents import (
    ASSUMED,
    MALFORMED,
    REFUSED,
    STRICTER,
    WITHOUT_EFFECT,
    Malformed,
    has_errors,
    read_documents,
    spec_of,
)

TEXT = """\
kind: A
metadata: {name: one, namespace: shop}
spec: {texts: [a, 1, true], empty: [], labels: {x: 1}}
---
kind: ThingList
items:
- kind: B
  metadata: {name: two}
"""


def test_a_list_is_its_items_and_every_document_has_its_place() -> None:
    one, two = read_documents([("f.yaml", TEXT)])[0]
    assert (one.kind, one.namespace, one.name, one.node.span.line) == ("A", "shop", "one", 1)
    assert (two.kind, two.namespace, two.name, two.node.span.line) == ("B", "default", "two", 7)


def test_what_is_read_is_text_and_an_empty_list_says_nothing() -> None:
    (one, _), found = read_documents([("f.yaml", TEXT)])
    spec = spec_of(one)
    assert not found
    assert one.texts(spec, "texts") == ("a", "1", "true")
    assert one.texts(spec, "empty") is None
    assert one.labels(spec, "labels") == {"x": "1"}
    with pytest.raises(Malformed):
        one.items(spec, "labels")
    assert one.status == "malformed"
    assert has_errors([one])


@pytest.mark.parametrize(
    ("codes", "status"),
    [
        ((), "translated"),
        ((ASSUMED,), "translated"),
        ((WITHOUT_EFFECT,), "no effect"),
        ((WITHOUT_EFFECT, STRICTER), "stricter"),
        ((STRICTER, REFUSED), "refused"),
    ],
)
def test_the_worst_finding_is_what_became_of_a_document(codes, status) -> None:
    one = read_documents([("f.yaml", TEXT)])[0][0]
    for code in codes:
        one.note(code, "x", "y")
        one.note(code, "x", "y")
    assert one.status == status
    assert len(one.findings) == len(codes)


def test_an_unknown_field_is_refused_at_its_place() -> None:
    one = read_documents([("f.yaml", TEXT)])[0][0]
    with pytest.raises(Malformed):
        one.only(spec_of(one), ("texts", "empty"))
    assert [(item.code, item.span.column if item.span else 0) for item in one.findings] == [(MALFORMED, 40)]


def test_what_yaml_hides_is_refused() -> None:
    documents, found = read_documents([("f.yaml", "kind: &a A\nname: *a\n")])
    assert not documents
    assert {item.code for item in found} == {"LM5103"}
