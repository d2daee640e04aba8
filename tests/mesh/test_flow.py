import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.flow import Flow, Verdict, flow_from_json

ROW: dict[str, object] = {
    "start": "2026-11-24T12:00:00Z",
    "source": "spiffe://td/a",
    "destination_ip": "10.0.0.1",
    "destination_port": 80,
    "protocol": "http",
}


def test_only_five_facts_are_required() -> None:
    flow = flow_from_json(ROW)
    assert (flow.connections, flow.established, flow.destination) == (1, None, None)
    assert flow_from_json(flow.to_json()) == flow


def test_everything_round_trips() -> None:
    row = ROW | {
        "end": "2026-11-24T12:00:01Z",
        "destination": "spiffe://td/b",
        "source_ip": "10.0.0.2",
        "method": "GET",
        "path": "/x",
        "status": 200,
        "established": True,
        "replica": "r",
        "version": "v",
        "sensor": "s",
        "verdict": "would-deny",
        "connections": 3,
    }
    flow = flow_from_json(row)
    assert flow.verdict is Verdict.WOULD_DENY
    assert flow_from_json(json.loads(json.dumps(flow.to_json()))) == flow


@pytest.mark.parametrize(
    "change",
    [
        {"start": None},
        {"start": "yesterday"},
        {"destination_port": None},
        {"destination_port": 65536},
        {"destination_port": "80"},
        {"destination_port": True},
        {"protocol": "sctp"},
        {"status": 1000},
        {"connections": 0},
        {"established": 1},
        {"path": 5},
        {"verdict": "maybe"},
    ],
    ids=str,
)
def test_a_row_that_breaks_the_format_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        flow_from_json(ROW | change)


@pytest.mark.parametrize("name", ["source", "destination_ip"])
def test_one_of_identity_and_address_is_required(name: str) -> None:
    with pytest.raises(ValueError, match="required"):
        flow_from_json({key: value for key, value in ROW.items() if key != name})


@given(st.dictionaries(st.sampled_from([*Flow.__slots__, "x"]), st.none() | st.booleans() | st.integers() | st.text()))
def test_any_row_is_a_flow_or_refused_with_a_sentence(row: dict[str, object]) -> None:
    try:
        flow_from_json(row)
    except ValueError as err:
        assert str(err)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"start": "yesterday"}, "`start`"),
        ({"end": "0001-01-01T00:00:00+10:00"}, "`end`"),
        ({"verdict": "maybe"}, "`verdict`"),
        ({"path": 5}, "`path`"),
    ],
    ids=str,
)
def test_the_sentence_names_the_field(change: dict[str, object], name: str) -> None:
    with pytest.raises(ValueError, match=name):
        flow_from_json(ROW | change)
