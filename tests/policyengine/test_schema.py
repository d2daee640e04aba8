"""The schema that editors use agrees with the loader on the shape of documents."""

import pathlib
import re
from typing import Any

import pytest

from mesh.yamlio import compose_documents
from policyengine.loader import load_text
from policyengine.schema import schema, schema_text
from tests.policyengine.test_loader import DB, HEAD, rule

ROOT = pathlib.Path(__file__).parents[2]
_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "boolean": (bool,),
}


def is_type(value: object, name: str) -> bool:
    return isinstance(value, _TYPES[name]) and (name != "integer" or not isinstance(value, bool))


def accepts(part: dict[str, Any], value: Any, root: dict[str, Any]) -> bool:
    """As much of JSON Schema 2020-12 as the schema uses."""
    known = {
        "$schema", "$defs", "$ref", "title", "type", "enum", "const", "pattern", "minimum", "maximum", "oneOf",
        "properties", "required", "additionalProperties", "minProperties", "items", "minItems",
    }  # fmt: skip
    assert set(part) <= known
    if "$ref" in part:
        return accepts(root["$defs"][part["$ref"].removeprefix("#/$defs/")], value, root)
    if "oneOf" in part and sum(accepts(option, value, root) for option in part["oneOf"]) != 1:
        return False
    types = part.get("type", [])
    if types and not any(is_type(value, name) for name in ([types] if isinstance(types, str) else types)):
        return False
    if ("enum" in part and value not in part["enum"]) or ("const" in part and value != part["const"]):
        return False
    if isinstance(value, str) and "pattern" in part and re.search(part["pattern"], value) is None:
        return False
    if isinstance(value, int) and not part.get("minimum", value) <= value <= part.get("maximum", value):
        return False
    if isinstance(value, list):
        if len(value) < part.get("minItems", 0):
            return False
        return all(accepts(part.get("items", {}), item, root) for item in value)
    return not isinstance(value, dict) or accepts_object(part, value, root)


def accepts_object(part: dict[str, Any], value: dict[str, Any], root: dict[str, Any]) -> bool:
    if len(value) < part.get("minProperties", 0) or any(name not in value for name in part.get("required", [])):
        return False
    others = part.get("additionalProperties", {})
    for name, item in value.items():
        inside = part.get("properties", {}).get(name, others)
        if inside is False or not accepts(inside or {}, item, root):
            return False
    return True


def documents(text: str) -> list[object]:
    nodes, found = compose_documents(text, "f.yaml")
    assert not found
    return [node.plain() for node in nodes if node.kind != "null"]


def is_accepted(text: str) -> bool:
    return all(accepts(schema(), document, schema()) for document in documents(text))


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
