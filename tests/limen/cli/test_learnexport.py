import json
import pathlib

import pytest

from limen.__main__ import run
from limen.cli.learnexport import TARGETS
from tests.learner import worlds


def test_one_command_gives_the_objects_of_every_system(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flows = tmp_path / "flows.jsonl"
    flows.write_text("".join(json.dumps(item.to_json()) + "\n" for item in worlds.shop()))
    more = [word for target in TARGETS for word in ("--export", target)]
    assert run(["learn", "propose", "--from", str(flows), "--out", str(tmp_path / "p"), "-o", "json", *more]) == 0
    found = json.loads(capsys.readouterr().out)["exported"]
    assert [item["target"] for item in found] == list(TARGETS)
    for item in found:
        assert item["written"]
        assert pathlib.Path(item["directory"]) == tmp_path / f"p-{item['target']}"
        assert {service["service"] for service in item["services"]} == {"cart", "orders"}


def test_kubernetes_objects_are_workloads_for_the_export_too(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flows, objects = tmp_path / "flows.jsonl", tmp_path / "objects.json"
    flows.write_text("".join(json.dumps(item.to_json()) + "\n" for item in worlds.shop()))
    pods = [
        {
            "kind": "Pod",
            "apiVersion": "v1",
            "metadata": {"name": f"{name}-1", "namespace": "shop", "labels": {"app": name}},
            "spec": {"serviceAccountName": name},
            "status": {"podIP": f"10.0.0.{place}"},
        }
        for place, name in enumerate(("web", "cart", "orders"), start=1)
    ]
    objects.write_text(json.dumps({"kind": "List", "apiVersion": "v1", "items": pods}))
    words = ["learn", "propose", "--from", str(flows), "--workloads", str(objects), "--trust-domain", "sim.test"]
    assert run([*words, "--export", "kubernetes", "--out", str(tmp_path / "p"), "-o", "json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["exported"]
    text = "".join(path.read_text() for path in (tmp_path / "p-kubernetes").iterdir())
    assert found["written"]
    assert "NetworkPolicy" in text
    assert "app: cart" in text
