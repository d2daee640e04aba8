"""`limen policy explain` asks what `limen can` asks."""

import json
import pathlib
from typing import Any

import pytest
from click.testing import CliRunner, Result

from limen.cli.can import can
from limen.cli.policy import policy
from tests.limen.test_explained import TEXT

CART = "spiffe://corp.test/ns/shop/sa/cart"


@pytest.fixture
def tree(tmp_path: pathlib.Path) -> pathlib.Path:
    folder = tmp_path / "policies"
    folder.mkdir()
    (folder / "db.yaml").write_text(TEXT)
    return folder


def run(tree: pathlib.Path, *args: str) -> Result:
    return CliRunner().invoke(policy, ["explain", *args, "--policies", str(tree)])


def without_witnesses(done: Result) -> Any:
    """The answer but for the witnesses, which carry the time of asking."""
    found = json.loads(done.stdout)
    for row in (found["nearest"] or {}).get("opens", ()):
        row.pop("witness")
    return found


@pytest.mark.parametrize(("path", "status"), [("/orders", 0), ("/admin", 1), ("/refunds", 1), ("/a;b", 1)])
def test_it_answers_as_can_does(tree: pathlib.Path, path: str, status: int) -> None:
    words = (CART, "db", "GET", path, "-o", "json")
    done = run(tree, *words)
    other = CliRunner().invoke(can, [*words, "--policies", str(tree)])
    assert done.exit_code == other.exit_code == status
    assert without_witnesses(done) == without_witnesses(other)


def test_text_names_rule_place_and_path(tree: pathlib.Path) -> None:
    orders = f"in rule `orders` of policy `p` at {tree / 'db.yaml'}:14:5"
    closed = f"in rule `closed` of policy `p` at {tree / 'db.yaml'}:13:5"
    done = run(tree, CART, "db", "GET", "/admin")
    assert done.stdout.splitlines() == [
        f"× denied   {CART} → db   GET /admin",  # noqa: RUF001  the check mark
        f"  by       p, rule closed ({tree / 'db.yaml'}:13), tier app",
        "  path     guardrail no match → app deny (p/closed)",
        f"  nearest  p, rule orders ({tree / 'db.yaml'}:14): paths, unless differs",
        f"  fix      add `/admin` to `paths` {orders}, and add `{CART}` to `unless.from` {closed}",
        f"  opens    {CART} * /admin on port 8080",
    ]


@pytest.mark.parametrize("words", [(CART, "db", "GET"), (), (CART, "db", "GET", "/", "x")])
def test_a_question_has_two_or_four_words(tree: pathlib.Path, words: tuple[str, ...]) -> None:
    assert run(tree, *words).exit_code == 2
