import datetime as dt
import json
import pathlib
from typing import Any

from learner.attribution import Workloads, read_workloads
from learner.kubernetes import assignments, is_objects, pods_at

NOW = dt.datetime(2026, 5, 2, tzinfo=dt.UTC)
LATER = dt.datetime(2026, 5, 9, tzinfo=dt.UTC)
WEB, DB, JOB = (f"spiffe://corp.test/ns/shop/sa/{name}" for name in ("web", "db", "job"))


def pod(name: str, account: str, ip: str, **more: Any) -> dict[str, Any]:
    """A pod as `kubectl get pods -o json` shows it."""
    spec = {"serviceAccountName": account, "containers": [{"name": "c"}]} | more.get("spec", {})
    status = {
        "phase": "Running",
        "podIP": ip,
        "podIPs": [{"ip": ip}],
        "hostIP": "192.0.2.1",
        "startTime": "2026-05-01T00:00:00Z",
    }
    return {
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": {"name": name, "namespace": "shop", "labels": {"app": account}},
        "spec": spec,
        "status": status | more.get("status", {}),
    }


def service(name: str, ip: str, selector: dict[str, str], **port: Any) -> dict[str, Any]:
    return {
        "kind": "Service",
        "apiVersion": "v1",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"clusterIP": ip, "clusterIPs": [ip], "selector": selector, "ports": [{"port": 80} | port]},
    }


def endpoints(name: str, *pods: str) -> dict[str, Any]:
    addresses = [{"ip": "10.244.0.1", "targetRef": {"kind": "Pod", "name": one, "namespace": "shop"}} for one in pods]
    return {
        "kind": "Endpoints",
        "apiVersion": "v1",
        "metadata": {"name": name, "namespace": "shop"},
        "subsets": [{"addresses": addresses}],
    }


def known(*items: dict[str, Any]) -> tuple[Workloads, list[str]]:
    found, reasons = assignments({"kind": "List", "apiVersion": "v1", "items": list(items)}, "corp.test")
    return Workloads(found), reasons


def test_pods_are_their_service_accounts_while_they_run() -> None:
    ended = {
        "phase": "Succeeded",
        "containerStatuses": [{"state": {"terminated": {"finishedAt": "2026-05-03T00:00:00Z"}}}],
    }
    found, reasons = known(pod("web-1", "web", "10.244.0.5"), pod("job-1", "job", "10.244.0.6", status=ended))
    assert found.identity("10.244.0.5", None, NOW) == WEB
    assert found.identity("10.244.0.5", None, NOW - dt.timedelta(days=3)) is None
    assert found.identity("10.244.0.6", None, NOW) == JOB
    assert found.identity("10.244.0.6", None, LATER) is None
    assert reasons == []


def test_pods_on_the_host_s_network_have_their_host_ports_alone() -> None:
    spec = {"hostNetwork": True, "containers": [{"ports": [{"containerPort": 9100, "hostPort": 9100}]}]}
    found, _ = known(pod("node-1", "node", "192.0.2.1", spec=spec))
    assert found.identity("192.0.2.1", 9100, NOW) == "spiffe://corp.test/ns/shop/sa/node"
    assert found.identity("192.0.2.1", 22, NOW) is None
    assert found.identity("192.0.2.1", None, NOW) is None


def test_a_service_is_the_identity_of_the_pods_behind_it() -> None:
    node = {"kind": "Node", "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]}}
    found, reasons = known(
        pod("db-1", "db", "10.244.0.7"),
        pod("db-2", "db", "10.244.0.8"),
        pod("web-1", "web", "10.244.0.5"),
        service("db", "10.96.0.7", {"app": "db"}, nodePort=30080),
        service("by-endpoints", "10.96.0.8", {"app": "nothing"}),
        endpoints("by-endpoints", "web-1"),
        node,
    )
    assert found.identity("10.96.0.7", 80, NOW) == DB
    assert found.identity("10.96.0.7", 81, NOW) is None
    assert found.identity("192.0.2.1", 30080, NOW) == DB
    assert found.identity("10.96.0.8", 80, NOW) == WEB
    assert reasons == []


def test_slices_name_their_service_by_a_label() -> None:
    piece = {
        "kind": "EndpointSlice",
        "metadata": {"name": "db-x7", "namespace": "shop", "labels": {"kubernetes.io/service-name": "db"}},
        "endpoints": [{"addresses": ["10.244.0.7"], "targetRef": {"kind": "Pod", "name": "db-1"}}],
    }
    found, _ = known(pod("db-1", "db", "10.244.0.7"), service("db", "10.96.0.7", {}), piece)
    assert found.identity("10.96.0.7", 80, NOW) == DB


def test_what_several_or_none_are_behind_is_nobodys_and_said() -> None:
    found, reasons = known(
        pod("a", "web", "10.244.0.1"),
        pod("b", "db", "10.244.0.2"),
        service("both", "10.96.0.1", {}),
        endpoints("both", "a", "b"),
        service("none", "10.96.0.2", {"app": "gone"}),
        service("headless", "None", {"app": "web"}),
        {"kind": "Pod", "metadata": {}, "spec": {}},
        pod("c", "bad account", "10.244.0.3"),
    )
    assert found.identity("10.96.0.1", 80, NOW) is found.identity("10.96.0.2", 80, NOW) is None
    assert len(reasons) == 4
    assert sum("nobody's" in reason for reason in reasons) == 2


def test_a_file_of_objects_is_told_from_a_map_of_lines(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "objects.json"
    path.write_text(
        json.dumps({"kind": "List", "apiVersion": "v1", "items": [pod("a", "web", "10.244.0.1")]}, indent=1)
    )
    found, findings = read_workloads(path, "corp.test")
    assert found.identity("10.244.0.1", None, NOW) == WEB
    assert findings == []
    path.write_text(json.dumps({"kind": "List", "apiVersion": "v1", "items": [service("x", "10.96.0.1", {})]}))
    assert [item.code for item in read_workloads(path)[1]] == ["LM4017"]
    assert is_objects(b'{"ip": "10.0.0.1", "spiffe_id": "spiffe://corp.test/a"}') is None
    assert is_objects(b"nonsense") is None


def test_pods_that_run_at_a_moment_and_nothing_else() -> None:
    document = {
        "kind": "List",
        "apiVersion": "v1",
        "items": [pod("web-1", "web", "10.244.0.1"), service("web", "10.96.0.1", {}), {"kind": "Pod"}, 7],
    }
    assert [item.name for item in pods_at(document, "corp.test", NOW)] == ["web-1"]
    assert pods_at(document, "corp.test", NOW - dt.timedelta(days=30)) == []
