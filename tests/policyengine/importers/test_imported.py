"""What is written is what was meant, loads, and can go out again."""

import json

from policyengine.formatting import formatted
from policyengine.importers.imported import files_of
from policyengine.importers.istio import import_istio
from policyengine.loader import load_text
from tests.policyengine.importers import test_istio as istio


def test_one_file_a_service_and_the_workloads_beside_them() -> None:
    policy = {
        "kind": "AuthorizationPolicy",
        "metadata": {"name": "p", "namespace": "shop"},
        "spec": {"action": "ALLOW", "rules": [{"from": [{"source": {"namespaces": ["shop"]}}]}]},
    }
    found = istio.translate([policy])
    files = dict(files_of(found))
    assert set(files) == {"db.yaml", "workloads.jsonl"}
    policies, findings = load_text(files["db.yaml"], "db.yaml")
    assert not findings
    assert policies.to_json() == found.policies.to_json()
    assert formatted(files["db.yaml"], "db.yaml") == files["db.yaml"]
    assert json.loads(files["workloads.jsonl"]) == {
        "spiffe_id": "spiffe://corp.test/ns/shop/sa/db", "namespace": "shop", "labels": {"app": "db", "tier": "back"}
    }  # fmt: skip


def test_nothing_gives_an_empty_list_of_workloads() -> None:
    found = import_istio([("f.yaml", "kind: VirtualService\nmetadata: {name: x}\n")], istio.TD)
    assert files_of(found) == [("workloads.jsonl", "")]
    assert [item.status for item in found.documents] == ["not read"]
    assert not found.is_refused
