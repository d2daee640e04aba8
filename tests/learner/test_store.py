import dataclasses
import datetime as dt
import itertools

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from learner.history import History
from learner.propose import propose_from
from learner.remembering import Memory, kind_from_row, read, write
from learner.store import Behind, Standing, Stored, kinds_after, prune, read_standing
from mesh.database import migrate, open_database, transaction
from mesh.flow import Flow
from tests.learner import worlds


@pytest.fixture
def engine() -> sa.Engine:
    return database()


def database() -> sa.Engine:
    found = open_database("sqlite://")
    migrate(found, "learner")
    return found


def learn(engine: sa.Engine, stored: Stored, flows: list[Flow], number: int) -> None:
    stored.history.add(flows)
    standing = Standing(version=stored.standing.version, flows=number)
    with transaction(engine) as connection:
        stored.save(connection, standing)
    stored.saved(standing)


def load(engine: sa.Engine) -> Stored:
    with transaction(engine) as connection:
        return Stored.load(connection)


def whole(engine: sa.Engine) -> History:
    """Everything, as who asks the server gets it."""
    with transaction(engine) as connection:
        _, head = read_standing(connection)
        history = History()
        history.first, history.last = head["first"], head["last"]
        history.flows, history.unattributed = head["flows"], head["unattributed"]
        after = ""
        while page := kinds_after(connection, after, 3):
            after = page[-1][0]
            for _, row in page:
                history.restore(kind_from_row(row[:-1])[0])
    return history


def lines(history: History) -> list[str]:
    """A history, whatever the order of its kinds and their sessions."""
    for kind in history.kinds.values():
        kind.sessions = dict(sorted(kind.sessions.items()))
        kind.replicas = dict(sorted(kind.replicas.items()))
    return sorted(write(Memory(history)))


@settings(deadline=None, max_examples=12)
@given(st.lists(st.integers(0, 1000), max_size=6), st.integers(0, 40), st.booleans())
def test_batches_and_restarts_change_nothing_whatever_the_order(cuts: list[int], shift: int, restarts: bool) -> None:
    engine = database()
    flows = [*worlds.shop(days=4), *worlds.prober(), *worlds.lone_replica()]
    flows.sort(key=lambda item: item.start)
    # some come late: by hours, and by days
    flows = flows[::7] + [item for at, item in enumerate(flows) if at % 7]
    flows = flows[shift:] + flows[:shift]
    stored = load(engine)
    places = sorted({0, len(flows), *(cut % (len(flows) + 1) for cut in cuts)})
    for begin, end in itertools.pairwise(places):
        learn(engine, stored, flows[begin:end], end)
        if restarts:
            stored = load(engine)
    history = History()
    history.add(flows)
    assert lines(whole(engine)) == lines(history)
    assert propose_from(whole(engine)).to_json() == propose_from(history).to_json()
    engine.dispose()


def test_what_is_in_memory_is_bounded_by_days(engine: sa.Engine) -> None:
    stored = load(engine)
    for day in range(20):
        moved = dt.timedelta(days=day)
        learn(engine, stored, [_moved(item, moved) for item in worlds.shop(days=1)], day + 1)
        kept = {minute // 1440 for kind in stored.history.kinds.values() for minute in kind.sessions}
        assert len(kept) <= 4
    assert max(len(kind.active) for kind in whole(engine).kinds.values()) >= 20


def test_of_two_learners_one_is_behind_and_counts_nothing_twice(engine: sa.Engine) -> None:
    first, second = load(engine), load(engine)
    learn(engine, first, worlds.shop(days=1), 1)
    with pytest.raises(Behind):
        learn(engine, second, worlds.shop(days=1), 1)
    again, third = load(engine), load(engine)
    learn(engine, again, worlds.prober(), 2)
    with pytest.raises(Behind):
        learn(engine, third, worlds.prober(), 2)
    history = History()
    history.add([*worlds.shop(days=1), *worlds.prober()])
    assert lines(whole(engine)) == lines(history)
    with transaction(engine) as connection:
        assert read_standing(connection)[0].flows == 2


def test_what_is_older_than_is_remembered_goes(engine: sa.Engine) -> None:
    stored = load(engine)
    flows = worlds.shop(days=3)
    learn(engine, stored, flows, 1)
    first = int(min(item.start for item in flows).timestamp() // 86_400)
    with transaction(engine) as connection:
        assert prune(connection, stored.standing, stored.history, first + 1) == 0
    stored = load(engine)
    assert stored.standing.pruned_day == first + 1
    days = {minute // 1440 for kind in whole(engine).kinds.values() for minute in kind.sessions}
    assert min(days) == first + 1
    with transaction(engine) as connection:
        assert prune(connection, stored.standing, stored.history, first + 500) == len(stored.history.kinds)
    assert not load(engine).history.kinds


def test_the_rows_are_those_of_a_history_file(engine: sa.Engine) -> None:
    learn(engine, load(engine), worlds.shop(days=1), 1)
    history = whole(engine)
    assert lines(read(list(write(Memory(history)))).history) == lines(history)


def _moved(item: Flow, by: dt.timedelta) -> Flow:
    return dataclasses.replace(item, start=item.start + by, end=item.end + by if item.end is not None else None)
