import pathlib

import pytest

from audit.reader import Reader, read_key
from mesh.problems import Problem
from tests.audit.making import id_of, make, make_log, open_log


def code_of(call: object) -> str:
    assert callable(call)
    with pytest.raises(Problem) as caught:
        call()
    return caught.value.code


@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, 700])
def test_reads_every_record_by_its_index_and_id(tmp_path: pathlib.Path, size: int) -> None:
    reader = Reader(tmp_path, make_log(tmp_path, size))
    assert reader.size == size
    assert list(reader.records()) == [(number, make(number)) for number in range(size)]
    for number in {0, size // 2, size - 1} & set(range(size)):
        assert reader.find(id_of(number)) == (number, make(number))
    assert code_of(lambda: reader.find(id_of(size))) == "LM6038"
    assert code_of(lambda: reader.find_all(id_of(size))) == "LM6038"


@pytest.mark.parametrize(
    ("begin", "end", "expected"),
    [
        (0, 2, [0, 1]),
        (255, 258, [255, 256, 257]),
        (299, None, [299]),
        (300, None, []),
        (298, 10**9, [298, 299]),
        (5, 5, []),
    ],
)
def test_reads_a_range(tmp_path: pathlib.Path, begin: int, end: int | None, expected: list[int]) -> None:
    reader = Reader(tmp_path, make_log(tmp_path, 300))
    assert [index for index, _ in reader.records(begin, end)] == expected


def test_reads_one_record(tmp_path: pathlib.Path) -> None:
    reader = Reader(tmp_path, make_log(tmp_path, 300))
    assert reader.record(299) == make(299)
    assert code_of(lambda: reader.record(300)) == "LM6038"


def test_reads_the_end(tmp_path: pathlib.Path) -> None:
    reader = Reader(tmp_path, make_log(tmp_path, 300))
    assert [index for index, _ in reader.tail(2)] == [298, 299]
    assert len(reader.tail(1000)) == 300


def test_finds_a_record_that_came_late(tmp_path: pathlib.Path) -> None:
    log = open_log(tmp_path)
    log.append([make(number) for number in range(1, 2000)])
    log.append([make(0)])
    log.append([make(number) for number in range(2000, 2600)])
    log.close()
    reader = Reader(tmp_path, (tmp_path / "key.pub").read_text())
    assert reader.find(id_of(0)) == (1999, make(0))


def test_finds_a_record_beside_a_broken_bundle(tmp_path: pathlib.Path) -> None:
    key = make_log(tmp_path, 1000)
    (tmp_path / "tile/entries/001").unlink()
    reader = Reader(tmp_path, key)
    assert reader.find(id_of(999))[0] == 999
    assert reader.find(id_of(0))[0] == 0
    assert code_of(lambda: reader.find(id_of(300))) == "LM6020"


def test_sees_one_checkpoint_while_the_log_grows(tmp_path: pathlib.Path) -> None:
    log = open_log(tmp_path)
    log.append([make(number) for number in range(200)])
    reader = Reader(tmp_path, (tmp_path / "key.pub").read_text())
    log.append([make(number) for number in range(200, 400)])
    assert [index for index, _ in reader.records()] == list(range(200))
    log.close()


def test_a_folder_without_a_checkpoint_is_no_log(tmp_path: pathlib.Path) -> None:
    key = make_log(tmp_path / "log")
    assert code_of(lambda: Reader(tmp_path, key)) == "LM6020"


def test_a_key_file_is_read_or_refused(tmp_path: pathlib.Path) -> None:
    key = make_log(tmp_path / "log")
    assert read_key(tmp_path / "log" / "key.pub") == key
    (tmp_path / "binary").write_bytes(b"\xff")
    (tmp_path / "text").write_text("key")
    assert code_of(lambda: read_key(tmp_path / "absent")) == "LM6053"
    assert code_of(lambda: read_key(tmp_path / "binary")) == "LM6053"
    assert code_of(lambda: read_key(tmp_path / "text")) == "LM6030"
