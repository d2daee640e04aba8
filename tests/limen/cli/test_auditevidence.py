"""`limen audit reach`, `limen can --at`, holds, pruning and the evidence pack, on a server that runs."""

import json
import pathlib
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from limen.__main__ import run
from tests.conftest import Installation, stop

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
  - {id: r, effect: allow, from: ["spiffe://test.limen/CALLER"]}
"""


def publish(found: Installation, folder: pathlib.Path, caller: str) -> str:
    """Activate a tree; the moment from which it was in force, as the log says."""
    tree = folder / caller
    tree.mkdir()
    (tree / "db.yaml").write_text(TREE.replace("CALLER", caller))
    done = found.limen("policy", "publish", "--policies", str(tree))
    assert done.returncode == 0, done.stderr
    rows: Any = found.json("audit", "search", "--kind", "snapshot")
    return str(rows[-1]["time"])


def test_who_could_reach_a_service_then_and_who_approved_it(
    make_installation: Callable[..., Installation], tmp_path: pathlib.Path
) -> None:
    found = make_installation()
    first, second = publish(found, tmp_path, "cart"), publish(found, tmp_path, "web")
    for moment, caller, other in ((first, "cart", "web"), (second, "web", "cart")):
        said: Any = found.json("audit", "reach", "db", "--at", moment)
        assert [row["source"] for row in said["access"]] == [f"spiffe://test.limen/{caller}"]
        assert [item["name"] for item in said["approvals"]] == ["local"]
        words = ["db:8443", "GET", "/", "--at", moment]
        assert found.limen("can", f"spiffe://test.limen/{caller}", *words).returncode == 0
        assert found.limen("can", f"spiffe://test.limen/{other}", *words).returncode == 1
    assert found.limen("audit", "search", "--reviewer", "local").returncode == 0
    early = found.limen("audit", "reach", "db", "--at", "2020-01-01T00:00:00Z")
    assert (early.returncode, "LM6095" in early.stderr) == (2, True)
    # holds and pruning through the server
    held: Any = found.json("audit", "hold", "add", "--reason", "case 17", "--service", "db")
    assert found.limen("audit", "hold", "list").stdout.count(held["id"]) == 1
    assert found.limen("audit", "prune", "--before", first).returncode == 0
    assert found.limen("audit", "hold", "release", held["id"]).returncode == 0
    # a pack, while the server runs and after it ended
    for name in ("running", "ended"):
        out = tmp_path / name
        done = found.limen("audit", "evidence", "--since", first, "--out", str(out))
        assert done.returncode == 0, done.stderr
        snapshots = [json.loads(path.read_text())["policies"] for path in (out / "snapshots").iterdir()]
        assert len(snapshots) == 2
        assert "local" in (out / "report.html").read_text()
        proofs = sorted(str(path) for path in (out / "proofs").iterdir())
        key = str(found.state / "audit" / "key.pub")
        check = [sys.executable, "-I", str(out / "verify_log.py"), key, "--proof", *proofs]
        assert subprocess.run(check, capture_output=True, check=False).returncode == 0
        if name == "running":
            stop(found)
    assert found.limen("audit", "verify").returncode == 0
    assert found.limen("audit", "reach", "db", "--at", second).returncode == 0


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["evidence", "--since", "x", "--out", "/tmp/none"], "LM6050"),
        (["evidence", "--out", "OUT"], "LM6054"),
        (["reach", "db", "--at", "x"], "LM6050"),
        (["reach", "db", "--at", "2026-01-01T00:00:00Z"], "LM6054"),
    ],
)
def test_what_cannot_be_asked_says_why(tmp_path: pathlib.Path, capsys: Any, words: list[str], code: str) -> None:
    found = [str(tmp_path / "out") if word == "OUT" else word for word in words]
    assert run(["--state", str(tmp_path / "none"), "audit", *found]) == 2
    assert code in capsys.readouterr().err
