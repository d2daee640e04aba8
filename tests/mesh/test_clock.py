import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.clock import ManualClock, SystemClock, format_time, parse_time

NOW = dt.datetime(2026, 11, 24, 12, 0, tzinfo=dt.UTC)


def test_the_system_clock_is_aware_and_in_utc() -> None:
    assert SystemClock().now().tzinfo is dt.UTC


def test_a_manual_clock_moves_only_when_told() -> None:
    clock = ManualClock(NOW)
    assert clock.now() == clock.now() == NOW
    clock.advance(dt.timedelta(hours=-1))
    assert clock.now() == NOW - dt.timedelta(hours=1)
    with pytest.raises(ValueError, match="aware"):
        ManualClock(dt.datetime(2026, 1, 1))


@pytest.mark.parametrize(
    "text", ["", "2026-11-24", "2026-11-24T12:00:00", "12:00Z", "now", "2026-13-01T00:00:00Z", "20261124T120000"]
)
def test_a_timestamp_needs_date_time_and_offset(text: str) -> None:
    with pytest.raises(ValueError):
        parse_time(text)


def test_offsets_become_utc() -> None:
    assert parse_time("2026-11-24T13:00:00+01:00") == NOW
    assert format_time(NOW) == "2026-11-24T12:00:00.000000Z"


@given(st.datetimes(timezones=st.just(dt.UTC), min_value=dt.datetime(1000, 1, 1)))
def test_times_round_trip(moment: dt.datetime) -> None:
    assert parse_time(format_time(moment)) == moment
