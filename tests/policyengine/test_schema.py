"""The schema that editors use agrees with the loader on the shape of documents."""

# ruff: noqa: E501  tables read best with one case a line

import copy
import json
import pathlib
from typing import Any

import jsonschema
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from mesh.yamlio import compose_documents
from policyengine.loader import load_text
from policyengine.schema import schema, schema_text
from tests.examples import examples
from tests.policyengine.strategies import policy_sets
from tests.policyengine.test_loader import DB, HEAD, rule
from tests.policyengine.yamltexts import documents_of

ROOT = pathlib.Path(__file__).parents[2]
VALIDATOR = jsonschema.Draft202012Validator(schema())
# what more than one document has to agree on, and what no pattern says of one
BEYOND = {
    "LM2007", "LM2008", "LM2012", "LM2006", "LM2013", "LM2014", "LM2016", "LM2011", "LM2015", "LM2030", "LM2031",
    "LM2032", "LM2033", "LM2034", "LM2035", "LM2036", "LM2037", "LM2038", "LM2039", "LM2040", "LM2051", "LM2052", "LM2053",
    "LM2060", "LM2061", "LM2702", "LM2703", "LM2704", "LM2705", "LM2122", "LM2123",
}  # fmt: skip


def documents(text: str) -> list[object]:
    nodes, found = compose_documents(text, "f.yaml")
    assert not found
    return [node.plain() for node in nodes if node.kind != "null"]


def is_accepted(text: str) -> bool:
    return all(VALIDATOR.is_valid(document) for document in documents(text))


def test_it_is_a_schema_of_its_draft() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())


def test_file_is_up_to_date() -> None:
    assert (ROOT / "policies" / "schema.json").read_text("utf-8") == schema_text()


@pytest.mark.parametrize("file", sorted((ROOT / "policies").rglob("*.yaml")), ids=lambda file: file.name)
def test_shipped_policies_are_accepted(file: pathlib.Path) -> None:
    assert is_accepted(file.read_text("utf-8"))


FULL = rule(
    "id: a\n    effect: deny\n    from: [any, 'group:g', 'service:db', 'spiffe://td/ns/**']\n"
    "    to: [{ports: [8080], methods: [GET], hosts: ['*.a.test'], paths: ['/a/{x:uuid}/**']}]\n"
    "    when: {claims: {issuer: i, roles: [a, 1, true]}, headers: {x-a: [b]}, peer_ip: [10.0.0.0/8],"
    " hours: {tz: UTC, from: '08:00', to: '18:00'}, rego: data.shop.x}\n"
    "    unless: {from: [any], when: {rego: data.shop.y}}\n    evidence: {n: 1}"
)
REFUSED = [
    rule("{id: a, effect: allow}"),
    rule("{id: a, effect: permit, from: [any]}"),
    rule("{id: a, effect: allow, from: []}"),
    rule("{id: a, effect: allow, from: any}"),
    rule("{id: a, effect: allow, from: [web]}"),
    rule("{id: a, effect: allow, from: ['spiffe://td/*/x']}"),
    rule("{id: a, effect: allow, from: [any], to: []}"),
    rule("{id: a, effect: allow, from: [any], to: [{}]}"),
    rule("{id: a, effect: allow, from: [any], to: [{paths: []}]}"),
    rule("{id: a, effect: allow, from: [any], to: [{ports: ['80']}]}"),
    rule("{id: a, effect: allow, from: [any], to: [{ports: [true]}]}"),
    rule("{id: a, effect: allow, from: [any], to: [{methods: [get]}]}"),
    rule("{id: a, effect: allow, from: [any], when: {}}"),
    rule("{id: a, effect: allow, from: [any], when: {claims: {r: [a]}}}"),
    rule("{id: a, effect: allow, from: [any], when: {headers: {}}}"),
    rule("{id: a, effect: allow, from: [any], unless: {}}"),
    rule("{id: a, effect: allow, from: [any], efect: x}"),
    DB.replace("ports: [", "port: ["),
    DB.replace("http}", "https}"),
    DB.replace("name: db", "name: d b"),
    HEAD + "kind: Group\nmetadata: {name: g}\nspec: {members: []}\n",
    HEAD + "kind: Thing\nmetadata: {name: g}\nspec: {}\n",
]


def test_a_document_with_every_field_is_accepted() -> None:
    assert is_accepted(FULL)


@pytest.mark.parametrize("text", REFUSED, ids=range(len(REFUSED)))
def test_what_the_schema_refuses_the_loader_refuses(text: str) -> None:
    assert not is_accepted(text)
    assert any(str(item.severity) == "error" for item in load_text(text, "f.yaml")[1])


TEST = (
    HEAD
    + """kind: PolicyTest
metadata: {name: t, owner: o}
spec:
  given: {service: db, port: 8080}
  cases:
  - name: a
    given: {source: null, method: GET, path: /, headers: [[a, b]], claims: {iss: i, n: [1]}, time: 2026-11-24T12:00:00Z}
    expect: {decision: deny, code: LM2303}
    because: nobody
"""
)
ISSUER = (
    HEAD
    + """kind: Issuer
metadata: {name: idp, owner: o, suppress: [{code: LM2108, reason: r, until: 2027-01-01}]}
spec:
  issuer: https://idp.test
  audiences: [shop]
  jwks_uri: https://idp.test/keys
  algorithms: [ES256]
  leeway: 30s
  bind: [actor]
"""
)
VALUES: list[Any] = [
    None, True, 0, 1, -1, 8080, 65536, 1.5, "", "any", "a b", "GET", "get", "/a", "/a/**", "a", "/a//b", "/{x:no}", "/a?b", "/%2f",
    "/{x:int}", "/a/.", "/(a+)+$", "/c++", "*.a.test", "A.test", "a:80", "[::1]", "spiffe://td/a", "spiffe://td", "spiffe://td/**", "spiffe://td/a/**/b",
    "spiffe://td/../a", "group:g", "group:", "group:a b", "service:db", "10.0.0.0/8", "10.0.0.1/8", "x/8", "08:00", "24:00",
    "2027-01-01T00:00:00Z", "2027-02-30T00:00:00Z", "2027-01-01", "2027-01-01 00:00:00+01:00", "data.x.y", "data.limen.y", "data.x",
    "observe", "enforce", "app", "allow", "deny", "pass", "x,y", " x", "x\n", "host", "db", [], ["any"], ["GET"], [8080], {}, {"a": 1},
    {"issuer": "i"}, {"issuer": "i", "r": [1]}, {"from": ["any"]}, {"x-a": ["b"]}, {"Host": ["b"]}, {"a b": ["c"]},
]  # fmt: skip


def places(value: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """The path of every value in a document."""
    found = [path]
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in pairs:
        found += places(item, (*path, key))
    return found


@st.composite
def bent(draw: st.DrawFn) -> dict[str, Any]:
    """A good document with up to three things wrong, or none."""
    good = [*documents_of(draw(policy_sets)), *documents(TEST), *documents(FULL), *documents(ISSUER)]
    document = copy.deepcopy(draw(st.sampled_from(good)))
    assert isinstance(document, dict)
    for _ in range(draw(st.integers(0, 2))):
        path = draw(st.sampled_from([place for place in places(document) if place]))
        parent: Any = document
        for part in path[:-1]:
            parent = parent[part]
        kind = draw(st.sampled_from(("set", "set", "remove", "add")))
        if kind == "set":
            parent[path[-1]] = copy.deepcopy(draw(st.sampled_from(VALUES)))
        elif kind == "remove":
            del parent[path[-1]]
        elif isinstance(parent, dict):
            parent[draw(st.sampled_from(("until", "mode", "when", "x", "from", "given")))] = copy.deepcopy(
                draw(st.sampled_from(VALUES))
            )
        else:
            parent.append(copy.deepcopy(draw(st.sampled_from(VALUES))))
    return document


@settings(max_examples=examples(60), deadline=None)
@given(bent())
def test_the_schema_accepts_what_the_loader_accepts_of_one_document_and_nothing_else(document: dict[str, Any]) -> None:
    # JSON is YAML, and every text in it is quoted
    errors = {item.code for item in load_text(json.dumps(document), "f.yaml")[1] if str(item.severity) == "error"}
    assert not any(code.startswith("LM51") for code in errors)
    is_valid = VALIDATOR.is_valid(document)
    event(f"valid {is_valid}, loads {not errors}")
    if is_valid:
        assert errors <= BEYOND
    else:
        assert errors - {"LM2030", "LM2032", "LM2033", "LM2036"}
