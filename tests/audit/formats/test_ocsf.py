import functools
import json
from typing import Any

import jsonschema
import pytest
from hypothesis import example, given
from ocsf_json_schema import OcsfJsonSchemaEmbedded, get_ocsf_schema

from audit.formats import ocsf
from audit.record import record, to_bytes
from mesh.problems import Problem
from tests.audit.formats.samples import SAMPLES, TRACE, any_record, as_json, leaves, sample, samples
from tests.audit.making import START


@functools.cache
def published() -> OcsfJsonSchemaEmbedded:
    """The schema as the OCSF project publishes it, of the version that is exported."""
    return OcsfJsonSchemaEmbedded(get_ocsf_schema(version=ocsf.VERSION))


@functools.cache
def validator(class_uid: int, profiles: tuple[str, ...]) -> Any:
    name = published().lookup_class_name_from_uid(class_uid=class_uid)
    schema = published().get_class_schema(class_name=name, profiles=list(profiles))
    return jsonschema.Draft202012Validator(schema)


def check(event: dict[str, Any]) -> None:
    errors = list(validator(event["class_uid"], tuple(event["metadata"]["profiles"])).iter_errors(event))
    assert [f"{'/'.join(map(str, item.path))}: {item.message[:200]}" for item in errors] == []


def event(name: str) -> dict[str, Any]:
    return as_json(next(ocsf.lines([sample(name)])))


def test_the_published_schema_refuses_what_is_wrong() -> None:
    found = event("request")
    for change in ({"severity_id": 77}, {"colour": "red"}, {"time": "noon"}, {"http_request": 1}):
        with pytest.raises(AssertionError):
            check({**found, **change})
    with pytest.raises(AssertionError):
        check({name: value for name, value in found.items() if name != "metadata"} | {"metadata": {"profiles": []}})


@pytest.mark.parametrize("name", SAMPLES)
def test_an_event_is_valid_by_the_published_schema(name: str) -> None:
    check(event(name))


@given(any_record())
@example((0, to_bytes(record("ca", now=START, random=bytes(10), source="server:corp.test", event="\x1f"))))
def test_an_event_of_any_record_is_valid_and_keeps_all_that_it_says(item: tuple[int, bytes]) -> None:
    line = next(ocsf.lines([item]))
    assert line.count(b"\n") == 1
    found = as_json(line)
    check(found)
    kept = {json.dumps(leaf) for leaf in leaves(found)}
    said = as_json(item[1])
    path = said.get("path")
    for leaf in leaves(said):
        if leaf == path and isinstance(path, str) and "?" in path:
            url = found.get("http_request", {}).get("url", {})
            assert path in {f"{url.get('path', '')}?{url.get('query_string', '')}", url.get("url_string")} | {
                leaf for leaf in leaves(found) if isinstance(leaf, str)
            }
            continue
        # or as a part of a text, as an event's name is in its operation's
        assert json.dumps(leaf) in kept or any(isinstance(text, str) and str(leaf) in text for text in leaves(found))


@pytest.mark.parametrize(
    ("name", "class_uid", "activity"),
    [
        ("request", ocsf.HTTP, "GET"),
        ("denied", ocsf.HTTP, "GET"),
        ("connection", ocsf.NETWORK, "Open"),
        ("refused connection", ocsf.NETWORK, "Refuse"),
        ("refused handshake", ocsf.NETWORK, "Refuse"),
        ("call", ocsf.API, "Call"),
        ("refused identity", ocsf.AUTHENTICATION, "Authentication Ticket"),
        ("certificate", ocsf.AUTHENTICATION, "Authentication Ticket"),
        ("login", ocsf.AUTHENTICATION, "Logon"),
        ("person", ocsf.AUTHORIZE, "Assign Privileges"),
        ("search", ocsf.API, "Read"),
        ("proposal", ocsf.API, "Create"),
        ("revocation", ocsf.API, "Delete"),
        ("activation", ocsf.API, "Update"),
        ("unknown kind", ocsf.API, "Update"),
    ],
)
def test_every_kind_has_its_class(name: str, class_uid: int, activity: str) -> None:
    found = event(name)
    assert (found["class_uid"], found["activity_name"]) == (class_uid, activity)
    assert found["type_uid"] == class_uid * 100 + found["activity_id"]


@pytest.mark.parametrize(
    ("name", "action", "disposition", "status"),
    [
        ("request", "Allowed", "Allowed", "Success"),
        ("denied", "Denied", "Blocked", "Failure"),
        ("observed", "Observed", "Logged", "Success"),
    ],
)
def test_security_control_says_what_was_done(name: str, action: str, disposition: str, status: str) -> None:
    found = event(name)
    assert (found["action"], found["disposition"], found["status"]) == (action, disposition, status)


def test_a_request_says_who_whom_what_and_by_which_rule() -> None:
    found = event("request")
    fields = SAMPLES["request"]
    assert found["src_endpoint"] == {"uid": fields["caller"], "ip": "10.0.0.1"}
    assert found["dst_endpoint"] == {"uid": fields["destination"], "port": 8080}
    assert found["http_request"]["url"] == {"path": "/orders/1", "query_string": "page=2", "hostname": "db.corp.test"}
    assert (found["policy"]["name"], found["firewall_rule"]["uid"]) == ("shop-db", "orders")
    assert (found["trace"]["uid"], found["metadata"]["correlation_uid"]) == (TRACE, TRACE)
    assert found["time"] == int(START.timestamp() * 1000)


def test_events_keep_the_order_of_the_log() -> None:
    found = [as_json(line)["metadata"]["sequence"] for line in ocsf.lines(samples())]
    assert found == list(range(len(SAMPLES)))


def test_a_record_that_cannot_be_read_is_named() -> None:
    with pytest.raises(Problem) as caught:
        list(ocsf.lines([(7, b"{}")]))
    assert (caught.value.code, caught.value.facts["index"]) == ("LM6035", 7)


@pytest.mark.parametrize("value", [[], {}, 7, None, "perhaps"])
def test_a_decision_that_is_no_word_of_ours_is_kept_as_it_is(value: object) -> None:
    index, data = sample("request")
    found = as_json(next(ocsf.lines([(index, json.dumps({**json.loads(data), "decision": value}).encode())])))
    check(found)
    assert found["unmapped"].get("decision") == value
