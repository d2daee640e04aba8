import datetime as dt

from learner.coverage import measure
from learner.sessions import Session
from tests.learner.worlds import START


def session(kind: int, days: float, *, denied: bool = False) -> Session:
    return Session(atom=("a", "b", 1, "GET", str(kind)), start=START + dt.timedelta(days=days), is_denied=denied)


def test_nothing_watched_says_nothing() -> None:
    found = measure([])
    assert (found.sessions, found.session_bound_95, found.day_bound_95) == (0, 1.0, 1.0)


def test_less_than_two_days_say_nothing_about_the_next() -> None:
    found = measure([session(0, n / 1000) for n in range(500)])
    assert found.days == 1
    assert found.day_bound_95 == 1.0
    assert found.session_bound_95 < 0.02


def test_quiet_days_bound_the_next_one() -> None:
    sessions = [session(0, day + hour / 24) for day in range(30) for hour in range(10)]
    found = measure(sessions)
    assert found.days == 30
    assert 0.1 < found.day_bound_95 < 0.3
    assert found.expected_new_per_day == 0


def test_a_denied_session_is_novel_whatever_the_reason() -> None:
    quiet = [session(0, n / 1000) for n in range(400)]
    one = [*quiet[:-1], session(0, 0.4, denied=True)]
    assert measure(one).session_bound_95 > measure(quiet).session_bound_95


def test_kinds_seen_on_one_day_say_how_many_come_each_day() -> None:
    sessions = [session(day, day) for day in range(10)]
    found = measure(sessions)
    assert found.expected_new_per_day == 1.0
    assert found.kinds_at_least > 10
