import dataclasses
import datetime as dt

import pytest

from learner.history import History
from learner.schedules import Schedule
from learner.suspicion import Quarantined, find_suspicious
from mesh.flow import Flow, Verdict
from tests.learner import worlds
from tests.learner.worlds import NS, START, flow

ATTACKS = {
    "fast-scan": (worlds.fast_scan(), "scan"),
    "slow-scan": (worlds.slow_scan(), "scan"),
    "prober": (worlds.prober(), "path probing"),
    "prober-with-some-luck": (worlds.prober(good=20), "path probing"),
    "lone-replica": (worlds.lone_replica(), "one replica alone"),
    "burst": (worlds.burst(worlds.START + dt.timedelta(days=2)), "burst of new edges"),
}


def suspicious(flows: list[Flow], *schedules: Schedule) -> tuple[Quarantined, ...]:
    history = History()
    history.add(flows)
    return find_suspicious(history, schedules).quarantined


def edge_of(flow: Flow) -> tuple[str | None, str | None, int]:
    return flow.source or flow.source_ip, flow.destination, flow.destination_port


@pytest.mark.parametrize("name", ATTACKS)
def test_planted_attackers_are_found_with_their_reason(name: str) -> None:
    flows, reason = ATTACKS[name]
    found = suspicious([*worlds.shop(), *flows])
    assert reason in {item.reason for item in found}
    assert all(item.reason and item.evidence for item in found)


@pytest.mark.parametrize("name", [name for name in ATTACKS if name != "slow-scan"])
def test_whoever_is_no_attacker_is_left_alone(name: str) -> None:
    flows, _ = ATTACKS[name]
    attacked = {edge_of(flow) for flow in flows}
    benign = {edge_of(flow) for flow in worlds.shop()} - attacked
    found = {(item.source, item.destination, item.port) for item in suspicious([*worlds.shop(), *flows])}
    assert not found & benign


def test_ordinary_traffic_is_not_suspicious() -> None:
    assert suspicious(worlds.shop()) == ()
    assert suspicious([]) == ()


def test_a_client_with_a_few_bad_requests_is_no_prober() -> None:
    flows = worlds.shop()
    bad = [worlds.flow("web", "cart", worlds.START, path=f"/old{n}", status=404) for n in range(5)]
    assert not [item for item in suspicious([*flows, *bad]) if item.source.endswith("/web")]


def test_what_never_came_about_is_quarantined() -> None:
    refused = [worlds.flow("web", "cart", worlds.START, established=False)]
    assert [item.reason for item in suspicious(refused)] == ["never answered"]
    denied = [dataclasses.replace(worlds.flow("web", "cart", worlds.START), verdict=Verdict.DENIED)]
    assert [item.reason for item in suspicious(denied)] == ["denied by the policy in force"]
    assert suspicious(denied)[0].to_json()["port"] == 8080


def clockwork(step: dt.timedelta, count: int, begin: dt.timedelta, port: int = 5433) -> list[Flow]:
    """Calls of one replica of `batch` at even intervals."""
    return [
        flow("batch", "cart", START + begin + number * step, destination_port=port, protocol="tcp", method=None,
             path=None, status=None, replica="batch-0")
        for number in range(count)
    ]  # fmt: skip


def reasons(flows: list[Flow], *schedules: Schedule) -> set[str]:
    return {item.reason for item in suspicious(flows, *schedules) if item.source == f"{NS}batch"}


HOURLY, DAILY = dt.timedelta(hours=1), dt.timedelta(days=1)


def test_even_calls_of_a_lone_replica_that_began_late_are_a_beacon_inside_too() -> None:
    late = [*worlds.shop(), *clockwork(HOURLY, 60, begin=dt.timedelta(days=2))]
    assert reasons(late) == {"beacon"}
    assert reasons(late, Schedule(f"{NS}batch", f"{NS}cart", "0 * * * *")) == set()
    # what was there from the beginning is how the service works
    assert reasons([*worlds.shop(), *clockwork(HOURLY, 60, begin=dt.timedelta(hours=2))]) == set()


def test_a_new_call_that_is_busy_all_the_time_is_no_beacon() -> None:
    busy = clockwork(dt.timedelta(minutes=1), 40 * 60, begin=dt.timedelta(days=2))
    assert reasons([*worlds.shop(), *busy]) == set()


def test_a_schedule_spares_what_recurs_at_its_hour_and_nothing_else_between_the_two() -> None:
    siblings = [
        flow("batch", "orders", START + number * dt.timedelta(hours=2), replica=f"batch-{number % 3}", path="/q")
        for number in range(120)
    ]
    nightly = Schedule(f"{NS}batch", f"{NS}cart", "0 3 * * *")
    job = [*worlds.shop(), *siblings, *clockwork(DAILY, 8, begin=dt.timedelta(hours=19), port=9000)]
    assert reasons(job) == {"one replica alone"}
    assert reasons(job, nightly) == set()
    assert reasons([*job, *clockwork(HOURLY, 100, begin=dt.timedelta(hours=30))], nightly) == {"one replica alone"}
