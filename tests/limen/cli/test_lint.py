"""`limen policy lint`: findings with places, in four formats, and the exit status."""

import json
import pathlib
from typing import Any

import pytest
from click.testing import CliRunner, Result

from limen.__main__ import run as run_limen
from limen.cli.policy import policy
from mesh.problems import Invalid, NotFound
from tests.world import RULES, World

ROOT = pathlib.Path(__file__).parent.parent.parent.parent
TREE = """\
apiVersion: limen.dev/v1
kind: Service
metadata: {name: db, owner: o}
spec: {identities: ["spiffe://corp.test/ns/shop/sa/db"], ports: [{port: 8080, protocol: http}]}
---
apiVersion: limen.dev/v1
kind: Policy
metadata: {name: shop-db, owner: o}
spec:
  service: db
  tier: app
  rules:
  - {id: closed, effect: deny, from: [any], to: [{paths: ["/admin/**"]}]}
  - {id: jobs, effect: allow, from: ["spiffe://corp.test/ns/ops/sa/jobs"], to: [{paths: ["/admin/jobs"]}]}
  - {id: orders, effect: allow, from: ["spiffe://corp.test/ns/shop/sa/cart"], to: [{paths: ["/orders"]}]}
"""
CLEAN = TREE.replace("  - {id: jobs", "  # {id: jobs")


def run(*args: str) -> Result:
    return CliRunner().invoke(policy, ["lint", *args])


@pytest.fixture
def tree(tmp_path: pathlib.Path) -> pathlib.Path:
    folder = tmp_path / "policies"
    folder.mkdir()
    (folder / "db.yaml").write_text(TREE)
    return folder


def write(path: pathlib.Path, *rows: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_shipped_policies_lint_clean() -> None:
    done = run("--policies", str(ROOT / "policies"), "-o", "json")
    assert done.exit_code == 0
    report = json.loads(done.stdout)
    # the gRPC ports of the examples, and nothing else
    suppressed = report.pop("suppressed")
    assert [(item["code"], item["reason"]) for item in suppressed] == [("LM2126", "the gRPC port runs with Envoy")] * 2
    assert report == {"findings": [], "errors": 0, "warnings": 0, "infos": 0}


def test_a_finding_exits_1_and_names_rule_place_shadow_and_fix(tree: pathlib.Path) -> None:
    done = run("--policies", str(tree), "-o", "json")
    assert done.exit_code == 1
    (only,) = json.loads(done.stdout)["findings"]
    assert (only["code"], only["severity"], only["line"], only["column"]) == ("LM2104", "warning", 14, 5)
    assert only["file"].endswith("db.yaml")
    assert (only["facts"]["policy"], only["facts"]["rule"]) == ("shop-db", "jobs")
    assert f"`shop-db/closed` ({tree / 'db.yaml'}:13)" in only["message"]
    assert "delete the rule" in only["help"]


def test_table_shows_place_and_fix(tree: pathlib.Path) -> None:
    done = run("--policies", str(tree))
    assert done.exit_code == 1
    assert f"{tree / 'db.yaml'}:14:5: warning LM2104: " in done.stdout
    assert "    delete the rule" in done.stdout
    assert "0 errors, 1 warning\n" in done.stderr


def test_github_gets_one_command_a_finding_and_nothing_else(tree: pathlib.Path) -> None:
    done = run("--policies", str(tree), "-o", "github")
    assert done.exit_code == 1
    assert done.output.startswith(f"::warning file={tree / 'db.yaml'},line=14,col=5,title=LM2104 warning::")
    assert len(done.output.splitlines()) == 1


def test_sarif_has_the_finding(tree: pathlib.Path) -> None:
    done = run("--policies", str(tree), "-o", "sarif")
    assert done.exit_code == 1
    (result,) = json.loads(done.stdout)["runs"][0]["results"]
    assert result["ruleId"] == "LM2104"
    assert result["locations"][0]["physicalLocation"]["region"] == {"startLine": 14, "startColumn": 5}


def test_a_clean_tree_exits_0(tree: pathlib.Path) -> None:
    (tree / "db.yaml").write_text(CLEAN)
    done = run("--policies", str(tree))
    assert (done.exit_code, done.stdout) == (0, "")


def test_a_suppressed_finding_is_shown_as_such_and_exits_0(tree: pathlib.Path) -> None:
    entry = '{code: LM2104, rule: jobs, reason: soon gone, until: "2099-01-01"}'
    text = TREE.replace(
        "metadata: {name: shop-db, owner: o}", f"metadata: {{name: shop-db, owner: o, suppress: [{entry}]}}"
    )
    (tree / "db.yaml").write_text(text)
    done = run("--policies", str(tree), "-o", "json")
    assert done.exit_code == 0
    found = json.loads(done.stdout)
    assert found["findings"] == []
    assert [(item["code"], item["reason"]) for item in found["suppressed"]] == [("LM2104", "soon gone")]
    assert "1 suppressed" in done.stderr


@pytest.mark.parametrize(("level", "status"), [("info", 1), ("warning", 1), ("error", 0)])
def test_fail_on_says_what_sets_the_status(tree: pathlib.Path, level: str, status: int) -> None:
    assert run("--policies", str(tree), "--fail-on", level).exit_code == status


def test_all_errors_are_shown_with_places(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a.yaml").write_text(
        "apiVersion: limen.dev/v1\nkind: Group\nmetadata: {name: g}\nspec: {members: [x, 5]}\n"
    )
    done = run("--policies", str(tmp_path), "--fail-on", "error")
    assert done.exit_code == 1
    assert "a.yaml:4:18: error LM2006" in done.stdout
    assert "a.yaml:4:21: error LM2004" in done.stdout


@pytest.mark.parametrize(
    "text", ["a: [", "", "a: " + "[" * 40 + "]" * 40], ids=["no-yaml", "no-documents", "deeper-than-is-read"]
)
def test_a_tree_that_cannot_be_read_exits_2(tmp_path: pathlib.Path, text: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    done = run("--policies", str(tmp_path), "-o", "json")
    assert done.exit_code == 2
    assert json.loads(done.stdout)["errors"] == 1


@pytest.mark.parametrize(
    "text",
    [TREE.replace("  tier: app", "  tier: app\n  colour: red"), "a: &x 1\nb: *x\n", TREE + "a: 1\na: 2\n"],
    ids=["unknown-field", "anchor", "key-given-twice"],
)
def test_what_is_yaml_and_wrong_is_a_finding(tmp_path: pathlib.Path, text: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    done = run("--policies", str(tmp_path), "-o", "json")
    assert done.exit_code == 1
    assert json.loads(done.stdout)["errors"] >= 1


@pytest.mark.parametrize("name", ["nowhere.jsonl", "latin.jsonl"])
def test_flows_that_cannot_be_read_are_unreadable_input(tree: pathlib.Path, tmp_path: pathlib.Path, name: str) -> None:
    (tmp_path / "latin.jsonl").write_bytes(b"\xe4\n")
    done = run("--policies", str(tree), "--flows", str(tmp_path / name))
    assert isinstance(done.exception, Invalid)
    assert (done.exception.code, done.exception.exit_status) == ("LM4001", 2)


def test_lint_of_nothing_is_unreadable_input(tmp_path: pathlib.Path) -> None:
    done = run("--policies", str(tmp_path / "nowhere"))
    assert isinstance(done.exception, NotFound)
    assert done.exception.exit_status == 2


CART, DB = "spiffe://corp.test/ns/shop/sa/cart", "spiffe://corp.test/ns/shop/sa/db"
FLOW = {
    "start": "2026-11-24T12:00:00Z", "source": CART, "destination": DB, "destination_port": 8080, "protocol": "http",
    "method": "GET", "path": "/orders",
}  # fmt: skip


def test_rules_for_no_known_workload(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (tree / "db.yaml").write_text(CLEAN)
    both = write(tmp_path / "w.jsonl", {"spiffe_id": CART, "ip": "10.0.0.1"}, {"spiffe_id": DB})
    assert run("--policies", str(tree), "--workloads", both).exit_code == 0
    one = write(tmp_path / "w.jsonl", {"spiffe_id": DB})
    done = run("--policies", str(tree), "--workloads", one, "-o", "json")
    assert done.exit_code == 1
    assert [item["code"] for item in json.loads(done.stdout)["findings"]] == ["LM2116"]


def test_rules_that_no_recorded_flow_used(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (tree / "db.yaml").write_text(CLEAN)
    assert run("--policies", str(tree), "--flows", write(tmp_path / "f.jsonl", FLOW)).exit_code == 0
    other = write(tmp_path / "f.jsonl", {**FLOW, "path": "/else"})
    done = run("--policies", str(tree), "--flows", other, "-o", "json")
    assert [item["code"] for item in json.loads(done.stdout)["findings"]] == ["LM2119"]


@pytest.mark.parametrize(("option", "code"), [("--workloads", "LM2514"), ("--flows", "LM2440")])
def test_lists_that_cannot_be_read_are_refused(
    tree: pathlib.Path, tmp_path: pathlib.Path, option: str, code: str
) -> None:
    (tmp_path / "x.jsonl").write_text("{\n")
    done = run("--policies", str(tree), option, str(tmp_path / "x.jsonl"))
    assert isinstance(done.exception, Invalid)
    assert (done.exception.code, done.exception.exit_status) == (code, 2)


def test_a_named_state_says_who_is_known(world: World, tree: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    node = world.join()
    world.rules(RULES)
    world.issue(node, unix__uid="1000")
    (tree / "db.yaml").write_text(CLEAN)
    assert run_limen(["policy", "lint", "--policies", str(tree)]) == 0
    capsys.readouterr()
    assert run_limen(["policy", "lint", "--policies", str(tree), "--state", str(world.state), "-o", "json"]) == 1
    assert {item["code"] for item in json.loads(capsys.readouterr().out)["findings"]} == {"LM2116", "LM2118"}


def test_a_custom_rule_that_may_not_run_is_an_error_with_its_line(tree: pathlib.Path) -> None:
    text = CLEAN.replace('to: [{paths: ["/orders"]}]}', 'to: [{paths: ["/orders"]}], when: {rego: data.shop.extra}}')
    (tree / "db.yaml").write_text(text)
    (tree / "shop.rego").write_text('package shop\n\nextra if input.method == "GET"\n')
    assert run("--policies", str(tree)).exit_code == 0
    (tree / "shop.rego").write_text('package shop\n\nextra if {\n\thttp.send({"url": "http://x"})\n}\n')
    done = run("--policies", str(tree), "-o", "json")
    assert done.exit_code == 1
    (found,) = json.loads(done.stdout)["findings"]
    assert (found["code"], found["file"], found["line"]) == ("LM2602", str(tree / "shop.rego"), 4)
