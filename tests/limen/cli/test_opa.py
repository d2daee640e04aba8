"""`limen policy export rego` and `limen policy push`, as they are typed."""

import json
import pathlib

import pytest
from click.testing import CliRunner

from limen.cli.policy import policy
from limen.opa import running_opa
from policyengine.inputdoc import input_of
from tests.limen.test_opapush import opa_on_a_port
from tests.policyengine.corners import ask
from tests.tools import require_opa

TREE = """apiVersion: limen.dev/v1
kind: Service
metadata: {name: db, owner: data}
spec: {identities: ["spiffe://corp.test/ns/shop/sa/db"], ports: [{port: 8080, protocol: http}]}
---
apiVersion: limen.dev/v1
kind: Policy
metadata: {name: p, owner: data}
spec: {service: db, tier: app, rules: [{id: r, effect: allow, from: ["spiffe://corp.test/ns/shop/sa/cart"]}]}
"""


@pytest.fixture
def tree(tmp_path: pathlib.Path) -> pathlib.Path:
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "p.yaml").write_text(TREE, "utf-8")
    return tmp_path / "policies"


def test_export_writes_a_bundle_folder(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    out = tmp_path / "out"
    done = CliRunner().invoke(policy, ["export", "rego", "--policies", str(tree), "--out", str(out), "-o", "json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    names = [".manifest", "data.json", "limen/authz.rego", "limen/batch.rego", "limen/log.rego"]
    assert found["written"] == [str(out / name) for name in names]
    assert found["services"] == [{"service": "db", "status": "translated", "findings": []}]
    assert sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()) == names


@pytest.mark.peer
def test_OPA_takes_the_folder(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    require_opa()
    out = tmp_path / "out"
    CliRunner().invoke(policy, ["export", "rego", "--policies", str(tree), "--out", str(out)])
    with running_opa("--bundle", str(out)) as opa:
        found = opa.decide(input_of(ask()))
    assert isinstance(found, dict)
    assert (found["decision"], found["rule"]) == ("allow", "r")


@pytest.mark.peer
def test_push(tree: pathlib.Path) -> None:
    with opa_on_a_port() as url:
        done = CliRunner().invoke(policy, ["push", "--policies", str(tree), "--opa", url, "-o", "json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["probes"] > 10


def test_export_carries_custom_rules_and_forgets_old_ones(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    out, command = tmp_path / "out", ["export", "rego", "--policies", str(tree), "--out", str(tmp_path / "out")]
    (tree / "p.yaml").write_text(TREE.replace('sa/cart"]}', 'sa/cart"], when: {rego: data.shop.extra}}'), "utf-8")
    for name in ("old.rego", "new.rego"):
        for path in tree.glob("*.rego"):
            path.unlink()
        (tree / name).write_text("package shop\n\nextra if input.port == 8080\n", "utf-8")
        assert CliRunner().invoke(policy, [*command, "--force"]).exit_code == 0
    assert [path.name for path in (out / "limen" / "rules").iterdir()] == ["new.rego"]
    assert json.loads((out / ".manifest").read_text("utf-8"))["roots"] == ["limen", "shop"]
    assert "data.shop.extra" in (out / "limen" / "custom.rego").read_text("utf-8")
