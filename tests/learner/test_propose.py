import datetime as dt

import pytest

from learner.propose import propose, service_names, watched, written
from mesh.flow import Flow
from mesh.request import Request
from policyengine.reference import decide
from tests.learner import worlds
from tests.learner.worlds import NS, START, flow


def allowed(flows: list[Flow], found: Flow) -> bool:
    policies = written(propose(flows).services)
    assert found.destination is not None
    assert found.protocol != "udp"
    request = Request(
        service=found.destination,
        port=found.destination_port,
        protocol=found.protocol,
        source=found.source,
        method=found.method,
        path=found.path,
    )
    return decide(policies, request, snapshot="x").is_allowed


def test_what_was_seen_is_allowed_and_its_kind_with_it() -> None:
    seen = worlds.shop()
    for item in seen[:40]:
        assert allowed(seen, item)
    assert allowed(seen, flow("cart", "orders", START, path="/orders/987654"))


@pytest.mark.parametrize(
    "change",
    [
        {"source": f"{NS}web", "destination": f"{NS}orders"},
        {"method": "PUT"},
        {"path": "/orders/x"},
        {"path": "/admin"},
        {"destination_port": 8081},
        {"source": None},
    ],
    ids=str,
)
def test_what_nobody_did_is_denied(change: dict[str, object]) -> None:
    import dataclasses

    seen = worlds.shop()
    base = flow("cart", "orders", START, path="/orders/1")
    assert allowed(seen, base)
    assert not allowed(seen, dataclasses.replace(base, **change))  # type: ignore[arg-type]


def test_callers_get_what_they_used_and_never_the_cross_product() -> None:
    seen = [
        flow("a", "s", START, method="GET", path="/x"),
        flow("a", "s", START, method="POST", path="/y"),
        flow("b", "s", START, method="GET", path="/y"),
    ]
    assert allowed(seen, seen[2])
    for source, method, path in (("a", "GET", "/y"), ("a", "POST", "/x"), ("b", "GET", "/x"), ("b", "POST", "/y")):
        assert not allowed(seen, flow(source, "s", START, method=method, path=path))


@pytest.mark.parametrize(
    "attack",
    [worlds.fast_scan(), worlds.slow_scan(), worlds.prober(), worlds.lone_replica()[80:]],
    ids=["fast-scan", "slow-scan", "prober", "lone-replica"],
)
def test_no_attack_edge_is_proposed_and_every_one_has_its_reason(attack: list[Flow]) -> None:
    base = [*worlds.shop(), *worlds.lone_replica()[:80]]
    found = propose([*base, *attack])
    quarantined = {(item.source, item.destination, item.port) for item in found.quarantined}
    rules = {
        (rule.caller, service.identity, grant.port)
        for service in found.services
        for rule in service.rules
        for grant in rule.grants
    }
    for item in attack:
        edge = (item.source or item.source_ip, item.destination, item.destination_port)
        assert edge in quarantined
        assert edge not in rules


def test_templates_are_the_same_with_and_without_two_thousand_scanner_requests() -> None:
    seen = worlds.shop()
    noise = [
        flow("evil", "orders", START + dt.timedelta(seconds=n), path=f"/orders/x{n}", status=404) for n in range(2000)
    ]
    with_noise = {item.name: item.rules for item in propose([*seen, *noise]).services}
    without = {item.name: item.rules for item in propose(seen).services}
    assert with_noise == without


def test_the_denied_prober_counts_against_the_bound() -> None:
    late = worlds.prober(START + dt.timedelta(days=2, hours=5))
    quiet = {item.service: item.coverage.session_bound_95 for item in propose(worlds.shop()).reports}
    noisy = {item.service: item.coverage.session_bound_95 for item in propose([*worlds.shop(), *late]).reports}
    assert noisy["orders"] > quiet["orders"]
    assert noisy["cart"] == quiet["cart"]


def test_evidence_stands_on_every_rule() -> None:
    for service in propose(worlds.shop()).services:
        for rule in service.rules:
            assert set(rule.evidence) == {
                "n", "first", "last", "days", "longest_gap_days", "replicas", "versions", "sensors", "examples",
                "decisions",
            }  # fmt: skip
            assert rule.evidence["days"] == 3


def test_names_are_made_unique_by_namespace() -> None:
    ids = ["spiffe://td/ns/a/sa/db", "spiffe://td/ns/b/sa/db", "spiffe://td/web", "spiffe://td/x/y/Web"]
    found = service_names(ids)
    assert found["spiffe://td/ns/a/sa/db"] == "a-db"
    assert found["spiffe://td/ns/b/sa/db"] == "b-db"
    assert len(set(found.values())) == 4
    assert service_names(["spiffe://td/ns/shop/sa/cart"]) == {"spiffe://td/ns/shop/sa/cart": "cart"}


def test_l4_grpc_and_udp() -> None:
    seen = [
        flow("a", "pg", START, protocol="tcp", destination_port=5432, method=None, path=None, status=None),
        flow("a", "rpc", START, protocol="grpc", method="POST", path="/pkg.Svc/Get", status=None),
        flow("a", "dns", START, protocol="udp", destination_port=53, method=None, path=None, status=None),
    ]
    found = propose(seen)
    assert {item.name: item.ports for item in found.services} == {"pg": ((5432, "tcp"),), "rpc": ((8080, "grpc"),)}
    assert allowed(seen, seen[0])
    assert allowed(seen, seen[1])


def test_unattributed_blind_spots_schedules_and_the_public_form() -> None:
    seen = [
        flow("a", "s", START, sensor="packets"),
        flow("b", "s", START, sensor="envoy"),
        flow(None, "s", START, sensor="envoy"),
    ]
    schedules = [{"spiffe_id": f"{NS}job", "destination": f"{NS}s", "cron": "0 0 1 * *"}]
    found = propose(seen, schedules).to_json()
    assert {"rules", "services", "blind_spots", "quarantined", "unattributed"} <= set(found)
    assert found["unattributed"] == 1
    assert len(found["blind_spots"]) == 2  # type: ignore[arg-type]
    service = found["services"][0]  # type: ignore[index]
    assert set(service) >= {
        "service", "identity", "sessions", "days", "session_bound_95", "day_bound_95", "expected_new_per_day", "open",
    }  # fmt: skip
    assert any("scheduled" in text for text in service["open"])


def test_how_long_was_watched() -> None:
    assert watched([]) == dt.timedelta()
    assert watched(worlds.shop(days=2)) > dt.timedelta(days=1)
