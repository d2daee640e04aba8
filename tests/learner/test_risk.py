import datetime as dt

from learner.history import History
from learner.propose import propose_from
from learner.risk import Proposal, Watch
from learner.schedules import Schedule
from mesh.flow import Flow
from tests.learner import worlds
from tests.learner.worlds import NS, START, flow


def proposal(flows: list[Flow], watch: Watch | None = None) -> Proposal:
    history = History()
    history.add(flows)
    return propose_from(history, watch)


def test_the_worst_service_is_named_and_all_are_counted_together() -> None:
    found = proposal([*worlds.shop(), flow("x", "rare", START + dt.timedelta(hours=1))])
    assert found.worst is not None
    assert found.worst.service == "rare"
    assert found.total.sessions == sum(item.coverage.sessions for item in found.reports)
    shown = found.to_json()
    assert shown["worst"] == "rare"
    assert shown["gate"] == "red"
    assert "exchangeable" in str(shown["assumption"])


def test_what_nobody_saw_is_open() -> None:
    watch = Watch(
        schedules=(Schedule("/ns/billing/sa/closer", "", "0 0 1 * *", "CronJob billing/close"),),
        identities=frozenset({f"{NS}web", f"{NS}silent"}),
        losses=("flows.json: sampled, 1 in 100",),
    )
    found = proposal(worlds.shop(), watch)
    assert any("CronJob billing/close" in text for text in found.open)
    assert [text for text in found.open if "silent" in text]
    assert not [text for text in found.open if f"{NS}web " in text]
    assert found.open[-1] == "flows.json: sampled, 1 in 100"


def test_edges_of_one_sensor_are_listed_with_an_estimate_of_all() -> None:
    rows = [flow("a", name, START, sensor="packets") for name in "bcde"]
    rows += [flow("a", name, START, sensor="envoy:1") for name in "cdef"]
    found = proposal(rows)
    assert [item["destination"] for item in found.blind_spots] == [f"{NS}b", f"{NS}f"]
    assert found.edges_in_all == 5 * 5 / 4 - 1
    assert found.open[0] == "2 of 5 edges were seen by one kind of sensor alone: about 5.2 in all (Chapman)"


def test_no_edge_is_open_where_both_sensors_saw_all_or_only_one_watched() -> None:
    both = [flow("a", name, START, sensor=sensor) for name in "bcd" for sensor in ("packets", "envoy:1")]
    for rows in (both, both[::2]):
        assert not [text for text in proposal(rows).open if "Chapman" in text]


def test_peers_without_an_identity_are_listed_by_name() -> None:
    rows = [
        Flow(
            start=START + dt.timedelta(minutes=7 * n),
            source=f"{NS}a",
            destination_ip=f"192.0.2.{n % 5}",
            host="api.example.com",
            destination_port=443,
            protocol="tcp",
            established=True,
        )
        for n in range(25)
    ]
    found = proposal(rows)
    assert [(row["name"], row["port"], row["sessions"]) for row in found.egress] == [("api.example.com", 443, 25)]
    assert found.egress[0]["quarantined"] == "beacon"
    assert found.egress[0]["exempt"] is None
    assert found.unattributed == 25
    assert found.services == ()


def test_callers_that_do_the_same_are_a_suggestion_and_stay_apart() -> None:
    found = proposal([flow(name, "s", START, path="/x") for name in ("a", "b")])
    assert found.suggestions[0]["callers"] == [f"{NS}a", f"{NS}b"]
    assert [rule.caller for rule in found.services[0].rules] == [f"{NS}a", f"{NS}b"]


def test_wide_templates_are_excess() -> None:
    rows = [flow("a", "s", START, path=f"/u/name{chr(97 + n)}{chr(97 + m)}") for n in range(6) for m in range(6)]
    assert [row["path"] for row in proposal(rows).excess] == ["/u/{id}"]
