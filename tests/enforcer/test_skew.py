import datetime as dt

import pytest

from enforcer.identity import half_life
from enforcer.skew import ServerClock
from mesh.clock import ManualClock

NOW = dt.datetime(2026, 11, 24, 12, 0, tzinfo=dt.UTC)
S = dt.timedelta(seconds=1)


def test_the_skew_is_against_the_middle_of_the_call() -> None:
    here = ManualClock(NOW)
    clock = ServerClock(here)
    assert clock.now() == NOW
    clock.heard(NOW + 61 * S, NOW, NOW + 2 * S)
    assert (clock.skew, clock.error) == (-60 * S, S)
    assert (clock.now(), clock.local()) == (NOW + 60 * S, NOW)
    # a suspended host wakes up: its clock jumps, the difference stays
    here.advance(dt.timedelta(hours=9))
    assert clock.now() == NOW + dt.timedelta(hours=9) + 60 * S


def test_a_slow_call_and_one_during_which_the_clock_was_set_say_nothing() -> None:
    clock = ServerClock(ManualClock(NOW))
    clock.heard(NOW + 99 * S, NOW, NOW + 6 * S)
    clock.heard(NOW + 99 * S, NOW, NOW - S)
    assert not clock.is_known


@pytest.mark.parametrize("fast", [-300, 0, 29], ids=["five-minutes-slow", "right", "29-seconds-fast"])
def test_an_svid_of_one_minute_is_renewed_for_hours_with_time_to_spare(fast: int) -> None:
    """Six hours of one-minute SVIDs, looked at every second as the agent does."""
    server = NOW
    here = ManualClock(NOW + fast * S)
    clock = ServerClock(here)
    clock.heard(server, here.now(), here.now())
    ends, renewals, least = server, 0, 60 * S
    renew_at = clock.now()
    for _ in range(6 * 3600):
        if clock.now() >= renew_at:
            least = min(least, ends - server) if renewals else least
            ends = server + 60 * S
            renew_at = half_life(clock.now(), ends)
            renewals += 1
            assert clock.misfit(server - 300 * S, ends) is None
        assert server < ends
        server += S
        here.advance(S)
    assert least >= 25 * S
    assert 6 * 3600 / 34 <= renewals <= 6 * 3600 / 27


def test_a_clock_that_is_too_wrong_is_said_with_both_times() -> None:
    clock = ServerClock(ManualClock(NOW + 61 * S))
    clock.heard(NOW, NOW + 61 * S, NOW + 61 * S)
    problem = clock.misfit(NOW - 300 * S, NOW + 60 * S)
    assert problem is not None
    assert "12:01:01" in problem.message
    assert "12:00:00" in problem.message
    assert ServerClock(ManualClock(NOW - 301 * S)).misfit(NOW - 300 * S, NOW) is not None
