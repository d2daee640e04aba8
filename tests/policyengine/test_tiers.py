import datetime as dt
from typing import Any

import pytest

from mesh.request import Effect, Mode
from policyengine.canonical import PathPattern
from policyengine.model import (
    Conditions,
    ExceptionGrant,
    Hours,
    Operation,
    PolicySet,
    Port,
    Principal,
    Unless,
)
from policyengine.tiers import PortTier, choose_tiers, combine, to_json

UNTIL = dt.datetime(2027, 1, 1, tzinfo=dt.UTC)
PATHS = (PathPattern.parse("/orders"),)
HOURS = Hours(tz="UTC", start=dt.time(8), end=dt.time(18))


@pytest.mark.parametrize(
    ("protocol", "of_service", "of_rule", "expected"),
    [
        pytest.param("http", {}, {}, "L4", id="http-who-only"),
        pytest.param("http", {}, {"to": (Operation(ports=(8080,)),)}, "L4", id="http-port-only"),
        pytest.param("http", {}, {"to": (Operation(paths=PATHS),)}, "HTTP1", id="http-paths"),
        pytest.param("http", {}, {"to": (Operation(methods=("GET",)),)}, "HTTP1", id="http-methods"),
        pytest.param("http", {}, {"to": (Operation(ports=(9,), paths=PATHS),)}, "L4", id="http-paths-elsewhere"),
        pytest.param("http", {}, {"when": Conditions(headers=(("x", ("a",)),))}, "HTTP1", id="http-headers"),
        pytest.param("http", {}, {"when": Conditions(hours=HOURS)}, "L4", id="http-hours"),
        pytest.param("http", {}, {"when": Conditions(rego="data.x")}, "HTTP1", id="http-rego"),
        pytest.param(
            "http", {}, {"unless": Unless(when=Conditions(headers=(("x", ("a",)),)))}, "HTTP1", id="http-unless"
        ),
        pytest.param("http", {}, {"effect": Effect.DENY, "to": (Operation(paths=PATHS),)}, "HTTP1", id="http-deny"),
        pytest.param("http", {"mode": Mode.OBSERVE, "until": UNTIL}, {}, "HTTP1", id="http-observed"),
        pytest.param("http", {"learn": True}, {}, "HTTP1", id="http-learn"),
        pytest.param("http", {"dataplane": "envoy"}, {}, "ENVOY", id="http-envoy"),
        pytest.param("tcp", {"mode": Mode.OBSERVE, "until": UNTIL}, {}, "L4", id="tcp-observed"),
        pytest.param("tcp", {"learn": True}, {"to": (Operation(paths=PATHS),)}, "L4", id="tcp-reads-nothing"),
        pytest.param("tcp", {"dataplane": "envoy"}, {}, "ENVOY", id="tcp-envoy"),
        pytest.param("grpc", {}, {}, "L4", id="grpc-who-only"),
        pytest.param("grpc", {}, {"to": (Operation(paths=PATHS),)}, "ENVOY", id="grpc-paths"),
    ],
)
def test_chooses_the_cheapest_tier_that_enforces_every_rule(
    make_service: Any, make_policy: Any, make_rule: Any, protocol: Any, of_service: Any, of_rule: Any, expected: Any
) -> None:
    policies = PolicySet(
        services=(make_service("db", ports=(Port(port=8080, protocol=protocol),), **of_service),),
        policies=(make_policy("db", make_rule("a", "cart"), make_rule("b", "cart", **of_rule)),),
    )
    assert to_json(choose_tiers(policies)) == {"db": {"8080": expected}}


def test_an_exception_that_reads_a_request_counts(make_service: Any) -> None:
    grant = ExceptionGrant(
        name="e",
        owner="",
        service="db",
        from_=(Principal.parse("any"),),
        until=UNTIL,
        reason="r",
        to=(Operation(paths=PATHS),),
    )
    policies = PolicySet(services=(make_service("db"), make_service("web")), exceptions=(grant,))
    assert to_json(choose_tiers(policies)) == {"db": {"8080": "HTTP1"}, "web": {"8080": "L4"}}


def test_a_candidate_that_reads_a_request_has_it_parsed() -> None:
    active = {"db": {80: PortTier.L4, 81: PortTier.HTTP1}, "web": {80: PortTier.L4}}
    candidate = {"db": {80: PortTier.HTTP1, 81: PortTier.L4, 82: PortTier.HTTP1}, "new": {80: PortTier.HTTP1}}
    assert combine(active, candidate) == {
        "db": {80: PortTier.HTTP1, 81: PortTier.HTTP1},
        "web": {80: PortTier.L4},
    }
    assert combine(active, None) == active
