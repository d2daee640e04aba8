import json
import os
import pathlib
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from limen.client import Client

pytestmark = pytest.mark.system


def test_the_state_is_closed_and_the_sockets_have_their_modes(installation: Any) -> None:
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in installation.state.iterdir()}
    assert stat.S_IMODE(installation.state.stat().st_mode) == 0o711
    assert modes["agent.sock"] == 0o777
    assert modes["control.sock"] == modes["server.sock"] == 0o600
    assert {modes[name] for name in ("ca", "server", "agent", "audit", "spool", "run")} == {0o700}
    for name in ("up", "server", "agent"):
        row = json.loads((installation.state / "run" / f"{name}.json").read_text("utf-8"))
        assert set(row) == {"pid", "addresses"}


def test_no_private_key_lies_open_in_the_state(installation: Any) -> None:
    for path in installation.state.rglob("*"):
        if path.is_file() and path.name != "reviewer.key":
            data = path.read_bytes()
            assert b"PRIVATE KEY" not in data, path


def test_a_second_one_on_the_same_state_is_refused(installation: Any) -> None:
    done = installation.limen("up")
    assert done.returncode == 2
    assert "LM5205" in done.stderr


def test_killed_parts_come_back_with_what_they_knew(
    make_installation: Callable[..., Any], until: Callable[..., Any]
) -> None:
    found = make_installation()
    found.rules('rules:\n- id: me\n  match: {"launch:script_basename": "app"}\n  spiffe_id: "/app"\n')
    before = found.json("status")
    node = before["agents"][0]["node"]
    records = before["records"]
    for name in ("agent", "server"):
        pid = found.pid(name)
        os.kill(pid, signal.SIGKILL)
        until(lambda: (found.state / "run" / f"{name}.json").exists() and found.pid(name) != pid)  # noqa: B023

        def is_connected() -> bool:
            try:
                status = Client(found.state / "server.sock").call("GET", "/v1/status")
            except Exception:  # noqa: BLE001  it is coming back
                return False
            return any(row["node"] == node and row["is_connected"] for row in status["agents"])

        until(is_connected, 200)
    assert found.json("status")["records"] >= records
    done = found.limen("run", "--", sys.executable, "-c", "print('again')")
    assert (done.stdout, done.returncode) == ("again\n", 0)


def test_a_stop_leaves_no_process_and_no_socket(
    make_installation: Callable[..., Any], alive: Callable[[int], bool]
) -> None:
    found = make_installation()
    pids = [found.pid(name) for name in ("server", "agent")]
    found.process.send_signal(signal.SIGTERM)
    assert found.process.wait(timeout=100) == 0
    for pid in pids:
        assert not alive(pid)
    assert [path for path in found.state.rglob("*") if path.is_socket()] == []
    assert list((found.state / "run").glob("*.json")) == []


def test_a_wrong_trust_domain_is_refused_with_its_rule(tmp_path: pathlib.Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "limen", "--state", str(tmp_path), "up", "--trust-domain", "Bad Name"],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 2
    assert "LM5214" in done.stderr
    assert "LM5206" in done.stderr
