import asyncio
import json
import os
import pathlib
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import prometheus_client
import pytest
import sqlalchemy as sa

from limen import store
from limen.learned import Learned, keep_learning
from limen.learning import Learning
from mesh.clock import ManualClock
from mesh.database import migrate, open_database, sqlite_url, transaction
from mesh.flow import Flow
from tests.learner import worlds

PATIENT_S = 120.0


def database(url: str) -> sa.Engine:
    found = open_database(url)
    migrate(found, "limen")
    migrate(found, "learner")
    return found


def push(engine: sa.Engine, flows: list[Flow]) -> None:
    with transaction(engine) as connection:
        store.put_flows(connection, "n", [json.dumps(item.to_json()).encode() for item in flows])


def test_the_standing_says_what_waits_and_what_was_learned() -> None:
    engine = database("sqlite://")
    learned = Learned(engine)
    assert not learned.measure()
    assert learned.standing()["history"] is None
    flows = worlds.shop(days=1)
    push(engine, flows[:40])
    assert learned.measure()
    learning = Learning(engine, ManualClock(worlds.START), batch=30)
    learning.step()
    found = learned.standing()
    assert (found["waiting"], found["history"]["flows"]) == (10, 30)
    assert learned.measure()
    assert prometheus_client.REGISTRY.get_sample_value("limen_learner_waiting_flows") == 10
    assert prometheus_client.REGISTRY.get_sample_value("limen_learner_flows") == 30
    page = learned.kinds(after="", limit=2)
    rest = learned.kinds(after=page[-1][0], limit=100)
    assert len(page) == 2
    assert len({row[0] for row in [*page, *rest]}) == len(page) + len(rest)
    engine.dispose()


def children() -> list[int]:
    """The learning processes of this one."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_bytes().split(b"\0")
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue
        if b"limen.learner" in words and parent == os.getpid():
            found.append(int(path.name))
    return found


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENT_S):
        while not condition():
            await asyncio.sleep(0.05)


@pytest.mark.slow
@pytest.mark.system
def test_the_process_begins_with_the_first_flow_comes_back_when_it_is_killed_and_ends_with_the_server(
    tmp_path: pathlib.Path,
) -> None:
    engine = database(sqlite_url(tmp_path / "db"))
    learned = Learned(engine)
    flows = worlds.shop(days=1)

    def held() -> int:
        found = learned.standing()["history"]
        return 0 if found is None else int(found["flows"])

    async def scenario() -> None:
        stop = asyncio.Event()
        with ThreadPoolExecutor(1) as worker:
            task = asyncio.ensure_future(keep_learning(learned, 400, worker, stop))
            # a look at the database, and nothing to learn from
            await asyncio.get_running_loop().run_in_executor(worker, learned.measure)
            assert children() == []
            push(engine, flows[:40])
            await until(lambda: held() == 40)
            (first,) = children()
            os.kill(first, signal.SIGKILL)
            push(engine, flows[40:])
            await until(lambda: held() == len(flows))
            assert first not in children()
            stop.set()
            await task
        assert children() == []

    asyncio.run(scenario())
    engine.dispose()


def test_for_no_days_nothing_is_learned() -> None:
    engine = database("sqlite://")
    with ThreadPoolExecutor(1) as worker:
        asyncio.run(keep_learning(Learned(engine), 0, worker, asyncio.Event()))
    engine.dispose()
