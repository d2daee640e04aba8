import pathlib
from collections.abc import Iterator

import pytest

from audit.sinks.file import write_file
from mesh.problems import Problem


def test_writes_a_file_that_only_its_owner_reads(tmp_path: pathlib.Path) -> None:
    target = tmp_path / "out.jsonl"
    assert write_file(target, [b"a\n", b"b\n"]) == 2
    assert target.read_bytes() == b"a\nb\n"
    assert target.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [target]


def test_after_a_failure_the_file_of_before_stands_alone(tmp_path: pathlib.Path) -> None:
    target = tmp_path / "out.jsonl"
    write_file(target, [b"old\n"])

    def breaking() -> Iterator[bytes]:
        yield b"new\n"
        raise KeyError("the log broke")

    with pytest.raises(KeyError):
        write_file(target, breaking())
    assert target.read_bytes() == b"old\n"
    assert list(tmp_path.iterdir()) == [target]


def test_a_link_at_the_destination_is_replaced_and_not_followed(tmp_path: pathlib.Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine")
    (tmp_path / "out").symlink_to(precious)
    write_file(tmp_path / "out", [b"x\n"])
    assert precious.read_text() == "mine"
    assert not (tmp_path / "out").is_symlink()


@pytest.mark.parametrize("path", ["absent/out", "folder"])
def test_a_destination_that_cannot_be_written_is_named(tmp_path: pathlib.Path, path: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(Problem) as caught:
        write_file(tmp_path / path, [b"x\n"])
    assert caught.value.code == "LM6051"
    assert [item.name for item in tmp_path.iterdir()] == ["folder"]
