import json
import os
import pathlib
import signal
import subprocess
import sys
import threading

import pytest
import sqlalchemy as sa

from learner.store import Behind, read_standing
from limen import store
from limen.learner import run
from limen.learning import Learning
from mesh.clock import ManualClock
from mesh.database import migrate, open_database, sqlite_url, transaction
from mesh.flow import Flow
from tests.audit.receivers import until
from tests.learner import worlds


def database(path: pathlib.Path) -> sa.Engine:
    found = open_database(sqlite_url(path))
    migrate(found, "limen")
    migrate(found, "learner")
    return found


def push(engine: sa.Engine, flows: list[Flow]) -> None:
    with transaction(engine) as connection:
        store.put_flows(connection, "n", [json.dumps(item.to_json()).encode() for item in flows])


def came(engine: sa.Engine) -> int:
    with transaction(engine) as connection:
        return read_standing(connection)[0].flows


class Scripted(Learning):
    """A learner whose steps are given; the last one stops it."""

    def __init__(self, engine: sa.Engine, stop: threading.Event, steps: list[object]) -> None:
        super().__init__(engine, ManualClock(worlds.START))
        self._stop, self.steps, self.looks = stop, steps, 0

    def step(self) -> int:
        found = self.steps.pop(0)
        if not self.steps:
            self._stop.set()
        if isinstance(found, Exception):
            raise found
        assert isinstance(found, int)
        return found

    def came(self) -> int:
        self.looks += 1
        return 7


def test_another_learner_is_left_the_work_and_a_database_is_waited_for(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("limen.learner._STAND_BY_S", 0.0)
    monkeypatch.setattr("limen.learner.wait_after", lambda _: 0.0)
    stop = threading.Event()
    away = sa.exc.OperationalError("x", {}, Exception("away"))
    learning = Scripted(database(tmp_path / "db"), stop, [3, Behind(), away, away, 2, 1])
    run(learning, stop)
    assert learning.steps == []
    # it looked twice, and saw nobody move
    assert learning.looks == 2


@pytest.mark.slow
@pytest.mark.system
def test_the_process_learns_what_comes_in_and_ends_when_it_is_asked_to(tmp_path: pathlib.Path) -> None:
    engine = database(tmp_path / "db")
    flows = worlds.shop(days=1)
    push(engine, flows[:50])
    environment = {**os.environ, "LIMEN_DATABASE": sqlite_url(tmp_path / "db")}
    process = subprocess.Popen([sys.executable, "-m", "limen.learner"], env=environment, stdout=subprocess.DEVNULL)
    try:
        until(lambda: came(engine) == 50, "what was there")
        push(engine, flows[50:])
        until(lambda: came(engine) == len(flows), "what came later")
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 0
    engine.dispose()
