import datetime as dt
import json
import pathlib
import signal
import subprocess
import sys

import pytest
import sqlalchemy as sa

from learner.history import History
from learner.store import Behind, Stored, read_standing
from limen import store
from limen.learning import Learning
from mesh.clock import ManualClock
from mesh.database import migrate, open_database, transaction
from mesh.flow import Flow
from tests.learner import worlds

SCRIPT = pathlib.Path(__file__).with_name("crashing_learner.py")


@pytest.fixture
def engine() -> sa.Engine:
    found = open_database("sqlite://")
    migrate(found, "limen")
    migrate(found, "learner")
    return found


def push(engine: sa.Engine, flows: list[Flow]) -> None:
    with transaction(engine) as connection:
        store.put_flows(connection, "n", [json.dumps(item.to_json()).encode() for item in flows])


def learned(engine: sa.Engine) -> Stored:
    with transaction(engine) as connection:
        return Stored.load(connection)


def test_every_flow_counts_once_over_batches_and_restarts(engine: sa.Engine) -> None:
    flows = worlds.shop(days=1)
    push(engine, flows[:90])
    clock = ManualClock(worlds.START)
    learning = Learning(engine, clock, batch=50)
    assert [learning.step() for _ in range(3)] == [50, 40, 0]
    push(engine, flows[90:])
    again = Learning(engine, clock, batch=1000)
    assert again.step() == len(flows) - 90
    # three batches, and what is too old was forgotten once
    assert (again.step(), again.came()) == (0, 4)
    history = History()
    history.add(flows)
    found = learned(engine)
    assert found.history.flows == history.flows == len(flows)
    assert {key: kind.good for key, kind in found.history.kinds.items()} == {
        key: kind.good for key, kind in history.kinds.items()
    }


def test_two_learners_never_count_a_flow_twice(engine: sa.Engine) -> None:
    flows = worlds.shop(days=1)
    push(engine, flows[:100])
    clock = ManualClock(worlds.START)
    first, second = Learning(engine, clock, batch=60), Learning(engine, clock, batch=60)
    assert second.step() == 60
    assert first.step() == 40
    push(engine, flows[100:120])
    assert second.step() == 20
    with pytest.raises(Behind):
        first.step()
    # it reads again, and goes on
    assert first.step() == 0
    push(engine, flows[120:130])
    assert first.step() == 10
    assert learned(engine).history.flows == 130


def test_flows_that_were_dropped_meanwhile_are_counted_as_lost(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "MAX_FLOWS", 20)
    flows = worlds.shop(days=1)
    learning = Learning(engine, ManualClock(worlds.START))
    push(engine, flows[:30])
    # those of before the first look are not lost: it begins there
    assert learning.step() == 20
    push(engine, flows[30:80])
    assert learning.step() == 20
    with transaction(engine) as connection:
        assert read_standing(connection)[0].lost == 30


def test_a_row_that_nobody_can_read_is_counted_and_stops_nothing(engine: sa.Engine) -> None:
    flows = worlds.shop(days=1)
    push(engine, flows[:3])
    with transaction(engine) as connection:
        connection.execute(sa.insert(store.FLOWS), [{"node": "n", "row": text} for text in ("{}", "[", "null")])
    push(engine, flows[3:5])
    assert Learning(engine, ManualClock(worlds.START)).step() == 8
    with transaction(engine) as connection:
        assert read_standing(connection)[0].odd == 3
    assert learned(engine).history.flows == 5


def test_a_push_that_comes_again_counts_once(engine: sa.Engine) -> None:
    flows = worlds.shop(days=1)
    learning = Learning(engine, ManualClock(worlds.START))
    for _ in range(2):
        push(engine, flows[:10])
    push(engine, flows[10:20])
    learning.step()
    assert learned(engine).history.flows == 20


def test_days_that_are_over_are_forgotten_once_a_day(engine: sa.Engine) -> None:
    clock = ManualClock(worlds.START)
    learning = Learning(engine, clock, days=30)
    push(engine, worlds.shop(days=2))
    learning.step()
    clock.advance(dt.timedelta(days=31))
    learning.step()
    learning.step()
    found = learned(engine)
    assert found.history.kinds
    assert min(minute // 1440 for kind in found.history.kinds.values() for minute in kind.sessions) == int(
        (worlds.START.timestamp() // 86_400) + 1
    )
    clock.advance(dt.timedelta(days=31))
    learning.step()
    assert not learned(engine).history.kinds


@pytest.mark.slow
@pytest.mark.system
def test_a_kill_before_any_statement_neither_loses_nor_doubles_a_flow(tmp_path: pathlib.Path) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path)], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    unharmed, *killed, last = rows
    assert len(killed) > 20
    assert {row["killed"] for row in killed} == {-signal.SIGKILL}
    assert last["killed"] == 0
    assert {row["again"] for row in rows} == {0}
    assert {row["held"] for row in rows} == {unharmed["held"]}
