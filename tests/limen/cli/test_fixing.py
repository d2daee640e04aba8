"""`--fix`: the tree says yes afterwards, everything else in it stays, and the plan is shown."""

import json
import pathlib

import pytest
from click.testing import CliRunner, Result

from limen.cli.can import can
from limen.cli.policyexplain import explain
from policyengine.loader import load_tree
from tests.limen.cli.test_can import TREE

COMMENTED = TREE.replace("  - id: orders\n", "  # who reads orders\n  - id: orders\n")
OUTSIDER = "spiffe://corp.test/ns/x/sa/y"


@pytest.fixture
def tree(tmp_path: pathlib.Path) -> pathlib.Path:
    folder = tmp_path / "policies"
    folder.mkdir()
    (folder / "db.yaml").write_text(COMMENTED)
    return folder


def run(tree: pathlib.Path, *args: str) -> Result:
    return CliRunner().invoke(can, [*args, "--policies", str(tree), "--fix"])


def test_the_fix_is_written_and_its_plan_is_shown(tree: pathlib.Path) -> None:
    result = run(tree, "cart", "db:8080", "PUT", "/orders")
    assert result.exit_code == 0, result.output
    text = (tree / "db.yaml").read_text()
    assert text == COMMENTED.replace("methods: [GET], paths", "methods: [GET, PUT], paths", 1)
    assert "newly allowed: 1" in result.output
    assert "+    to: [{ports: [8080], methods: [GET, PUT]" in result.output
    assert CliRunner().invoke(can, ["cart", "db:8080", "PUT", "/orders", "--policies", str(tree)]).exit_code == 0


def test_programs_get_the_files_and_the_plan(tree: pathlib.Path) -> None:
    arguments = ["cart", "db:8080", "PUT", "/orders", "--policies", str(tree), "--fix", "-o", "json"]
    result = CliRunner().invoke(explain, arguments)
    found = json.loads(result.stdout)
    assert result.exit_code == 0
    assert found["decision"] == "deny"  # as it was asked
    assert found["fixed"]["files"] == [str(tree / "db.yaml")]
    (row,) = found["fixed"]["plan"]["newly_allowed"]
    assert (row["methods"], row["paths"], row["replayed"]) == (["PUT"], ["/orders"], True)


def test_what_is_allowed_already_changes_nothing(tree: pathlib.Path) -> None:
    assert run(tree, "cart", "db:8080", "GET", "/orders").exit_code == 0
    assert (tree / "db.yaml").read_text() == COMMENTED


@pytest.mark.parametrize(
    ("question", "code"),
    [
        pytest.param(["cart", "db:8080", "POST", "/refunds"], "LM2206", id="the-request-has-to-change"),
        pytest.param(["cart", "db:9", "GET", "/orders"], "LM2206", id="no-such-port"),
        pytest.param(["spiffe://corp.test", "db:8080", "GET", "/orders"], "LM2206", id="no-identity"),
    ],
)
def test_what_no_rule_can_change_is_said_and_nothing_is_written(
    tree: pathlib.Path, question: list[str], code: str
) -> None:
    result = CliRunner().invoke(can, [*question, "--policies", str(tree), "--fix", "-o", "json"])
    assert result.exit_code == 1
    assert json.loads(result.stdout)["not_fixed"]["code"] == code
    assert (tree / "db.yaml").read_text() == COMMENTED


def test_a_service_without_rules_gets_a_policy_beside_it(tree: pathlib.Path) -> None:
    result = run(tree, OUTSIDER, "cart", "GET", "/baskets")
    assert result.exit_code == 0, result.output
    added = (tree / "db.yaml").read_text().removeprefix(COMMENTED)
    assert added == (
        "---\napiVersion: limen.dev/v1\nkind: Policy\nmetadata: {name: cart-app, owner: t}\nspec:\n  service: cart\n"
        "  tier: app\n  rules:\n  - id: y\n    effect: allow\n"
        f'    from: ["{OUTSIDER}"]\n    to:\n    - {{ports: [80], methods: [GET], paths: ["/baskets"]}}\n'
    )
    assert load_tree(tree)[1] == []


def test_a_tree_has_to_be_named(tree: pathlib.Path) -> None:
    assert CliRunner().invoke(can, ["cart", "db", "--fix"]).exit_code == 2
    recorded = ["01ARZ3NDEKTSV4RRFFQ69G5FAV", "--fix", "--policies", str(tree)]
    assert CliRunner().invoke(explain, recorded).exit_code == 2
