import datetime as dt
from typing import Any

import pytest

from mesh.request import Mode
from mesh.spiffe import SpiffePattern
from policyengine.canonical import PathPattern
from policyengine.model import Conditions, ExceptionGrant, Operation, PolicySet, Port, Principal, Unless
from policyengine.regions import OTHER, changes_of, regions_of, representative_method

NOW = dt.datetime(2026, 11, 24, 12, 0, tzinfo=dt.UTC)
LATER = NOW + dt.timedelta(days=1)
ID = "spiffe://corp.test/ns/shop/sa/"


@pytest.fixture
def version(make_service: Any, make_policy: Any) -> Any:
    def make(*rules: Any, of_service: Any = None, **fields: Any) -> PolicySet:
        policies = (make_policy("db", *rules),) if rules else ()
        services = (make_service("db", **(of_service or {})), make_service("web"))
        return PolicySet(**{"services": services, "policies": policies, **fields})

    return make


def paths(*texts: str) -> tuple[PathPattern, ...]:
    return tuple(PathPattern.parse(text) for text in texts)


def only(old: PolicySet, new: PolicySet) -> Any:
    (change,) = changes_of(old, new)
    return change, list(regions_of(change, NOW))


def test_an_unchanged_service_is_no_change(version: Any, make_rule: Any) -> None:
    old, new = version(make_rule("r", "cart")), version(make_rule("r", "batch"))
    assert [change.service for change in changes_of(old, new)] == ["db"]
    assert changes_of(old, old) == ()


def test_names_owners_and_evidence_are_no_change(version: Any, make_rule: Any) -> None:
    old = version(make_rule("r", "cart"), of_service={"owner": "a"})
    new = version(make_rule("other", "cart", evidence="{}"), of_service={"owner": "b"})
    assert changes_of(old, new) == ()


@pytest.mark.parametrize(
    "of_service",
    [
        pytest.param({"mode": Mode.OBSERVE, "until": LATER}, id="mode"),
        pytest.param({"ports": (Port(port=8080, protocol="tcp"),)}, id="protocol"),
        pytest.param({"ports": (Port(port=8081, protocol="http"),)}, id="port"),
    ],
)
def test_a_service_that_differs_itself_is_cut_whole(version: Any, make_rule: Any, of_service: Any) -> None:
    change, regions = only(version(make_rule("r", "cart")), version(make_rule("r", "cart"), of_service=of_service))
    assert change.is_whole
    assert sorted(callers.name for region in regions for callers in region.callers) == ["any", ID + "cart"]


def test_identities_of_the_called_service_are_no_access_to_it(version: Any, make_rule: Any) -> None:
    more = (SpiffePattern.parse(ID + "db"), SpiffePattern.parse(ID + "db2"))
    assert (
        changes_of(version(make_rule("r", "cart")), version(make_rule("r", "cart"), of_service={"identities": more}))
        == ()
    )


def test_cuts_only_the_callers_that_a_changed_grant_speaks_of(version: Any, make_rule: Any) -> None:
    kept = [make_rule(f"k{index}", f"c{index}") for index in range(50)]
    _, (region,) = only(version(*kept), version(*kept, make_rule("new", "batch")))
    assert [callers.name for callers in region.callers] == [ID + "batch"]
    assert len(region.classes) == 52


def test_callers_that_the_same_grants_speak_of_share_a_region(version: Any, make_rule: Any) -> None:
    _, regions = only(version(), version(make_rule("r", "a", "b", "c")))
    assert [[callers.name for callers in region.callers] for region in regions] == [[ID + "a", ID + "b", ID + "c"]]


def test_callers_that_unless_tells_apart_do_not(version: Any, make_rule: Any) -> None:
    spared = Unless(from_=(Principal.parse(ID + "a"),))
    _, regions = only(version(), version(make_rule("r", "a", "b", unless=spared)))
    assert len(regions) == 2


def test_cuts_only_the_paths_that_a_changed_grant_reaches(version: Any, make_rule: Any) -> None:
    kept = [make_rule(f"k{index}", "cart", to=(Operation(paths=paths(f"/p{index}")),)) for index in range(50)]
    changed = make_rule("new", "cart", to=(Operation(paths=paths("/p7", "/q")),))
    _, (region,) = only(version(*kept), version(*kept, changed))
    assert sorted(path for _, path in region.ports[0].paths) == [("p7",), ("q",)]
    assert region.size == 2


def test_cuts_only_the_ports_that_a_changed_grant_names(version: Any, make_rule: Any) -> None:
    two = {"ports": (Port(port=8080, protocol="http"), Port(port=5432, protocol="tcp"))}
    added = make_rule("new", "cart", to=(Operation(ports=(5432,)),))
    _, (region,) = only(version(of_service=two), version(added, of_service=two))
    assert [axes.port for axes in region.ports] == [5432]
    ((axes, cell),) = region.cells()
    request = region.request(axes, cell, ID + "cart")
    assert (request.protocol, request.method, request.path) == ("tcp", None, None)


def test_ends_of_exceptions_and_of_observe_bound_cells(version: Any) -> None:
    ends = [LATER, NOW - dt.timedelta(days=1), LATER + dt.timedelta(days=1)]
    grants = tuple(
        ExceptionGrant(name=f"e{index}", owner="", service="db", from_=(Principal.parse("any"),), until=end, reason="r")
        for index, end in enumerate(ends)
    )
    _, (region,) = only(version(), version(exceptions=grants))
    assert region.times == (NOW, LATER, LATER + dt.timedelta(days=1))


def test_conditions_and_undefined_groups_are_not_complete(version: Any, make_rule: Any) -> None:
    when = Conditions(headers=(("x", ("a",)),))
    for rule in (make_rule("r", "cart", when=when), make_rule("r", "cart", "group:gone")):
        _, regions = only(version(), version(rule))
        assert not any(region.is_complete for region in regions)


@pytest.mark.parametrize(
    ("methods", "expected"),
    [((), "GET"), (("GET",), "POST"), (("GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"), "LIMEN-WITNESS")],
    ids=["none", "get", "all"],
)
def test_every_other_method_is_one_that_no_rule_names(
    version: Any, make_rule: Any, methods: tuple[str, ...], expected: str
) -> None:
    operation = (Operation(methods=methods),) if methods else None
    _, (region,) = only(version(), version(make_rule("r", "cart", to=operation)))
    assert representative_method(OTHER, region.ports[0]) == expected


def test_grpc_is_asked_with_post(version: Any, make_rule: Any) -> None:
    grpc = {"ports": (Port(port=8080, protocol="grpc"),)}
    _, (region,) = only(version(of_service=grpc), version(make_rule("r", "cart"), of_service=grpc))
    assert representative_method(OTHER, region.ports[0]) == "POST"
