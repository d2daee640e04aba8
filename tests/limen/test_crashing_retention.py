"""kill -9 of a server that prunes by age, before every write to its disk."""

import json
import pathlib
import subprocess
import sys

import pytest

SCRIPT = pathlib.Path(__file__).with_name("crashing_retention.py")


@pytest.mark.slow
@pytest.mark.system
def test_wherever_pruning_by_age_was_killed_the_log_verifies_and_the_next_one_ends_it(tmp_path: pathlib.Path) -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["killed"] for row in rows] == [*[True] * (len(rows) - 1), False]
    assert len(rows) > 10, len(rows)
    half, pruned = [["LM6090", 0, 255]], [["LM6090", 0, 511]]
    for row in rows:
        # nothing is gone of which no record says so
        assert row["killed_found"] in ([], half, pruned), row
        assert row["found"] == pruned, row
        assert row["stand"] == [False, False, True], row
    assert {row["size"] for row in rows} == {1000, 1001}
    assert half in [row["killed_found"] for row in rows]
