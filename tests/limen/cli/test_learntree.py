import json
import pathlib

import pytest

from limen.__main__ import run
from mesh.flow import Flow
from tests.learner import worlds
from tests.learner.worlds import NS, START, flow


def save(path: pathlib.Path, flows: list[Flow]) -> pathlib.Path:
    path.write_text("".join(json.dumps(item.to_json()) + "\n" for item in flows))
    return path


def test_a_tree_that_is_there_is_extended_in_place_and_comments_survive(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = tmp_path / "tree"
    assert run(["learn", "propose", "--from", str(save(tmp_path / "a", worlds.shop())), "--out", str(tree)]) == 0
    cart = tree / "cart.yaml"
    cart.write_text(f"# owned by the shop\n{cart.read_text()}")
    orders = (tree / "orders.yaml").read_bytes()
    more = [*worlds.shop(), flow("web", "cart", START, path="/new", method="PUT")]
    capsys.readouterr()
    asked = ["learn", "propose", "--policies", str(tree), "--from", str(save(tmp_path / "b", more)), "-o", "json"]
    assert run([*asked, "--out", str(tree)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [item["kind"] for item in found["changes"]] == ["rule added"]
    assert cart.read_text().startswith("# owned by the shop\n")
    assert (tree / "orders.yaml").read_bytes() == orders
    assert run(["can", f"{NS}web", "cart:8080", "PUT", "/new", "--policies", str(tree)]) == 0
    capsys.readouterr()
    other = tmp_path / "other"
    assert run([*asked, "--out", str(other)]) == 0
    assert json.loads(capsys.readouterr().out)["changes"] == []
    assert {path.name: path.read_bytes() for path in other.iterdir()} == {
        path.name: path.read_bytes() for path in tree.iterdir()
    }


def test_strangers_in_the_directory_are_not_mixed_with(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / "mine.txt").write_text("x")
    assert (
        run(["learn", "propose", "--from", str(save(tmp_path / "a", worlds.shop())), "--out", str(tmp_path / "o")]) == 2
    )
    assert "LM4006" in capsys.readouterr().err
