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


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("2026-W48-2T12:00:00Z", id="week"),
        pytest.param("20261124T120000.000Z", id="basic-form"),
        pytest.param("2026-11-24é12:00:00Z", id="separator"),
        pytest.param("2026-11-24T12:00+00:00", id="no-seconds"),
        pytest.param("2026-11-24T12:00:00,5Z", id="comma"),
        pytest.param("2026-11-24T12:00:00Z\n", id="line-end"),
        pytest.param("2026-11-24T24:00:00Z", id="hour-24"),
        pytest.param("2026-11-24T12:00:00+24:00", id="offset-24"),
        pytest.param("２０２６-11-24T12:00:00Z", id="other-digits"),  # noqa: RUF001  that is the point
        pytest.param("0001-01-01T00:00:00+10:00", id="before-the-year-1"),
        pytest.param("9999-12-31T23:59:59-10:00", id="after-9999"),
        pytest.param("0000-01-01T00:00:00Z", id="year-0"),
    ],
)
def test_only_rfc_3339_is_a_timestamp(text: str) -> None:
    with pytest.raises(ValueError):
        parse_time(text)


@pytest.mark.parametrize(
    "text", ["2026-11-24t12:00:00z", "2026-11-24 12:00:00Z", "2026-11-24T12:00:00.000000000-00:00"]
)
def test_every_form_of_rfc_3339_is_read(text: str) -> None:
    assert parse_time(text) == NOW


@given(st.text(max_size=40) | st.from_regex(r"[0-9]{4}-[0-1][0-9]-[0-3][0-9]T[0-9:.+Z-]{6,20}", fullmatch=True))
def test_any_text_is_a_time_or_a_value_error(text: str) -> None:
    try:
        assert parse_time(text).tzinfo is dt.UTC
    except ValueError as err:
        assert str(err)


def test_early_years_round_trip() -> None:
    early = dt.datetime(5, 1, 1, tzinfo=dt.UTC)
    assert format_time(early) == "0005-01-01T00:00:00.000000Z"
    assert parse_time(format_time(early)) == early
