"""Publishing is all or nothing: a bad file or a kill of server or publisher leaves the old policies or the new."""

import contextlib
import json
import os
import pathlib
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.system
TREE = """\
apiVersion: limen.dev/v1
kind: Service
metadata: {name: db, owner: t}
spec:
  identities: ["spiffe://test.limen/db"]
  ports: [{port: 8443, protocol: http}]
---
apiVersion: limen.dev/v1
kind: Policy
metadata: {name: p, owner: t}
spec:
  service: db
  tier: app
  rules:
  - {id: r, effect: allow, from: ["spiffe://test.limen/cart"], to: [{paths: ["/PATH"]}]}
"""
TABLES = ("policy_reviews", "policy_approvals", "policy_activations")


def tree(folder: pathlib.Path, name: str) -> str:
    (folder / name).mkdir()
    (folder / name / "db.yaml").write_text(TREE.replace("PATH", name))
    return str(folder / name)


def count(installation: Any, table: str) -> int:
    """How many rows of a table are committed."""
    file = installation.state / "server" / "limen.sqlite"
    with contextlib.closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=60)) as database:
        return int(database.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def active(installation: Any) -> str | None:
    """The path that the active policies allow, None while nobody answers."""
    done = installation.limen("policy", "plan", "--policies", str(installation.state / "base"), "-o", "json")
    if done.returncode not in {0, 1}:
        return None
    rows = json.loads(done.stdout)["newly_denied"]
    return rows[0]["paths"][0] if rows else "/base"


def settled(installation: Any) -> tuple[str, int] | None:
    """What is active, and how many activations there were when it was: nothing came in between."""
    before, found = count(installation, TABLES[2]), active(installation)
    return (found, before) if found is not None and count(installation, TABLES[2]) == before else None


def test_a_bad_file_replaces_nothing_and_a_kill_at_any_step_leaves_the_old_or_the_new(
    make_installation: Callable[..., Any], until: Callable[..., Any], tmp_path: pathlib.Path
) -> None:
    installation = make_installation()
    base = tree(installation.state, "base")
    assert installation.limen("policy", "publish", "--policies", base).returncode == 0
    assert active(installation) == "/base"
    # a good file beside a bad one: nothing of either
    bad = tree(tmp_path, "bad")
    (pathlib.Path(bad) / "x.yaml").write_text("a: [\n")
    (pathlib.Path(bad) / "y.yaml").write_text("b: no\n")
    before = [count(installation, table) for table in TABLES]
    done = installation.limen("policy", "publish", "--policies", bad)
    assert done.returncode == 2
    for part in ("x.yaml:2:1: LM5102", "y.yaml:1:4: LM5109", "LM2203"):
        assert part in done.stderr
    assert [count(installation, table) for table in TABLES] == before
    assert active(installation) == "/base"
    # what is killed, and as soon as what has been committed
    expected = "/base"
    for who in ("server", "publisher"):
        for table in TABLES:
            name = f"{who}-{table.removeprefix('policy_')}"
            new = tree(tmp_path, name)
            had, activations = count(installation, table), count(installation, TABLES[2])
            publisher = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "limen",
                    "--state",
                    str(installation.state),
                    "policy",
                    "publish",
                    "--policies",
                    new,
                ],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            until(lambda had=had, table=table: count(installation, table) > had, 200)
            pid = installation.pid("server")
            os.kill(pid if who == "server" else publisher.pid, signal.SIGKILL)
            publisher.wait(timeout=200)
            if who == "server":
                until(
                    lambda pid=pid: (
                        (installation.state / "run" / "server.json").exists() and installation.pid("server") != pid
                    ),
                    200,
                )
            found, counted = until(lambda: settled(installation), 200)
            if counted > activations:
                expected = f"/{name}"
            assert found == expected
    # and the next one goes through, whatever the killed ones left open
    assert installation.limen("policy", "publish", "--policies", tree(tmp_path, "last")).returncode == 0
    assert active(installation) == "/last"
