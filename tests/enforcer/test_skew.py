import datetime as dt

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
