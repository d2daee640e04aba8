import datetime as dt
import ipaddress
from typing import Any

import pytest

from mesh.request import Effect
from policyengine import reference
from policyengine.diagram import Builder
from policyengine.model import ClaimsCondition, Conditions, Hours, Operation, PolicySet, Port
from policyengine.regions import OTHER, Region, changes_of, regions_of
from policyengine.witness import Cell, representative_method, request_at, supposed

NOW = dt.datetime(2026, 11, 24, 12, 0, tzinfo=dt.UTC)
ID = "spiffe://corp.test/ns/shop/sa/"


@pytest.fixture
def region(make_service: Any, make_policy: Any, make_rule: Any) -> Any:
    """The region of a caller that one new rule speaks of, and the version with the rule."""

    def make(protocol: str = "http", **fields: Any) -> tuple[Region, PolicySet]:
        service = make_service("db", ports=(Port(port=8080, protocol=protocol),))
        new = PolicySet(services=(service,), policies=(make_policy("db", make_rule("r", "cart", **fields)),))
        (change,) = changes_of(PolicySet(services=(service,)), new)
        (found,) = regions_of(change)
        return found, new

    return make


@pytest.mark.parametrize(
    ("methods", "expected"),
    [((), "GET"), (("GET",), "POST"), (("GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"), "LIMEN-WITNESS")],
    ids=["none", "get", "all"],
)
def test_every_other_method_is_one_that_no_rule_names(region: Any, methods: tuple[str, ...], expected: str) -> None:
    found, _ = region(to=(Operation(methods=methods),) if methods else None)
    assert representative_method(OTHER, found.ports[0]) == expected


def test_grpc_is_asked_with_post(region: Any) -> None:
    found, _ = region(protocol="grpc")
    assert representative_method(OTHER, found.ports[0]) == "POST"


def test_a_connection_has_no_request(region: Any) -> None:
    found, _ = region(protocol="tcp")
    request = request_at("db", found.ports[0], Cell(method=0, host=0, path=0, sample={}), (), ID + "cart", NOW)
    assert (request.protocol, request.method, request.path, request.time) == ("tcp", None, None, NOW)


@pytest.mark.parametrize(
    "when",
    [
        Conditions(headers=(("x-tenant", ("a", "b")),)),
        Conditions(claims=ClaimsCondition(issuer="https://idp.test", values=(("roles", ("admin", True, 1)),))),
        Conditions(peer_ip=(ipaddress.ip_network("10.1.0.0/16"), ipaddress.ip_network("fd00::/8"))),
        Conditions(forwarded_ip=(ipaddress.ip_network("10.1.2.0/24"),)),
        Conditions(hours=Hours(tz="Asia/Tokyo", start=dt.time(20), end=dt.time(4))),
    ],
    ids=["headers", "claims", "peer_ip", "forwarded_ip", "hours"],
)
def test_a_value_of_every_class_comes_out_as_the_class_says(region: Any, when: Conditions) -> None:
    found, version = region(when=when)
    variables = Builder(found, NOW).variables
    chosen = [{}]
    for place, variable in enumerate(variables):
        chosen = [{**sample, place: index} for sample in chosen for index in range(len(variable.values))]
    outcomes = set()
    for sample in chosen:
        request = request_at(
            "db", found.ports[0], Cell(method=0, host=0, path=0, sample=sample), variables, ID + "cart", NOW
        )
        decision = reference.decide(version, request, snapshot="")
        outcomes.add(decision.effect)
        truths = [truth for place, index in sample.items() for truth in variables[place].values[index].truths.values()]
        if False in truths or None in truths:
            continue
        assert decision.effect is Effect.ALLOW
    assert outcomes == {Effect.ALLOW, Effect.DENY}


def test_what_a_custom_rule_says_is_supposed(region: Any) -> None:
    found, _ = region(when=Conditions(rego="data.x.y"))
    variables = Builder(found, NOW).variables
    said = [supposed(Cell(method=0, host=0, path=0, sample={0: index}), variables) for index in range(3)]
    assert said == [{("data.x.y", False): truth} for truth in (False, True, None)]
