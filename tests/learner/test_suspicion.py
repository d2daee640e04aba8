import dataclasses
import datetime as dt

import pytest

from learner.suspicion import edge_of, find_suspicious, is_success
from mesh.flow import Verdict
from tests.learner import worlds

ATTACKS = {
    "fast-scan": (worlds.fast_scan(), "scan"),
    "slow-scan": (worlds.slow_scan(), "scan"),
    "prober": (worlds.prober(), "path probing"),
    "prober-with-some-luck": (worlds.prober(good=20), "path probing"),
    "lone-replica": (worlds.lone_replica(), "one replica alone"),
    "burst": (worlds.burst(worlds.START + dt.timedelta(days=2)), "burst of new edges"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_planted_attackers_are_found_with_their_reason(name: str) -> None:
    flows, reason = ATTACKS[name]
    found = find_suspicious([*worlds.shop(), *flows])
    assert reason in {item.reason for item in found}
    assert all(item.reason and item.evidence for item in found)


@pytest.mark.parametrize("name", [name for name in ATTACKS if name != "slow-scan"])
def test_whoever_is_no_attacker_is_left_alone(name: str) -> None:
    flows, _ = ATTACKS[name]
    attacked = {edge_of(flow) for flow in flows}
    benign = {edge_of(flow) for flow in worlds.shop()} - attacked
    found = {(item.source, item.destination, item.port) for item in find_suspicious([*worlds.shop(), *flows])}
    assert not found & benign


def test_ordinary_traffic_is_not_suspicious() -> None:
    assert find_suspicious(worlds.shop()) == ()
    assert find_suspicious([]) == ()


def test_a_client_with_a_few_bad_requests_is_no_prober() -> None:
    flows = worlds.shop()
    bad = [worlds.flow("web", "cart", worlds.START, path=f"/old{n}", status=404) for n in range(5)]
    assert not [item for item in find_suspicious([*flows, *bad]) if item.source.endswith("/web")]


def test_what_never_came_about_is_quarantined() -> None:
    refused = [worlds.flow("web", "cart", worlds.START, established=False)]
    assert [item.reason for item in find_suspicious(refused)] == ["never answered"]
    denied = [dataclasses.replace(worlds.flow("web", "cart", worlds.START), verdict=Verdict.DENIED)]
    assert [item.reason for item in find_suspicious(denied)] == ["denied by the policy in force"]
    assert find_suspicious(denied)[0].to_json()["port"] == 8080


@pytest.mark.parametrize(
    ("status", "good"), [(None, True), (200, True), (302, True), (404, False), (403, False), (500, True)], ids=str
)
def test_what_counts_as_answered(status: int | None, *, good: bool) -> None:
    assert is_success(worlds.flow("a", "b", worlds.START, status=status)) is good
