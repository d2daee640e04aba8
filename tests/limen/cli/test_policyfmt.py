"""`limen policy fmt`: writes all or nothing, and changes nothing but form."""

import os
import pathlib

import pytest

from limen.__main__ import run

ODD = """\
# head
kind: Group
apiVersion: limen.dev/v1
metadata: { name: g }
spec:
    members: ['any']   # all
"""
EVEN = """\
# head
kind: Group
apiVersion: limen.dev/v1
metadata: {name: g}
spec:
  members: ["any"]  # all
"""


@pytest.fixture
def tree(tmp_path: pathlib.Path) -> pathlib.Path:
    (tmp_path / "a.yaml").write_text(ODD)
    (tmp_path / "b.yml").write_text("a: 1\n")
    (tmp_path / "c.rego").write_text("package   x\n")
    (tmp_path / "README.md").write_text("a:   1\n")
    return tmp_path


def test_files_are_written_in_their_one_form_once(tree: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tree / "a.yaml").chmod(0o640)
    assert run(["policy", "fmt", "--policies", str(tree)]) == 0
    done = capsys.readouterr()
    assert done.out == f"{tree}/a.yaml\n"
    assert "1 changed, 1 as they are" in done.err
    assert (tree / "a.yaml").read_text() == EVEN
    assert (tree / "a.yaml").stat().st_mode & 0o777 == 0o640
    assert sorted(os.listdir(tree)) == ["README.md", "a.yaml", "b.yml", "c.rego"]
    assert (tree / "c.rego").read_text() == "package   x\n"
    assert run(["policy", "fmt", "--policies", str(tree)]) == 0
    assert capsys.readouterr().out == ""


def test_check_exits_1_and_writes_nothing(tree: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["policy", "fmt", "--policies", str(tree), "--check"]) == 1
    assert f"{tree}/a.yaml:1:1: error LM2710" in capsys.readouterr().out
    assert (tree / "a.yaml").read_text() == ODD
    assert run(["policy", "fmt", "--policies", str(tree)]) == 0
    assert run(["policy", "fmt", "--policies", str(tree), "--check"]) == 0


def test_diff_shows_and_writes_nothing(tree: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["policy", "fmt", "--policies", str(tree), "--diff"]) == 0
    out = capsys.readouterr().out
    assert "-metadata: { name: g }\n+metadata: {name: g}\n" in out
    assert (tree / "a.yaml").read_text() == ODD
    assert run(["policy", "fmt", "--policies", str(tree), "--diff", "--check"]) == 1


def test_one_bad_file_keeps_all_others_as_they_are(tree: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tree / "d.yaml").write_text("a: no\nb: [\n")
    (tree / "e.yaml").write_text("%YAML 1.2\n---\na: 1\n")
    assert run(["policy", "fmt", "--policies", str(tree)]) == 2
    err = capsys.readouterr().err
    assert f"{tree}/d.yaml:" in err
    assert "LM2711" in err
    assert "LM2203" in err
    assert (tree / "a.yaml").read_text() == ODD
    assert run(["policy", "fmt", "--policies", str(tree / "nowhere")]) == 2


def test_a_link_stays_a_link(tree: pathlib.Path) -> None:
    (tree / "a.yaml").rename(tree / "real.txt")
    (tree / "a.yaml").symlink_to("real.txt")
    assert run(["policy", "fmt", "--policies", str(tree)]) == 0
    assert (tree / "a.yaml").is_symlink()
    assert (tree / "real.txt").read_text() == EVEN
