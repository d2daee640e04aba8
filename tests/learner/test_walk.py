import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner import walk


def form(data: np.ndarray) -> walk.Format:
    """Records of one byte of length (the whole record's, at least 2) and a mark."""

    def following(places: np.ndarray) -> np.ndarray:
        return places + np.maximum(data[places].astype(np.int64), 2)

    def looks_right(places: np.ndarray) -> np.ndarray:
        return (data[places] >= 2) & (data[np.minimum(places + 1, len(data) - 1)] == 0xAA)

    return walk.Format(following, looks_right, 2)


def sequential(data: bytes) -> tuple[list[int], int]:
    places, at = [], 0
    while at + 2 <= len(data) and at + max(data[at], 2) <= len(data):
        places.append(at)
        at += max(data[at], 2)
    return places, at


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk, "PART_BYTES", 64)
    monkeypatch.setattr(walk, "LOOK_BYTES", 16)


def test_many_cursors_find_what_one_finds() -> None:
    data = b"".join(bytes([size, 0xAA]) + bytes(size - 2) for size in [3, 9, 14, 2, 5, 11] * 500)
    places, end = walk.walk(form(np.frombuffer(data, np.uint8)), len(data))
    assert (places.tolist(), end) == sequential(data)
    assert len(places) == 3000


def test_beginnings_that_were_made_up_do_not_mislead() -> None:
    # every payload is full of what looks like records
    data = b"".join(bytes([size, 0xAA]) + (b"\x04\xaa" * size)[: size - 2] for size in [31, 14, 7] * 400)
    places, end = walk.walk(form(np.frombuffer(data, np.uint8)), len(data))
    assert (places.tolist(), end) == sequential(data)


def test_a_last_record_that_is_not_whole_is_left() -> None:
    data = bytes([4, 0xAA, 0, 0, 9, 0xAA])
    places, end = walk.walk(form(np.frombuffer(data, np.uint8)), len(data))
    assert (places.tolist(), end) == ([0], 4)
    assert walk.walk(form(np.frombuffer(b"\x04", np.uint8)), 1)[1] == 0


@given(st.lists(st.integers(2, 40), max_size=200), st.binary(max_size=64), st.integers(0, 40))
def test_the_walk_is_the_sequential_one_whatever_the_bytes(sizes: list[int], fill: bytes, cut: int) -> None:
    fill = fill or b"\0"
    data = b"".join(struct.pack("BB", size, 0xAA) + (fill * 40)[: size - 2] for size in sizes)
    data = data[: len(data) - cut] if cut else data
    places, end = walk.walk(form(np.frombuffer(data or b"\0", np.uint8)), len(data))
    assert (places.tolist(), end) == sequential(data)
