import dataclasses
import datetime as dt
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner import history
from learner.history import BEYOND, GAP_S, MAX_FAILED_KINDS, History, shape_of
from mesh.flow import Flow
from tests.learner import worlds
from tests.learner.worlds import START, flow


def folded(flows: list[Flow]) -> History:
    history = History()
    history.add(flows)
    return history


def sessions(*flows: Flow) -> int:
    return sum(sum(kind.sessions.values()) for kind in folded(list(flows)).kinds.values())


def at(seconds: float) -> dt.datetime:
    return START + dt.timedelta(seconds=seconds)


def test_repeats_are_one_session_however_many() -> None:
    assert sessions(*(flow("a", "b", at(n / 10)) for n in range(500))) == 1


def test_a_pause_begins_another() -> None:
    assert sessions(flow("a", "b", at(0)), flow("a", "b", at(GAP_S))) == 1
    assert sessions(flow("a", "b", at(0)), flow("a", "b", at(GAP_S + 1))) == 2


def test_callers_and_kinds_do_not_cut_each_other() -> None:
    mixed = [flow(name, "b", at(n), path=path) for n in range(20) for name in ("x", "y") for path in ("/p", "/q")]
    assert sessions(*mixed) == 4


def test_what_comes_late_is_no_session_more_where_one_is_counted() -> None:
    rows = [flow("a", "b", at(100.0 * n)) for n in range(20)]
    assert sessions(*rows) == 20
    assert sessions(*rows, *rows) == 20


@given(st.randoms(use_true_random=False))
def test_order_changes_no_count_but_may_lower_that_of_sessions(rng: random.Random) -> None:
    rows = worlds.shop(days=1)
    shuffled = list(rows)
    rng.shuffle(shuffled)
    ordered, mixed = folded(rows), folded(shuffled)
    assert {key: (kind.good, kind.first, kind.last) for key, kind in ordered.kinds.items()} == {
        key: (kind.good, kind.first, kind.last) for key, kind in mixed.kinds.items()
    }
    for key, kind in mixed.kinds.items():
        assert 1 <= sum(kind.sessions.values()) <= sum(ordered.kinds[key].sessions.values())


def test_identifiers_are_one_shape_and_words_are_not() -> None:
    assert shape_of("/orders/17/x", "http") == ("orders/{int}/x", ("17",))
    assert shape_of("/a/../b", "http")[0] == "b"
    assert shape_of("/a/%2e%2e/../..", "http")[0].startswith("?")
    assert shape_of("/pkg.S/M", "grpc") == ("/pkg.S/M", ())
    assert shape_of("/{int}", "http")[0] != shape_of("/1", "http")[0]


def test_a_source_fills_its_own_share_and_nobody_elses() -> None:
    noise = [
        flow("evil", "orders", at(n), path=f"/w{'abcdefghij'[n % 10]}{n:x}z", status=404)
        for n in range(MAX_FAILED_KINDS * 2)
    ]
    quiet, noisy = folded(worlds.shop()), folded([*noise, *worlds.shop()])
    assert set(quiet.kinds) <= set(noisy.kinds)
    assert len(noisy.kinds) - len(quiet.kinds) == MAX_FAILED_KINDS + 1
    assert any(kind.shape == BEYOND for kind in noisy.kinds.values())


def test_a_scan_of_all_ports_takes_a_bounded_share() -> None:
    scan = [
        flow("evil", "orders", at(n), destination_port=n + 1, protocol="tcp", established=False) for n in range(5000)
    ]
    assert len(folded(scan).kinds) == MAX_FAILED_KINDS + 1


def test_replicas_that_a_source_makes_up_take_a_bounded_share_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "MAX_USES", 20)
    noise = [flow("scanner", "db", START, replica=f"r{n}") for n in range(100)]
    found = folded([*noise, flow("scanner", "web", START, replica="r7"), flow("a", "db", START, replica="x")])
    db, web, mine = found.kinds.values()
    assert len(db.replicas) == 21
    assert db.replicas[BEYOND].good == 80
    assert set(web.replicas) == {"r7"}
    assert set(mine.replicas) == {"x"}
    # the share is known to who begins anew
    again = History()
    for kind in found.kinds.values():
        again.restore(kind)
    again.add([flow("scanner", "db", START, replica="another"), flow("a", "db", START, replica="y")])
    assert len(db.replicas) == 21
    assert set(mine.replicas) == {"x", "y"}


def test_decisions_are_kept_as_examples() -> None:
    found = folded([dataclasses.replace(flow("a", "b", at(n)), decision=f"d{n}") for n in range(9)])
    assert next(iter(found.kinds.values())).decisions == ["d0", "d1", "d2"]


def test_what_goes_on_without_a_pause_counts_every_hour_and_on_every_day() -> None:
    rows = [flow("a", "b", at(30.0 * number)) for number in range(3 * 2880)]
    (kind,) = folded(rows).kinds.values()
    assert len(kind.days()) == 4
    assert 60 <= sum(kind.sessions.values()) <= 260
    assert {minute // 60 for minute in kind.sessions} == set(range(int(kind.first // 3600), int(kind.last // 3600) + 1))


def test_a_connection_of_days_is_use_on_each_of_them() -> None:
    (kind,) = folded([flow("a", "b", START, end=(START + dt.timedelta(days=5)).isoformat())]).kinds.values()
    assert len(kind.days()) == 6
