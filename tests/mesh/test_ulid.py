import datetime as dt
import hashlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.ulid import RANDOM_LETTERS, is_ulid, new_ulid, random_letters, time_letters, ulid_time

NOW = dt.datetime(2026, 11, 24, 12, 0, tzinfo=dt.UTC)
TIMES = st.datetimes(dt.datetime(1970, 1, 1), dt.datetime(9999, 1, 1), timezones=st.just(dt.UTC))


@given(TIMES, st.binary(min_size=10, max_size=10))
def test_the_time_can_be_read_back_to_the_millisecond(now: dt.datetime, random: bytes) -> None:
    text = new_ulid(now, random)
    assert is_ulid(text)
    assert dt.timedelta() <= now - ulid_time(text) < dt.timedelta(milliseconds=1)


@given(TIMES, TIMES)
def test_they_sort_by_time(one: dt.datetime, two: dt.datetime) -> None:
    a, b = new_ulid(one, bytes(10)), new_ulid(two, bytes(10))
    assert (a < b) == (ulid_time(a) < ulid_time(b))


def test_a_known_one() -> None:
    assert new_ulid(dt.datetime(1970, 1, 1, tzinfo=dt.UTC), bytes(10)) == "0" * 26
    assert new_ulid(dt.datetime(1970, 1, 1, 0, 0, 0, 1000, tzinfo=dt.UTC), b"\xff" * 10) == "0000000001" + "Z" * 16


@pytest.mark.parametrize("text", ["", "0" * 25, "8" + "0" * 25, "I" + "0" * 25, "o" * 26, "0" * 27, "0" * 25 + "\n"])
def test_other_texts_are_none(text: str) -> None:
    assert not is_ulid(text)
    with pytest.raises(ValueError, match="26 characters"):
        ulid_time(text)


def test_random_bytes_are_ten_and_times_after_1970() -> None:
    with pytest.raises(ValueError, match="10 random bytes"):
        new_ulid(NOW, bytes(9))
    with pytest.raises(ValueError, match="48 bits"):
        new_ulid(dt.datetime(1960, 1, 1, tzinfo=dt.UTC), bytes(10))


@given(st.from_regex(r"[0-7][0-9A-HJKMNP-TV-Z]{25}", fullmatch=True))
def test_any_ulid_has_a_time_or_one_beyond_the_year_9999(text: str) -> None:
    try:
        assert ulid_time(text).tzinfo is dt.UTC
    except ValueError as err:
        assert "9999" in str(err)


def test_a_time_beyond_the_year_9999_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="9999"):
        ulid_time("7" + "Z" * 25)


def test_the_letters_that_are_drawn_for_many_make_ids_and_are_drawn_anew_when_they_are_used_up() -> None:
    asked: list[int] = []

    def random(count: int) -> bytes:
        asked.append(count)
        return hashlib.shake_128(str(len(asked)).encode()).digest(count)

    drawn = [*itertools.islice(random_letters(random), 1000)]
    assert all(is_ulid(time_letters(0) + letters) for letters in drawn)
    assert len(set(drawn)) == 1000
    assert sum(asked) >= 1000 * RANDOM_LETTERS
    assert len(asked) < 10


def test_every_letter_stands_for_as_many_bytes_as_any_other() -> None:
    drawn = random_letters(lambda count: bytes(range(256)) * (count // 256))
    letters = "".join(itertools.islice(drawn, 16))
    assert sorted(letters) == sorted("0123456789ABCDEFGHJKMNPQRSTVWXYZ" * 8)
