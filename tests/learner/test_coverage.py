import dataclasses
import datetime as dt

import pytest

from learner.coverage import Coverage, Unit, measure, tally, versions_of
from learner.history import History
from mesh.flow import Flow
from tests.learner.worlds import START, flow


def at(kind: int, days: float, version: str | None = None) -> Flow:
    return flow("a", "b", START + dt.timedelta(days=days), path=f"/w{chr(97 + kind)}", version=version)


def measured(flows: list[Flow], denied: str = "", looks: int = 1, restart: float = float("-inf")) -> Coverage:
    history = History()
    history.add(flows)
    units = [Unit(kind, (kind.source, kind.shape), kind.shape == denied) for kind in history.kinds.values()]
    return measure(tally(units), history.last, looks=looks, restart=restart)


def test_nothing_watched_says_nothing() -> None:
    found = measured([])
    assert (found.sessions, found.session_bound_95, found.day_bound_95) == (0, 1.0, 1.0)


def test_less_than_two_days_say_nothing_about_the_next() -> None:
    found = measured([at(0, n / 1000) for n in range(500)])
    assert found.days == 1
    assert found.day_bound_95 == 1.0
    assert found.session_bound_95 < 0.02


def test_quiet_days_bound_the_next_one() -> None:
    found = measured([at(0, day + hour / 24) for day in range(30) for hour in range(10)])
    assert found.days == 30
    assert 0.1 < found.day_bound_95 < 0.3
    assert found.once.day < found.day_bound_95
    assert found.expected_new_per_day == 0


def test_a_denied_session_is_novel_whatever_the_reason() -> None:
    quiet = [at(0, n / 1000) for n in range(400)]
    one = [*quiet, at(1, 0.4)]
    assert measured(one, denied="wb").novel_sessions == 1
    assert measured(one, denied="wb").session_bound_95 > measured(quiet).session_bound_95


def test_kinds_seen_on_one_day_say_how_many_come_each_day() -> None:
    found = measured([at(day, day) for day in range(10)])
    assert found.expected_new_per_day == 1.0
    assert found.kinds_at_least > 10
    assert found.more > 0


def test_guesses_that_nobody_answered_predict_no_kinds_and_still_count_as_novel() -> None:
    quiet = [at(0, day) for day in range(10)]
    guesses = [dataclasses.replace(at(n, 4.5), status=404) for n in range(1, 20)]
    found, without = measured([*quiet, *guesses]), measured(quiet)
    assert (found.expected_new_per_day, found.more, found.kinds) == (0, 0, without.kinds)
    assert found.sessions - without.sessions == len(guesses)
    assert found.session_bound_95 > without.session_bound_95


def test_a_new_version_begins_the_count_anew() -> None:
    old = [at(0, day + hour / 24, "v1") for day in range(10) for hour in range(10)]
    new = [at(0, 10 + day + hour / 24, "v2") for day in range(3) for hour in range(10)]
    assert measured(old).days == 10
    found = measured([*old, *new])
    assert (found.days, found.sessions) == (3, 30)
    assert found.novel_sessions == 0
    assert found.versions[0][0] == "v2"


def test_a_rule_taken_back_restarts_the_count() -> None:
    flows = [at(0, day + hour / 24) for day in range(10) for hour in range(10)]
    restart = (START + dt.timedelta(days=6)).timestamp()
    found = measured(flows, restart=restart)
    assert found.days == 4
    assert found.session_bound_95 > measured(flows).session_bound_95


@pytest.mark.parametrize("days", [8, 14, 30])
def test_who_looks_again_and_again_gets_the_wider_bound(days: int) -> None:
    flows = [at(0, day + hour / 24) for day in range(days) for hour in range(10)]
    once, often = measured(flows), measured(flows, looks=10)
    assert often.often.day > once.often.day > once.once.day
    assert dataclasses.replace(once, often=often.often) == often


def test_a_version_began_when_its_caller_began_it_whomever_it_called_first() -> None:
    rows = [at(0, day + hour / 24, "v1") for day in range(4) for hour in range(10)]
    rows += [at(0, 4 + day + hour / 24, "v2") for day in range(6) for hour in range(10)]
    rare = [
        flow("a", "c", START + dt.timedelta(days=1), version="v1"),
        flow("a", "c", START + dt.timedelta(days=9, hours=9), version="v2"),
    ]
    history = History()
    history.add([*rows, *rare])
    units = [Unit(kind, (kind.destination, kind.shape), is_denied=False) for kind in history.kinds.values()]
    to_c = [unit for unit in units if unit.kind.destination.endswith("/c")]
    assert tally(to_c, versions_of(units)).begin == (START + dt.timedelta(days=4)).timestamp()
