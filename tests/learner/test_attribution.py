import datetime as dt
import json
import pathlib

import pytest

from learner.attribution import Assignment, Workloads, from_endpoints, normal_ip, read_workloads
from mesh.flow import Flow
from mesh.problems import Invalid
from tests.learner.worlds import START

A, B = "spiffe://td/a", "spiffe://td/b"


def test_time_and_port_decide() -> None:
    later = START + dt.timedelta(hours=1)
    known = Workloads(
        [
            Assignment(ip="10.0.0.1", spiffe_id=A, end=later),
            Assignment(ip="10.0.0.1", spiffe_id=B, begin=later),
            Assignment(ip="10.0.0.2", spiffe_id=A),
            Assignment(ip="10.0.0.2", spiffe_id=B, port=80),
            Assignment(ip="10.0.0.3", spiffe_id=A),
            Assignment(ip="10.0.0.3", spiffe_id=B),
        ]
    )
    assert known.identity("10.0.0.1", None, START) == A
    assert known.identity("10.0.0.1", None, later) == B
    assert known.identity("10.0.0.2", 80, START) == B
    assert known.identity("10.0.0.2", 81, START) == A
    assert known.identity("10.0.0.3", None, START) is None
    assert known.identity("10.0.0.9", None, START) is None
    assert known.identity(None, None, START) is None


def test_known_identities_are_kept_and_missing_ones_filled_in() -> None:
    known = Workloads([Assignment(ip="10.0.0.1", spiffe_id=A), Assignment(ip="::1", spiffe_id=B)])
    flow = Flow(
        start=START,
        source="spiffe://td/x",
        source_ip="10.0.0.1",
        destination_ip="0:0::1",
        destination_port=1,
        protocol="tcp",
    )
    found = next(known.attribute([flow]))
    assert (found.source, found.destination) == ("spiffe://td/x", B)


def test_one_spelling_per_address() -> None:
    assert normal_ip("::ffff:10.1.2.3") == "10.1.2.3"
    assert normal_ip("0:0:0::1") == "::1"
    assert normal_ip("host") == "host"


def test_lines_that_break_the_format_are_found_and_the_others_read(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "map.jsonl"
    good = {
        "ip": "10.0.0.1",
        "spiffe_id": A,
        "port": 80,
        "from": "2026-01-01T00:00:00Z",
        "until": "2027-01-01T00:00:00Z",
    }
    bad: list[object] = [
        "{",
        "[]",
        json.dumps({"ip": "x", "spiffe_id": A}),
        json.dumps({"ip": "10.0.0.1"}),
        json.dumps({"ip": "10.0.0.1", "spiffe_id": "http://x"}),
        json.dumps({"ip": "10.0.0.1", "spiffe_id": A, "port": 0}),
        json.dumps({"ip": "10.0.0.1", "spiffe_id": A, "from": "today"}),
        json.dumps({"ip": "10.0.0.1", "spiffe_id": A, "extra": 1}),
    ]
    path.write_text("\n".join([json.dumps(good), "", *map(str, bad)]), "utf-8")
    known, findings = read_workloads(path)
    assert [item.code for item in findings] == ["LM4003"] * len(bad)
    assert findings[0].span is not None
    assert findings[0].span.line == 3
    assert known.identity("10.0.0.1", 80, START) == A
    with pytest.raises(Invalid, match="LM4001"):
        read_workloads(tmp_path / "none")


def test_a_registered_listener_is_its_workload() -> None:
    rows = [
        {"spiffe_id": "spiffe://corp.test/db", "address": "10.0.0.2", "port": 5432},
        {"spiffe_id": "spiffe://corp.test/v6", "address": "2001:db8::1", "port": 80},
        {"spiffe_id": "https://corp.test", "address": "10.0.0.3", "port": 80},
        {"spiffe_id": "spiffe://corp.test/x", "address": "nowhere", "port": 80},
        {"spiffe_id": "spiffe://corp.test/x", "address": "10.0.0.4", "port": "80"},
    ]
    known = Workloads()
    known.add(from_endpoints(rows))
    assert known.identities() == {"spiffe://corp.test/db", "spiffe://corp.test/v6"}
    start = dt.datetime(2026, 5, 1, tzinfo=dt.UTC)
    flow = Flow(start=start, source_ip="10.0.0.1", destination_ip="10.0.0.2", destination_port=5432, protocol="tcp")
    (found,) = known.attribute([flow])
    assert (found.source, found.destination, found.destination_port) == (None, "spiffe://corp.test/db", 5432)
    assert known.identity("10.0.0.2", 1, start) is None
    assert from_endpoints({}) == []
