import os
import pathlib

import pytest

from ca.disksource import MAX_BYTES, DiskKeys
from ca.keys import KeyAlgorithm, private_to_der, spki_der
from ca.keysource import DatabaseKeys
from mesh.problems import Conflict, Invalid, NotFound, Unavailable
from mesh.wrapping import WrappingKey


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "keys"


@pytest.fixture
def keys(folder: pathlib.Path, wrapping: WrappingKey) -> DiskKeys:
    return DiskKeys(folder, wrapping)


@pytest.mark.parametrize(
    "algorithm", [KeyAlgorithm.P256, KeyAlgorithm.P384, KeyAlgorithm.RSA_2048, KeyAlgorithm.ML_DSA_65]
)
def test_a_key_survives_the_process(folder: pathlib.Path, wrapping: WrappingKey, algorithm: KeyAlgorithm) -> None:
    made = DiskKeys(folder, wrapping).new("root-1", algorithm)
    again = DiskKeys(folder, wrapping)
    assert spki_der(again.load("root-1").public_key) == spki_der(made.public_key)
    assert again.names() == {"root-1"}


def test_files_are_wrapped_and_nobody_elses(keys: DiskKeys, folder: pathlib.Path) -> None:
    made = keys.new("a", KeyAlgorithm.P256)
    assert folder.stat().st_mode & 0o777 == 0o700
    (path,) = folder.iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    assert private_to_der(made.key)[-60:] not in path.read_bytes()


def test_nothing_is_overwritten(keys: DiskKeys, folder: pathlib.Path) -> None:
    keys.new("a", KeyAlgorithm.P256)
    before = (folder / "a.key").read_bytes()
    with pytest.raises(Conflict, match="LM1601"):
        keys.new("a", KeyAlgorithm.P256)
    assert (folder / "a.key").read_bytes() == before
    assert [path.name for path in folder.iterdir()] == ["a.key"]


def test_a_deleted_key_is_gone(keys: DiskKeys) -> None:
    keys.new("a", KeyAlgorithm.P256)
    keys.delete("a")
    keys.delete("a")
    with pytest.raises(NotFound, match="LM1600"):
        keys.load("a")


def test_what_a_kill_left_unfinished_is_cleaned_and_never_a_key(folder: pathlib.Path, wrapping: WrappingKey) -> None:
    keys = DiskKeys(folder, wrapping)
    (folder / ".a.new").write_bytes(b"half")
    assert keys.names() == frozenset()
    DiskKeys(folder, wrapping).new("a", KeyAlgorithm.P256)
    assert [path.name for path in folder.iterdir()] == ["a.key"]


def test_another_wrapping_key_is_refused(keys: DiskKeys, folder: pathlib.Path) -> None:
    keys.new("a", KeyAlgorithm.P256)
    with pytest.raises(Invalid, match="LM1201"):
        DiskKeys(folder, WrappingKey(b"x" * 32, beside_state=False)).load("a")


def test_one_file_cannot_stand_in_for_another_nor_for_a_row_of_the_database(
    keys: DiskKeys, folder: pathlib.Path, wrapping: WrappingKey
) -> None:
    keys.new("a", KeyAlgorithm.P256)
    os.link(folder / "a.key", folder / "b.key")
    with pytest.raises(Invalid, match="LM1201"):
        keys.load("b")
    with pytest.raises(Invalid, match="LM1201"):
        wrapping.unwrap("a", (folder / "a.key").read_bytes())
    assert DatabaseKeys.name != DiskKeys.name


@pytest.mark.parametrize("size", [0, 1, 12, 13, 40, MAX_BYTES, MAX_BYTES + 1])
def test_a_file_of_other_bytes_is_refused(keys: DiskKeys, folder: pathlib.Path, size: int) -> None:
    path = folder / "a.key"
    path.write_bytes(b"\x01" * size)
    path.chmod(0o600)
    with pytest.raises(Invalid, match=r"LM1201|LM1604"):
        keys.load("a")


@pytest.mark.parametrize("position", [0, 1, 12, 13, 60, -1])
def test_a_changed_byte_is_refused(keys: DiskKeys, folder: pathlib.Path, position: int) -> None:
    keys.new("a", KeyAlgorithm.P256)
    path = folder / "a.key"
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)
    with pytest.raises(Invalid, match="LM1201"):
        keys.load("a")


def test_a_file_that_others_may_read_is_refused(keys: DiskKeys, folder: pathlib.Path) -> None:
    keys.new("a", KeyAlgorithm.P256)
    (folder / "a.key").chmod(0o640)
    with pytest.raises(Invalid, match="LM1607"):
        keys.load("a")


def test_a_directory_that_others_may_enter_is_refused(folder: pathlib.Path, wrapping: WrappingKey) -> None:
    folder.mkdir(mode=0o755)
    with pytest.raises(Invalid, match="LM1607"):
        DiskKeys(folder, wrapping)


def test_a_link_and_a_pipe_are_refused(keys: DiskKeys, folder: pathlib.Path) -> None:
    keys.new("a", KeyAlgorithm.P256)
    (folder / "link.key").symlink_to(folder / "a.key")
    os.mkfifo(folder / "pipe.key", 0o600)
    with pytest.raises(Unavailable, match="LM1603"):
        keys.load("link")
    with pytest.raises(Invalid, match="LM1607"):
        keys.load("pipe")


def test_a_directory_that_went_away_says_so(keys: DiskKeys, folder: pathlib.Path) -> None:
    folder.rmdir()
    for act in (lambda: keys.new("a", KeyAlgorithm.P256), lambda: keys.delete("a")):
        with pytest.raises(Unavailable, match="LM1603"):
            act()


def test_a_file_stands_in_the_way_of_the_directory(folder: pathlib.Path, wrapping: WrappingKey) -> None:
    folder.write_text("")
    with pytest.raises(Unavailable, match="LM1603"):
        DiskKeys(folder, wrapping)
