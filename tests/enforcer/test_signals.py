"""What Prometheus reads of this host's sidecars."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from enforcer import signals
from enforcer.native.signals import OTHER, Signals
from enforcer.signals import SidecarSignals
from mesh.problems import Invalid

WEB = "spiffe://corp.test/ns/shop/sa/web"


def told(*, status: int = 200, seconds: float = 0.003) -> dict[str, Any]:
    made = Signals()
    made.request(8080, WEB, "allowed", status, seconds)
    made.handshake("inbound")
    made.handshake("inbound", "LM3020")
    made.shed("LM3303", 2)
    made.inbound.received += 10
    made.inbound.sent += 20
    found = made.take()
    assert found is not None
    return found


def samples(collector: SidecarSignals) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    registry = CollectorRegistry()
    registry.register(collector)
    families = text_string_to_metric_families(generate_latest(registry).decode())
    return {(found.name, tuple(sorted(found.labels.items()))): found.value for one in families for found in one.samples}


def of(found: dict[Any, float], name: str, **labels: str) -> float:
    return found[name, tuple(sorted(labels.items()))]


def test_what_sidecars_tell_adds_up() -> None:
    collector = SidecarSignals(lambda: [("db", "inbound", 3), ("db", "inbound", 1)])
    collector.add("db", told())
    collector.add("db", told(seconds=7.0))
    found = samples(collector)
    labels = {"workload": "db", "port": "8080", "caller": WEB, "outcome": "allowed", "status": "2xx"}
    assert of(found, "limen_sidecar_requests_total", **labels) == 2
    assert of(found, "limen_sidecar_handshakes_total", workload="db", direction="inbound") == 2
    assert of(found, "limen_sidecar_handshake_failures_total", workload="db", direction="inbound", code="LM3020") == 2
    assert of(found, "limen_sidecar_shed_total", workload="db", code="LM3303") == 4
    assert of(found, "limen_sidecar_received_bytes_total", workload="db", direction="inbound") == 20
    assert of(found, "limen_sidecar_sent_bytes_total", workload="db", direction="inbound") == 40
    assert of(found, "limen_sidecar_open_connections", workload="db", direction="inbound") == 4
    name = "limen_sidecar_request_duration_seconds"
    assert of(found, f"{name}_bucket", workload="db", le="0.0025") == 0
    assert of(found, f"{name}_bucket", workload="db", le="0.005") == 1
    assert of(found, f"{name}_bucket", workload="db", le="+Inf") == of(found, f"{name}_count", workload="db") == 2
    assert of(found, f"{name}_sum", workload="db") == pytest.approx(7.003)


def test_workloads_beyond_the_bound_count_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "MAX_WORKLOADS", 1)
    collector = SidecarSignals(list)
    for name in ("a", "b", "c"):
        collector.add(name, told())
    assert {key[1][-1] for key in samples(collector) if key[0] == "limen_sidecar_request_duration_seconds_count"} == {
        ("workload", "a"),
        ("workload", OTHER),
    }


def test_rows_beyond_a_workloads_share_count_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "MAX_ROWS", 2)
    collector = SidecarSignals(list)
    rows = [[8080, f"spiffe://corp.test/{name}", "denied", "4xx", 1] for name in "abcd"]
    nothing: dict[str, Any] = {"handshakes": [], "shed": [], "bytes": [], "seconds": 0}
    nothing["durations"] = [0] * len(told()["durations"])
    for _ in range(2):
        collector.add("db", {**nothing, "requests": rows, "shed": [["LM3303", 1]]})
    collector.add("other workload", {**nothing, "requests": rows[:1]})
    found = {key[1]: value for key, value in samples(collector).items() if key[0] == "limen_sidecar_requests_total"}
    shown = {tuple(dict(labels)[name] for name in ("workload", "port", "caller")): n for labels, n in found.items()}
    assert shown == {
        ("db", "8080", "spiffe://corp.test/a"): 2,
        ("db", "8080", "spiffe://corp.test/b"): 2,
        ("db", OTHER, OTHER): 4,
        ("other workload", "8080", "spiffe://corp.test/a"): 1,
    }
    assert of(samples(collector), "limen_sidecar_shed_total", workload="db", code=OTHER) == 2


@pytest.mark.parametrize(
    "change",
    [
        {"requests": None},
        {"requests": [[1, "a", "allowed", "2xx", -1]]},
        {"requests": [[1, "a", "surprised", "2xx", 1]]},
        {"requests": [[1, "a", "allowed", "a status of its own", 1]]},
        {"durations": [1]},
        {"seconds": float("nan")},
        {"seconds": -1},
        {"handshakes": [["sideways", "", 1]]},
        {"handshakes": [["inbound", "a code of its own", 1]]},
        {"shed": [["a code of its own", 1]]},
        {"bytes": [["sideways", 1, 2]]},
        {"handshakes": [["inbound", 1]]},
        {"shed": [["LM3303", True]]},
        {"seconds": "long"},
        {"bytes": [["inbound", 1.5, 2]]},
    ],
)
def test_what_is_no_count_is_refused_whole(change: dict[str, Any]) -> None:
    collector = SidecarSignals(list)
    with pytest.raises(Invalid) as caught:
        collector.add("db", told() | change)
    assert caught.value.code == "LM3002"
    assert samples(collector) == {}
