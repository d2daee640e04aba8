"""Moments written with what those of one second share are written as each is alone."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mesh.clock import format_time
from mesh.moments import Moments
from mesh.ulid import new_ulid

ZONES = st.sampled_from([dt.UTC, dt.timezone(dt.timedelta(hours=2)), dt.timezone(dt.timedelta(microseconds=5))])
ANY = st.datetimes(dt.datetime(1970, 1, 2), dt.datetime(9999, 12, 30), timezones=ZONES)
START = dt.datetime(2026, 11, 24, 12, tzinfo=dt.UTC)
NEAR = st.integers(-3_000_000, 3_000_000).map(lambda number: START + dt.timedelta(microseconds=number))
ENDS = dt.datetime(1970, 1, 1, tzinfo=dt.UTC), dt.datetime.max.replace(tzinfo=dt.UTC)


@given(st.lists(ANY | NEAR, max_size=20))
@example([*ENDS, ENDS[0]])
def test_any_moments_in_any_order_are_written_as_each_is_alone(moments: list[dt.datetime]) -> None:
    written = Moments()
    for moment in moments:
        assert written.write(moment) == (new_ulid(moment, bytes(10))[:10], format_time(moment))


def test_each_millisecond_of_seconds_whose_lowest_ten_bits_run_over_is_told_apart() -> None:
    written = Moments()
    moments = [START + dt.timedelta(milliseconds=number) for number in range(4096)]
    assert [written.write(moment)[0] for moment in moments] == [new_ulid(moment, bytes(10))[:10] for moment in moments]


def test_a_moment_before_1970_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="48 bits"):
        Moments().write(dt.datetime(1960, 1, 1, tzinfo=dt.UTC))
