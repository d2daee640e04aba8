import os
import pathlib
import threading

import pytest

from audit import shelf
from audit.shelf import Shelf, write


def made(directory: pathlib.Path, *, is_in_background: bool = False) -> Shelf:
    (directory / "checkpoint").write_bytes(b"")
    return Shelf(directory, is_in_background=is_in_background)


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> list[str]:
    """What is made durable, in order, by its path below the directory."""
    found: list[str] = []
    real = os.fsync

    def fsync(handle: int) -> None:
        path = pathlib.Path(os.readlink(f"/proc/self/fd/{handle}"))
        found.append(path.relative_to(tmp_path).as_posix())
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    return found


def test_every_file_that_counts_and_every_new_name_is_made_durable(tmp_path: pathlib.Path, synced: list[str]) -> None:
    found = made(tmp_path)
    found.put({"tile/0/000.p/1": b"a"}, None)
    found.put({"tile/0/000.p/2": b"ab", "tile/1/000.p/1": b"c"}, lambda: b"signed")
    assert synced == []
    found.settle()
    found.wait()
    found.close()
    # a narrower tile is nobody's any more
    assert sorted(synced[:2]) == ["tile/0/000.p/2", "tile/1/000.p/1"]
    assert sorted(synced[2:-2]) == sorted([".", "tile", "tile/0", "tile/0/000.p", "tile/1", "tile/1/000.p"])
    assert synced[-2:] == ["checkpoint", "."]


def test_what_is_settled_is_not_settled_again(tmp_path: pathlib.Path, synced: list[str]) -> None:
    found = made(tmp_path)
    found.put({"tile/0/000.p/1": b"a"}, None)
    found.finish()
    synced.clear()
    found.put({"tile/0/000.p/2": b"ab"}, None)
    found.finish()
    assert synced == ["tile/0/000.p/2", "tile/0/000.p", "checkpoint", "."]
    synced.clear()
    found.finish()
    assert synced == ["checkpoint", "."]


def test_partial_tiles_go_only_when_the_full_one_is_durable(tmp_path: pathlib.Path, synced: list[str]) -> None:
    found = made(tmp_path)
    found.put({"tile/0/000.p/255": b"a"}, None)
    found.put({"tile/0/000": b"ab"}, None)
    assert (tmp_path / "tile/0/000.p/255").exists()
    found.finish()
    assert "tile/0/000" in synced
    assert not (tmp_path / "tile/0/000.p").exists()
    assert (tmp_path / "tile/0/000").read_bytes() == b"ab"


def test_the_checkpoint_comes_last(tmp_path: pathlib.Path) -> None:
    found = made(tmp_path)

    def note() -> bytes:
        assert (tmp_path / "tile/0/000.p/1").read_bytes() == b"a"
        return b"signed"

    found.put({"tile/0/000.p/1": b"a"}, note)
    assert (tmp_path / "checkpoint").read_bytes() == b"signed"


def test_what_comes_meanwhile_goes_together_and_nothing_is_left(tmp_path: pathlib.Path) -> None:
    found = made(tmp_path, is_in_background=True)
    begun, go = threading.Event(), threading.Event()

    def slow() -> bytes:
        begun.set()
        assert go.wait(30)
        return b"1"

    notes: list[int] = []
    found.put({"tile/0/000.p/1": b"a"}, slow)
    assert begun.wait(30)
    for number in (2, 3, 4):
        found.put(
            {f"tile/0/000.p/{number}": bytes(number)}, lambda number=number: notes.append(number) or b"%d" % number
        )
    go.set()
    found.flush()
    assert notes == [4]
    assert (tmp_path / "checkpoint").read_bytes() == b"4"
    assert sorted(path.name for path in (tmp_path / "tile/0/000.p").iterdir()) == ["1", "4"]
    found.close()


def test_everything_is_shown_however_the_threads_meet(tmp_path: pathlib.Path) -> None:
    found = made(tmp_path, is_in_background=True)
    for number in range(1, 200):
        found.put({f"tile/0/000.p/{number}": b"x"}, lambda number=number: b"%d" % number)
        if number % 50 == 0:
            found.flush()
            assert (tmp_path / "checkpoint").read_bytes() == b"%d" % number
    found.finish()
    assert (tmp_path / "checkpoint").read_bytes() == b"199"
    assert (tmp_path / "tile/0/000.p/199").exists()
    found.close()


def test_what_the_disk_refused_is_said_and_shown_later(tmp_path: pathlib.Path) -> None:
    found = made(tmp_path, is_in_background=True)
    (tmp_path / "tile").write_bytes(b"in the way")
    found.put({"tile/0/000": b"full"}, lambda: b"1")
    with pytest.raises(OSError, match="tile"):
        found.flush()
    (tmp_path / "tile").unlink()
    found.flush()
    assert (tmp_path / "tile/0/000").read_bytes() == b"full"
    assert (tmp_path / "checkpoint").read_bytes() == b"1"
    found.close()


def test_what_was_not_made_durable_is_said(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = made(tmp_path)
    found.put({"tile/0/000.p/1": b"a"}, None)

    def refuse(handle: int) -> None:
        raise OSError(5, "no")

    monkeypatch.setattr(shelf.os, "fsync", refuse)
    found.settle()
    with pytest.raises(OSError, match="no"):
        found.wait()
    found.close()


def test_other_bytes_under_the_name_of_a_tile_are_replaced(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "tile"
    write(path, b"whole", is_tile=True)
    before = path.stat().st_ino
    write(path, b"whole", is_tile=True)
    assert path.stat().st_ino == before
    path.write_bytes(b"torn")
    write(path, b"whole", is_tile=True)
    assert path.read_bytes() == b"whole"
