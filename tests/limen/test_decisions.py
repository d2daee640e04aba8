"""The public JSON of requests and decisions."""

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limen.decisions import RequestError, decision_to_json, name_of, request_from_json
from mesh.request import Decision, Effect, Mode, NearestMiss
from policyengine.model import PolicySet

NOW = dt.datetime(2026, 11, 24, 12, 0, tzinfo=dt.UTC)
PLAIN = {"service": "db", "port": 8080, "protocol": "http"}


def test_a_request_reads_all_fields() -> None:
    found = request_from_json(
        {
            **PLAIN,
            "id": [1],
            "source": "spiffe://td/a",
            "method": "GET",
            "host": "h",
            "path": "/\xff",
            "headers": [["k", "v"], ["k", "w"]],
            "claims": {"iss": "i"},
            "peer_ip": "10.0.0.1",
            "time": "2026-11-24T13:00:00+01:00",
            "unknown": ["claims"],
        },
        now=NOW,
    )
    assert found.time == NOW
    assert found.headers == (("k", "v"), ("k", "w"))
    assert found.unknown == {"claims"}


@pytest.mark.parametrize("row", [PLAIN, {**PLAIN, "time": None, "source": None, "claims": None, "headers": None}])
def test_a_missing_time_is_now(row: dict[str, object]) -> None:
    assert request_from_json(row, now=NOW).time == NOW


@pytest.mark.parametrize(
    "row",
    [
        [],
        {},
        {**PLAIN, "prot": 1},
        {**PLAIN, "service": None},
        {**PLAIN, "port": "8080"},
        {**PLAIN, "port": True},
        {**PLAIN, "port": 70000},
        {**PLAIN, "protocol": "udp"},
        {**PLAIN, "source": 5},
        {**PLAIN, "claims": []},
        {**PLAIN, "headers": {"k": "v"}},
        {**PLAIN, "headers": [["k"]]},
        {**PLAIN, "headers": [["k", 1]]},
        {**PLAIN, "time": 5},
        {**PLAIN, "time": "now"},
        {**PLAIN, "time": "2026-11-24T12:00:00"},
        {**PLAIN, "unknown": "claims"},
        {**PLAIN, "unknown": [1]},
        {**PLAIN, "unknown": ["header.x-tenant"]},
        {**PLAIN, "unknown": ["headers."]},
        {**PLAIN, "unknown": ["Claims.role"]},
    ],
)
def test_a_row_that_is_no_request_is_refused(row: object) -> None:
    with pytest.raises(RequestError):
        request_from_json(row, now=NOW)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize("name", ["claims", "claims.role", "headers", "Headers.x-t", "host", "peer_ip", "time"])
def test_what_may_be_unknown(name: str) -> None:
    assert request_from_json({**PLAIN, "unknown": [name]}, now=NOW).unknown == {name}


@given(st.dictionaries(st.sampled_from([*PLAIN, "headers", "claims", "time", "unknown", "source", "path"]), _json))
def test_nothing_but_request_error_is_raised(row: dict[str, object]) -> None:
    for candidate in (row, {**PLAIN, **{key: row[key] for key in row if key not in PLAIN}}):
        try:
            request_from_json(candidate, now=NOW)
        except RequestError:
            continue


def test_a_decision_has_the_documented_fields() -> None:
    decision = Decision(
        effect=Effect.ALLOW,
        policy_effect=Effect.DENY,
        mode=Mode.OBSERVE,
        snapshot="s",
        tier="app",
        policy="p",
        rule="r",
        code="LM2301",
    )
    nearest = NearestMiss(policy="p", rule="r", differs=("methods",), fix="f")
    found = decision_to_json(decision, nearest=nearest, candidate=decision)
    plain = {
        "decision": "allow",
        "policy_decision": "deny",
        "mode": "observe",
        "snapshot": "s",
        "tier": "app",
        "policy": "p",
        "rule": "r",
        "code": "LM2301",
    }
    assert found == {
        **plain,
        "candidate": plain,
        "nearest": {"policy": "p", "rule": "r", "differs": ["methods"], "fix": "f"},
    }


def test_equal_trees_have_equal_names() -> None:
    assert name_of(PolicySet()) == name_of(PolicySet())
    assert name_of(PolicySet()).startswith("sha256:")
