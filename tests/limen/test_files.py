import os
import pathlib

import pytest

from limen.files import replace_file


def test_a_file_is_begun_or_replaced_with_its_rights(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "x"
    replace_file(file, b"1", mode=0o644)
    assert (file.read_bytes(), file.stat().st_mode & 0o777) == (b"1", 0o644)
    file.chmod(0o600)
    replace_file(file, b"2", mode=0o644)
    assert (file.read_bytes(), file.stat().st_mode & 0o777) == (b"2", 0o600)
    assert os.listdir(tmp_path) == ["x"]


def test_a_link_stays_a_link(tmp_path: pathlib.Path) -> None:
    (tmp_path / "link").symlink_to("real")
    replace_file(tmp_path / "link", b"1")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"1"


def test_what_fails_leaves_nothing_behind(tmp_path: pathlib.Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError):
        replace_file(tmp_path / "folder", b"1")
    with pytest.raises(OSError):
        replace_file(tmp_path / "nowhere" / "x", b"1")
    assert os.listdir(tmp_path) == ["folder"]
