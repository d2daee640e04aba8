import pathlib
import sqlite3
from collections.abc import Iterator

import pytest

from audit.merkle import leaf_hash
from audit.seen import FILE, WAITING, Seen, key_of
from tests.audit.making import make

LEAVES = {leaf_hash(make(number)): make(number) for number in range(20)}
ROOT = b"r" * 32


def opened(directory: pathlib.Path, size: int = 0, root: bytes = ROOT) -> tuple[Seen, list[int]]:
    """A file of a log of this size, and from which index on it was read."""
    asked: list[int] = []

    def entries(begin: int) -> Iterator[tuple[int, bytes]]:
        asked.append(begin)
        yield from ((place, make(place)) for place in range(begin, size))

    seen = Seen(directory)
    seen.open(size, lambda _: root, entries)
    return seen, asked


def places(seen: Seen) -> list[int]:
    found = seen.places(LEAVES)
    return sorted(place for several in found.values() for place in several)


@pytest.mark.parametrize("is_flushed", [False, True])
def test_says_where_a_record_may_stand(tmp_path: pathlib.Path, *, is_flushed: bool) -> None:
    seen, _ = opened(tmp_path)
    seen.extend(0, {leaf: data for leaf, data in LEAVES.items() if data != make(3)})
    if is_flushed:
        seen.flush(19, ROOT)
    assert places(seen) == [*range(19)]
    assert leaf_hash(make(3)) not in seen.places(LEAVES)
    seen.close()


def test_what_was_flushed_is_not_read_again(tmp_path: pathlib.Path) -> None:
    seen, asked = opened(tmp_path, 12)
    assert asked == [0]
    seen.flush(12, ROOT)
    seen.close()
    seen, asked = opened(tmp_path, 15)
    assert asked == [12]
    assert places(seen) == [*range(15)]
    seen.close()


def test_what_was_not_flushed_is_read_again(tmp_path: pathlib.Path) -> None:
    seen, _ = opened(tmp_path, 12)
    seen.close()
    seen, asked = opened(tmp_path, 12)
    assert asked == [0]
    assert places(seen) == [*range(12)]
    seen.close()


def test_the_file_of_another_log_is_made_again(tmp_path: pathlib.Path) -> None:
    for size, root in ((12, b"x" * 32), (5, ROOT)):
        seen, _ = opened(tmp_path, 12)
        seen.flush(12, ROOT)
        seen.close()
        seen, asked = opened(tmp_path, size, root)
        assert asked == [0]
        assert places(seen) == [*range(size)]
        seen.close()


@pytest.mark.parametrize("what", ["empty", "half", "no database", "another table"])
def test_a_file_that_is_none_is_made_again(tmp_path: pathlib.Path, what: str) -> None:
    seen, _ = opened(tmp_path, 12)
    seen.flush(12, ROOT)
    seen.close()
    path = tmp_path / FILE
    data = path.read_bytes()
    if what == "another table":
        path.unlink()
        with sqlite3.connect(path) as connection:
            connection.execute("CREATE TABLE state (one)")
            connection.execute("INSERT INTO state VALUES (1)")
        connection.close()
    else:
        path.write_bytes({"empty": b"", "half": data[: len(data) // 2], "no database": b"x" * len(data)}[what])
    seen, asked = opened(tmp_path, 12)
    assert asked == [0]
    assert places(seen) == [*range(12)]
    seen.close()


def test_a_file_that_breaks_in_use_is_made_again(tmp_path: pathlib.Path) -> None:
    seen, _ = opened(tmp_path, 12)
    seen.flush(12, ROOT)
    seen.close()
    seen, _ = opened(tmp_path, 12)
    path = tmp_path / FILE
    data = path.read_bytes()
    # every page but the first one, that says which tables there are
    path.write_bytes(data[:4096] + b"\xff" * (len(data) - 4096))
    with pytest.raises(OSError, match="malformed"):
        seen.places(LEAVES)
    asked: list[int] = []

    def entries(begin: int) -> Iterator[tuple[int, bytes]]:
        asked.append(begin)
        yield from ((place, make(place)) for place in range(begin, 12))

    seen.open(12, lambda _: ROOT, entries)
    assert asked == [0]
    assert places(seen) == [*range(12)]
    seen.close()


def test_records_that_share_a_key_are_found_as_far_as_somebody_looks(tmp_path: pathlib.Path) -> None:
    seen, _ = opened(tmp_path)
    leaf, data = leaf_hash(make(1)), make(1)
    for place in range(100):
        seen.add(leaf, data, place)
    assert len(seen.places({leaf: data})[leaf]) == 8
    seen.flush(100, ROOT)
    assert len(seen.places({leaf: data})[leaf]) == 8
    seen.close()


def test_memory_is_bounded_while_a_log_is_read_for_the_first_time(tmp_path: pathlib.Path) -> None:
    seen = Seen(tmp_path)
    size = 2 * WAITING + 5
    seen.open(size, lambda _: ROOT, lambda begin: ((place, b"%d" % place) for place in range(begin, size)))
    assert len(seen._waiting) == 5
    seen.close()
    asked: list[int] = []
    seen.open(size, lambda _: ROOT, lambda begin: asked.append(begin) or iter(()))
    assert asked == [2 * WAITING]
    seen.close()


def test_keys_begin_with_the_time_of_the_record() -> None:
    keys = [key_of(leaf, data) for leaf, data in LEAVES.items()]
    assert keys == sorted(keys)
    assert key_of(b"h" * 32, b"no record").endswith(b"h" * 8)
