import json
import os
import pathlib
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from learner.propose import propose
from limen import client
from limen.__main__ import run
from policyengine.loader import load_text
from policyengine.model import PolicySet
from tests.enforcer.test_agent import Shop
from tests.learner import worlds
from tests.limen.cli.test_learnserver import Served


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Served:
    found = Served()
    monkeypatch.setattr(client, "call", found.call)
    return found


def policies_of(flows: list[Any]) -> PolicySet:
    text = "---\n".join(service.to_yaml() for service in propose(flows).services)
    found, findings = load_text(text, "x")
    assert not [item for item in findings if item.severity == "error"]
    return found


def test_the_status_says_how_ready_each_service_is(
    served: Served, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    flows = worlds.shop(days=3)
    served.learn(flows)
    assert run(["learn", "status", "-o", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["drift"] is None
    assert found["learner"]["flows"] == len(flows)
    assert {row["service"] for row in found["services"]} == {"cart", "orders"}
    # as often as somebody looks: never the bound of who looks once
    assert all(row["session_bound_95"] > row["looking_once_95"]["session"] for row in found["services"])
    active = policies_of([item for item in flows if item.method != "DELETE"])
    monkeypatch.setattr(client, "active_policies", lambda: ("hash", active))
    assert run(["learn", "status", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["drift"]["new"] == 1
    assert run(["learn", "status"]) == 0
    text = capsys.readouterr().out
    assert f"learned from  {len(flows)} flows" in text
    assert "drift         1 new" in text
    assert run(["learn", "drift"]) == 1
    assert "DELETE" in capsys.readouterr().out


def learners(server: int) -> list[int]:
    """The processes that learn for a server."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_bytes().split(b"\0")
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue
        if b"limen.learner" in words and parent == server:
            found.append(int(path.name))
    return found


@pytest.fixture
def shop(make_installation: Callable[..., Any], tmp_path: pathlib.Path, until: Callable[..., Any]) -> Iterator[Shop]:
    tmp_path.chmod(0o755)
    found = Shop(make_installation(), tmp_path)
    until(lambda: found.get("/ok") == 200, 200)
    yield found
    found.close()


@pytest.mark.slow
@pytest.mark.system
def test_a_running_installation_learns_through_kill_9_and_every_call_counts_once(
    shop: Shop, until: Callable[..., Any], tmp_path: pathlib.Path
) -> None:
    installation = shop.installation
    server = installation.pid("server")

    def calls() -> int:
        done = installation.limen("learn", "propose", "--out", str(tmp_path / "tree"), "-o", "json")
        if done.returncode:
            assert "LM4035" in done.stderr
            return 0
        tree = (tmp_path / "tree" / "db.yaml").read_text()
        return int(tree.partition(" n: ")[2].split()[0])

    until(lambda: calls() > 0, 200)
    (first,) = learners(server)
    os.kill(first, signal.SIGKILL)
    before = calls()
    for _ in range(20):
        assert shop.get("/ok") == 200
    until(lambda: calls() >= before + 20, 200)
    assert first not in learners(server)
    # what came meanwhile is counted once: the sidecar's own count is the same
    rows = [json.loads(line) for line in installation.limen("learn", "status", "-o", "json").stdout.splitlines()]
    assert rows[0]["services"][0]["service"] == "db"
    assert rows[0]["drift"]["new"] == 0
    rows = client.Client(installation.state / "server.sock").call("GET", "/v1/endpoints")
    (row,) = (row for row in rows if row["spiffe_id"] == "spiffe://test.limen/db")
    # an address of the server's registry is the workload's
    seen = {
        "start": "2026-11-02T08:00:00Z", "source": "spiffe://test.limen/cart", "destination_ip": row["address"],
        "destination_port": row["port"], "protocol": "tcp", "established": True,
    }  # fmt: skip
    (tmp_path / "seen.jsonl").write_text(json.dumps(seen) + "\n")
    words = ["learn", "propose", "--from", str(tmp_path / "seen.jsonl"), "--registry", "--out", str(tmp_path / "r")]
    done = installation.limen(*words, "-o", "json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["services"][0]["identity"] == "spiffe://test.limen/db"
    assert f"port: {shop.inbound}" in (tmp_path / "r" / "db.yaml").read_text()
    flows = client.Client(installation.state / "server.sock").call("GET", "/v1/flows")
    good = sum(row["connections"] for row in flows if row.get("path") == "/ok" and row["verdict"] == "allowed")
    assert calls() == good
