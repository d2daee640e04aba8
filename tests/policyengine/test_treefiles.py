"""No file of a policy tree is skipped in silence, and none can hold the loader up."""

import os
import pathlib

import pytest

from mesh.yamlio import MAX_FILE_BYTES
from policyengine import treefiles
from policyengine.treefiles import read_files

UNPRIVILEGED = os.geteuid() != 0


def read(root: pathlib.Path) -> tuple[list[str], list[tuple[str, str]]]:
    files, found = read_files(root)
    lines = [(item.code, str(item.span.file if item.span else "").removeprefix(f"{root}/")) for item in found]
    return [file.inside for file in files], lines


def test_files_come_in_the_order_of_their_paths_whatever_the_case_of_their_suffix(tmp_path: pathlib.Path) -> None:
    (tmp_path / "b").mkdir()
    for name in ("b/x.yaml", "a.yml", "c.YAML", "m.rego", "README.md", ".hidden.yaml", "x.yaml~"):
        (tmp_path / name).write_text("a: 1\n")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "y.yaml").write_text("a: 1\n")
    assert read(tmp_path) == (["a.yml", "b/x.yaml", "c.YAML", "m.rego"], [])
    assert [file.is_module for file in read_files(tmp_path)[0]] == [False, False, False, True]


def test_a_single_file_is_a_tree_whatever_its_name(tmp_path: pathlib.Path) -> None:
    (tmp_path / "policies").write_text("a: 1\n")
    assert read(tmp_path / "policies") == (["policies"], [])


def test_what_cannot_be_read_is_a_finding(tmp_path: pathlib.Path) -> None:
    (tmp_path / "nowhere.yaml").symlink_to(tmp_path / "gone")
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "zero.yaml").symlink_to("/dev/zero")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "loop").symlink_to(tmp_path)
    files, found = read(tmp_path)
    assert files == []
    assert found == [("LM2022", name) for name in ("linked", "loop", "nowhere.yaml", "pipe.yaml", "zero.yaml")]


@pytest.mark.skipif(not UNPRIVILEGED, reason="root reads all")
def test_a_directory_that_cannot_be_entered_is_a_finding(tmp_path: pathlib.Path) -> None:
    (tmp_path / "shut").mkdir(mode=0)
    assert read(tmp_path) == ([], [("LM2022", "shut")])
    (tmp_path / "shut").chmod(0o700)


def test_a_link_to_a_file_is_read(tmp_path: pathlib.Path) -> None:
    (tmp_path / "..data").mkdir()
    (tmp_path / "..data" / "x.yaml").write_text("a: 1\n")
    (tmp_path / "x.yaml").symlink_to("..data/x.yaml")
    assert read(tmp_path) == (["x.yaml"], [])


def test_bytes_that_are_no_utf_8_are_found_at_their_place(tmp_path: pathlib.Path) -> None:
    (tmp_path / "x.yaml").write_bytes(b"a: 1\nb: \xff\n")
    ((item,), files) = (read_files(tmp_path)[1], read_files(tmp_path)[0])
    assert (files, item.code, str(item.span)) == ([], "LM2022", f"{tmp_path}/x.yaml:2:4")


def test_a_large_file_is_not_read_beyond_the_limit(tmp_path: pathlib.Path) -> None:
    with (tmp_path / "x.yaml").open("wb") as file:
        file.truncate(100 << 30)  # a sparse file: reading it all would take an hour and the machine's memory
    assert read(tmp_path) == ([], [("LM5100", "x.yaml")])
    (tmp_path / "x.yaml").write_bytes(b"#" * MAX_FILE_BYTES)
    assert read(tmp_path) == (["x.yaml"], [])


def test_a_tree_has_a_number_of_files_and_bytes(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in range(5):
        (tmp_path / f"{place}.yaml").write_text("a: 1\n")
    monkeypatch.setattr(
        treefiles._Budget, "__init__", lambda self: self.__setattr__("files", 3) or self.__setattr__("size", 99)
    )
    assert read(tmp_path) == (["0.yaml", "1.yaml", "2.yaml"], [("LM2024", "3.yaml")])
    monkeypatch.setattr(
        treefiles._Budget, "__init__", lambda self: self.__setattr__("files", 99) or self.__setattr__("size", 9)
    )
    assert read(tmp_path) == (["0.yaml", "1.yaml"], [("LM2024", "2.yaml")])


def test_directories_nest_at_most_32_deep(tmp_path: pathlib.Path) -> None:
    folder = tmp_path.joinpath(*["d"] * 34)
    folder.mkdir(parents=True)
    (folder / "x.yaml").write_text("a: 1\n")
    assert [code for code, _ in read(tmp_path)[1]] == ["LM2022"]
