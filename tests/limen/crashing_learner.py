"""A learner that is killed, by SIGKILL, before its first, second, third … statement, and then goes on to the end.

Prints one JSON line for each kill: how the first run ended, and what the database holds after the second. The last run
is the one that nobody killed. Usage: crashing_learner.py DIRECTORY
"""

import hashlib
import json
import os
import pathlib
import shutil
import signal
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

import sqlalchemy as sa

from limen import store
from limen.learning import Learning
from mesh.clock import ManualClock
from mesh.database import migrate, open_database, sqlite_url, transaction
from tests.learner import worlds

BATCH = 120


def prepare(path: pathlib.Path) -> None:
    """A database with flows that nobody learned from; some come late."""
    engine = open_database(sqlite_url(path))
    migrate(engine, "limen")
    migrate(engine, "learner")
    flows = [*worlds.shop(days=1), *worlds.prober()]
    flows.sort(key=lambda item: item.start)
    flows = [*flows[1::2], *flows[::2]]
    with transaction(engine) as connection:
        store.put_flows(connection, "n", [json.dumps(item.to_json()).encode() for item in flows])
    engine.dispose()


def learn(path: pathlib.Path, kill_at: int) -> None:
    """Learn everything; die before a statement."""
    engine = open_database(sqlite_url(path))
    left = kill_at

    def tick(*_: object) -> None:
        nonlocal left
        left -= 1
        if left == -1:
            os.kill(os.getpid(), signal.SIGKILL)

    for event in ("before_cursor_execute", "begin", "commit"):
        sa.event.listen(engine, event, tick)
    learning = Learning(engine, ManualClock(worlds.START), batch=BATCH)
    while learning.step():
        pass


def held(path: pathlib.Path) -> str:
    """A digest of everything that was learned."""
    engine = open_database(sqlite_url(path))
    with transaction(engine) as connection:
        rows = [
            [list(row) for row in connection.execute(sa.text(f"SELECT * FROM {table} ORDER BY 1, 2"))]
            for table in ("learner_standing", "learner_kinds", "learner_days")
        ]
    engine.dispose()
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def forked(path: pathlib.Path, kill_at: int) -> int:
    """Learn in a process of its own; how that ended: 0, or minus a signal."""
    child = os.fork()
    if child == 0:
        learn(path, kill_at)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(folder: pathlib.Path) -> None:
    """Kill it before every statement there is."""
    fresh = folder / "fresh.sqlite"
    prepare(fresh)
    at = status = -1
    while status != 0 or at == -1:
        path = folder / f"{at}.sqlite"
        shutil.copy(fresh, path)
        if at >= 0:
            status = forked(path, at)
        again = forked(path, 1_000_000)
        sys.stdout.write(json.dumps({"at": at, "killed": status, "again": again, "held": held(path)}) + "\n")
        sys.stdout.flush()
        for found in folder.glob(f"{at}.sqlite*"):
            found.unlink()
        at += 1


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
