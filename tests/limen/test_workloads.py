"""The list of workloads: lines about one identity add up, and what cannot be read is refused with its line."""

import datetime as dt
import json
import pathlib
from typing import Any

import pytest

from limen.workloads import read_workloads
from mesh.problems import Invalid, NotFound
from mesh.spiffe import SpiffeId
from policyengine.compile.export import Workload

NOW = dt.datetime(2026, 11, 30, tzinfo=dt.UTC)
CART = "spiffe://corp.test/ns/shop/sa/cart"


def read(path: pathlib.Path, *rows: object) -> dict[SpiffeId, Workload]:
    file = path / "w.jsonl"
    file.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return read_workloads(file, NOW)


def test_lines_about_one_identity_add_up(tmp_path: pathlib.Path) -> None:
    found = read(
        tmp_path,
        {"spiffe_id": CART, "ip": "10.0.0.1", "labels": {"app": "cart", "v": "1"}},
        "",
        {"spiffe_id": CART, "ip": "fd00::1", "labels": {"app": "cart", "v": "2"}, "service": "buy"},
        {"spiffe_id": CART, "ip": "10.0.0.1"},
    )
    workload = found[SpiffeId.parse(CART)]
    assert workload.addresses == ("10.0.0.1", "fd00::1")
    assert workload.labels == (("app", "cart"),)
    assert workload.consul == "buy"


def test_pods_are_their_accounts_with_the_labels_that_all_of_them_have(tmp_path: pathlib.Path) -> None:
    def pod(name: str, ip: str, **more: Any) -> dict[str, Any]:
        labels = {"app": "cart", "v": name, "pod-template-hash": name}
        status = {"podIP": ip, "startTime": "2026-11-29T00:00:00Z", **more}
        return {
            "kind": "Pod",
            "apiVersion": "v1",
            "metadata": {"name": name, "namespace": "shop", "labels": labels},
            "spec": {"serviceAccountName": "cart"},
            "status": status,
        }

    ended = {
        "phase": "Succeeded",
        "containerStatuses": [{"state": {"terminated": {"finishedAt": "2026-11-29T12:00:00Z"}}}],
    }
    items = [pod("a", "10.0.0.1"), pod("b", "10.0.0.2"), pod("c", "10.0.0.3", **ended), {"kind": "Service"}]
    file = tmp_path / "objects.json"
    file.write_text(json.dumps({"kind": "List", "apiVersion": "v1", "items": items}, indent=1))
    assert read_workloads(file, NOW, "corp.test") == {
        SpiffeId.parse(CART): Workload(labels=(("app", "cart"),), addresses=("10.0.0.1", "10.0.0.2"))
    }


def test_a_line_of_another_time_is_left_out(tmp_path: pathlib.Path) -> None:
    rows = [
        {"spiffe_id": CART, "ip": "10.0.0.1", "until": "2026-11-29T00:00:00Z"},
        {"spiffe_id": CART, "ip": "10.0.0.2", "from": "2026-11-29T00:00:00Z"},
    ]
    assert read(tmp_path, *rows)[SpiffeId.parse(CART)].addresses == ("10.0.0.2",)


@pytest.mark.parametrize(
    "row",
    ["{", "[]", {"ip": "10.0.0.1"}, {"spiffe_id": CART, "ip": "x"}, {"spiffe_id": CART, "labels": {"a": 1}},
     {"spiffe_id": CART, "from": 1}, {"spiffe_id": CART, "from": "noon"}, {"spiffe_id": CART, "label": {}}],
)  # fmt: skip
def test_a_line_that_cannot_be_read_is_refused_with_its_number(tmp_path: pathlib.Path, row: object) -> None:
    with pytest.raises(Invalid, match="line 2"):
        read(tmp_path, {"spiffe_id": CART}, row)


def test_a_list_that_is_not_there_or_not_text_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(NotFound):
        read_workloads(tmp_path / "none", NOW)
    (tmp_path / "x").write_bytes(b"\xff")
    with pytest.raises(Invalid, match="UTF-8"):
        read_workloads(tmp_path / "x", NOW)
