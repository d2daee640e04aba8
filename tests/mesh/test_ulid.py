import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.ulid import RANDOM_LETTERS, is_ulid, new_ulid, new_ulids, ulid_time

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


@given(st.lists(TIMES, max_size=5), st.binary(min_size=5 * RANDOM_LETTERS, max_size=5 * RANDOM_LETTERS))
def test_many_at_once_are_each_one_of_its_moment(moments: list[dt.datetime], random: bytes) -> None:
    found = new_ulids(moments, random)
    assert all(map(is_ulid, found))
    assert [name[:10] for name in found] == [new_ulid(moment, bytes(10))[:10] for moment in moments]


def test_every_letter_stands_for_as_many_bytes_as_any_other() -> None:
    moments = [NOW] * 16
    letters = "".join(name[10:] for name in new_ulids(moments, bytes(range(256))))
    assert sorted(letters) == sorted("0123456789ABCDEFGHJKMNPQRSTVWXYZ" * 8)


def test_too_few_random_bytes_make_no_ids() -> None:
    with pytest.raises(ValueError, match="16 random bytes"):
        new_ulids([NOW, NOW], bytes(31))
