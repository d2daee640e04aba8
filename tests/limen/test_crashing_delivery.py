"""kill -9 of an agent and its server together, before every write to either disk: nothing is lost or doubled."""

import json
import pathlib
import subprocess
import sys

import pytest

from mesh.database import migrate, open_database, sqlite_url
from tests.limen.crashing_delivery import BATCHES

SCRIPT = pathlib.Path(__file__).with_name("crashing_delivery.py")


@pytest.mark.slow
@pytest.mark.system
def test_what_was_taken_is_in_the_log_once_wherever_both_were_killed(tmp_path: pathlib.Path) -> None:
    (tmp_path / "template").mkdir()
    engine = open_database(sqlite_url(tmp_path / "template" / "limen.sqlite"))
    migrate(engine, "limen")
    engine.dispose()
    (tmp_path / "runs").mkdir()
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path / "template"), str(tmp_path / "runs")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["killed"] for row in rows] == [*[True] * (len(rows) - 1), False]
    # the spool, the journal, the tree, its checkpoint, and the cursor: some dozens of writes
    assert len(rows) > 30, len(rows)
    for row in rows:
        numbers = row["numbers"]
        # set(sent) ⊆ set(received), in the order of the source, and each id once
        assert numbers == list(range(len(numbers))), row
        assert len(numbers) >= row["taken"], row
        assert row["findings"] == [], row
    assert rows[-1]["taken"] == len(rows[-1]["numbers"]) == sum(BATCHES)
    assert {0, BATCHES[0], sum(BATCHES)} <= {row["taken"] for row in rows}
