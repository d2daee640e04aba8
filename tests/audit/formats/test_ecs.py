import datetime as dt
import ipaddress
import json
import os
import pathlib
from typing import Any

import pytest
from hypothesis import given

from audit.formats import ecs
from mesh.problems import Problem
from tests.audit.formats.samples import SAMPLES, SPAN, TRACE, any_record, as_json, sample, samples

# the fields that are used, with their types: a test below compares them with the list that Elastic publishes
FIELDS = {
    "@timestamp": "date",
    "message": "match_only_text",
    "ecs.version": "keyword",
    "log.level": "keyword",
    "observer.vendor": "keyword",
    "observer.product": "keyword",
    "observer.type": "keyword",
    "observer.version": "keyword",
    "event.kind": "keyword",
    "event.module": "keyword",
    "event.dataset": "keyword",
    "event.provider": "keyword",
    "event.category": "keyword[]",
    "event.type": "keyword[]",
    "event.action": "keyword",
    "event.outcome": "keyword",
    "event.id": "keyword",
    "event.code": "keyword",
    "event.sequence": "long",
    "event.severity": "long",
    "event.original": "keyword",
    "trace.id": "keyword",
    "span.id": "keyword",
    "source.ip": "ip",
    "source.address": "keyword",
    "destination.address": "keyword",
    "destination.port": "long",
    "user.id": "keyword",
    "user.name": "keyword",
    "related.ip": "ip[]",
    "related.user": "keyword[]",
    "http.request.method": "keyword",
    "url.original": "wildcard",
    "url.path": "wildcard",
    "url.query": "keyword",
    "url.domain": "keyword",
    "network.transport": "keyword",
    "network.protocol": "keyword",
    "network.direction": "keyword",
    "rule.id": "keyword",
    "rule.ruleset": "keyword",
    "rule.category": "keyword",
    "rule.version": "keyword",
}
# "ECS categorization fields": the categories that are used, and the types that are expected with a category
CATEGORIES = {
    "network": {"access", "allowed", "connection", "denied", "end", "info", "protocol", "start"},
    "web": {"access", "error", "info"},
    "authentication": {"start", "end", "info"},
    "iam": {"admin", "change", "creation", "deletion", "group", "info", "user"},
    "configuration": {"access", "change", "creation", "deletion", "info"},
    "host": {"access", "change", "end", "info", "start"},
}
TYPES = {
    "access", "admin", "allowed", "change", "connection", "creation", "deletion", "denied", "device", "end", "error",
    "group", "indicator", "info", "installation", "protocol", "start", "user",
}  # fmt: skip


def flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, item in value.items():
        found |= flat(item, f"{prefix}{name}.") if isinstance(item, dict) else {prefix + name: item}
    return found


def check(document: dict[str, Any]) -> None:
    for name, value in flat(document).items():
        if name.startswith("limen."):
            assert isinstance(value, str)
            continue
        kind = FIELDS[name]
        for item in value if kind.endswith("[]") else [value]:
            match kind.removesuffix("[]"):
                case "date":
                    assert dt.datetime.fromisoformat(item).tzinfo is not None
                case "ip":
                    ipaddress.ip_address(item)
                case "long":
                    assert type(item) is int
                case _:
                    assert isinstance(item, str)
    event = document["event"]
    assert (event["kind"], event["outcome"] in {"success", "failure"}) == ("event", True)
    assert set(event["category"]) <= set(CATEGORIES)
    assert set(event["type"]) <= TYPES
    assert {"name", "level"} >= set(document["log"])


@pytest.mark.peer
def test_fields_categories_and_types_are_those_that_elastic_publishes() -> None:
    path = os.environ.get("LIMEN_ECS")
    if path is None:
        pytest.skip("the published list of fields is not there: LIMEN_ECS (.ci/ecs)")
    published = json.loads(pathlib.Path(path).read_bytes())
    assert len(published) > 1000
    known = {name: field["type"] + "[]" * field["array"] for name, field in published.items() if name in FIELDS}
    assert known == FIELDS
    categories = published["event.category"]["allowed"]
    assert {name: set(categories[name]) for name in CATEGORIES} == CATEGORIES
    assert set(published["event.type"]["allowed"]) == TYPES
    assert "event" in published["event.kind"]["allowed"]
    assert {"success", "failure"} <= set(published["event.outcome"]["allowed"])


def document(name: str) -> dict[str, Any]:
    return as_json(next(ecs.lines([sample(name)])))


@pytest.mark.parametrize("name", SAMPLES)
def test_a_document_has_published_fields_alone_and_holds_the_record_whole(name: str) -> None:
    found = document(name)
    check(found)
    assert found["event"]["original"].encode() == sample(name)[1]


@given(any_record())
def test_a_document_of_any_record_has_published_fields_alone(item: tuple[int, bytes]) -> None:
    line = next(ecs.lines([item]))
    assert line.count(b"\n") == 1
    check(as_json(line))
    assert as_json(line)["event"]["original"].encode() == item[1]


@pytest.mark.parametrize(
    ("name", "category", "kinds"),
    [
        ("request", ["network", "web"], ["access", "allowed"]),
        ("denied", ["network", "web"], ["access", "denied"]),
        ("refused connection", ["network"], ["connection", "denied"]),
        ("refused identity", ["authentication"], ["start", "denied"]),
        ("person", ["iam"], ["info", "allowed"]),
        ("certificate", ["iam"], ["creation"]),
        ("login", ["authentication"], ["start"]),
        ("activation", ["configuration"], ["change"]),
    ],
)
def test_every_kind_has_its_category(name: str, category: list[str], kinds: list[str]) -> None:
    found = document(name)["event"]
    assert (found["category"], found["type"]) == (category, kinds)


def test_a_request_says_who_whom_what_by_which_rule_and_in_which_trace() -> None:
    found = document("request")
    assert found["source"] == {"ip": "10.0.0.1", "address": SAMPLES["request"]["caller"]}
    assert found["destination"] == {"address": SAMPLES["request"]["destination"], "port": 8080}
    assert (found["rule"]["id"], found["rule"]["ruleset"]) == ("orders", "shop-db")
    assert (found["trace"], found["span"]) == ({"id": TRACE}, {"id": SPAN})
    assert found["url"]["query"] == "page=2"


def test_documents_keep_the_order_of_the_log() -> None:
    assert [as_json(line)["event"]["sequence"] for line in ecs.lines(samples())] == list(range(len(SAMPLES)))


def test_a_record_that_cannot_be_read_is_named() -> None:
    with pytest.raises(Problem) as caught:
        list(ecs.lines([(7, b"{}")]))
    assert (caught.value.code, caught.value.facts["index"]) == ("LM6035", 7)
