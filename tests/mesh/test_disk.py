import os
import pathlib

import pytest

from mesh.disk import sync


@pytest.mark.parametrize("name", ["file", "."])
def test_the_disk_keeps_what_is_named_and_nothing_stays_open(
    name: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"content")
    kept = []
    monkeypatch.setattr(os, "fsync", lambda handle: kept.append((handle, os.fstat(handle).st_ino)))
    sync(tmp_path / name)
    ((handle, inode),) = kept
    assert inode == (tmp_path / name).stat().st_ino
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(handle)


def test_what_is_not_there_is_not_kept(tmp_path: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError):
        sync(tmp_path / "file")
