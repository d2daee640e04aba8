import os
import pathlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit import tiles
from audit.tiles import (
    TileReader,
    entries_path,
    leftovers,
    pack_entries,
    parse_path,
    read_from,
    tile_path,
    unpack_entries,
)
from mesh.problems import Problem
from tests.audit.making import make, make_log


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (tile_path(0, 0), "tile/0/000"),
        (tile_path(0, 1234067), "tile/0/x001/x234/067"),
        (tile_path(3, 1000, 112), "tile/3/x001/000.p/112"),
        (entries_path(999), "tile/entries/999"),
        (entries_path(1000, 1), "tile/entries/x001/000.p/1"),
    ],
)
def test_paths_are_those_of_the_specification(path: str, expected: str) -> None:
    assert path == expected


@given(st.none() | st.integers(0, 63), st.integers(0, 10**12), st.integers(1, 256))
def test_paths_are_read_back(level: int | None, index: int, width: int) -> None:
    path = entries_path(index, width) if level is None else tile_path(level, index, width)
    assert parse_path(path) == (level, index, width)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "tile/0/0",
        "tile/00/000",
        "tile/0/000.p/256",
        "tile/0/000.p/0",
        "tile/0/x000/001",
        "tile/0/../000",
        "tile/0/000\n",
    ],
)
def test_other_paths_are_nobodys(path: str) -> None:
    assert parse_path(path) is None


@given(st.lists(st.binary(max_size=300), max_size=20))
def test_bundles_round_trip(entries: list[bytes]) -> None:
    assert unpack_entries(pack_entries(entries), "p") == entries


@given(st.binary(max_size=300))
def test_no_bytes_break_the_bundle_reader(data: bytes) -> None:
    try:
        assert pack_entries(unpack_entries(data, "p")) == data
    except Problem as problem:
        assert problem.code == "LM6021"


def test_an_entry_has_its_length_in_two_bytes() -> None:
    assert len(pack_entries([bytes(65535)])) == 65537
    with pytest.raises(ValueError, match="65535"):
        pack_entries([bytes(65536)])


def test_reads_the_full_tile_where_the_partial_one_is_gone(tmp_path: pathlib.Path) -> None:
    make_log(tmp_path, 256)
    small = TileReader(read_from(tmp_path), 100)
    assert len(small.tile(0, 0)) == 100 * 32
    assert small.entries(0) == [make(number) for number in range(100)]


@pytest.mark.parametrize("path", ["tile/0/000.p/5", "tile/entries/000.p/5"])
def test_a_missing_tile_is_named(tmp_path: pathlib.Path, path: str) -> None:
    make_log(tmp_path, 5)
    (tmp_path / path).unlink()
    reader = TileReader(read_from(tmp_path), 5)
    with pytest.raises(Problem) as caught:
        reader.entries(0) if "entries" in path else reader.tile(0, 0)
    assert (caught.value.code, caught.value.facts["path"]) == ("LM6020", path)


def test_keeps_no_more_tiles_than_it_needs(tmp_path: pathlib.Path) -> None:
    reader = TileReader(lambda _: bytes(256 * 32), 1 << 20)
    for index in range(1000):
        reader.tile(0, index)
    assert len(reader._tiles) <= tiles._KEPT_TILES


def test_earlier_partial_tiles_are_known(tmp_path: pathlib.Path) -> None:
    make_log(tmp_path, 3, 2)
    (tmp_path / "tile" / "stranger").write_bytes(b"")
    found = dict(leftovers(tmp_path, TileReader(read_from(tmp_path), 5)))
    assert set(found) == {"tile/0/000.p/3", "tile/entries/000.p/3"}
    assert all((tmp_path / path).read_bytes() == expected() for path, expected in found.items())


def test_files_of_strangers_are_read_with_care(tmp_path: pathlib.Path) -> None:
    (tmp_path / "link").symlink_to("/etc/hostname")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(tiles.MAX_FILE_BYTES + 1)
    for name in ("link", "folder", "pipe", "huge"):
        with pytest.raises(Problem) as caught:
            read_from(tmp_path)(name)
        assert caught.value.code == "LM6021"
    assert read_from(tmp_path)("absent") is None
    assert read_from(tmp_path)("huge/absent") is None
