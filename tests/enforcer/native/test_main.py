"""The sidecar as a process: how it closes itself, what it loads, how it ends."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from enforcer.native.__main__ import main
from tests.enforcer.native.harness import (
    ALLOW_WEB,
    DB,
    HOST,
    PATIENCE_S,
    ROOT,
    WEB,
    App,
    Realm,
    connect,
    http_answer,
    identity_message,
    inbound_port,
    policies,
    read_all,
    read_response,
)

Make = Callable[..., Any]
HEAVY = ("grpc", "google", "pydantic", "yaml", "sqlalchemy", "structlog", "fastapi", "rich", "click", "starlette")


def test_the_process_loads_nothing_heavy() -> None:
    code = f"import sys, enforcer.native.__main__; print([m for m in {HEAVY} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_the_process_is_closed_against_its_surroundings(sidecars: Make, corp: Realm) -> None:
    agent = sidecars(corp.svid(DB), corp.bundle, inbound=({"address": "127.0.0.1", "port": 0, "app_port": 1},))
    folder = pathlib.Path(f"/proc/{agent.process.pid}")
    status = dict(line.split(":\t", 1) for line in (folder / "status").read_text().splitlines() if ":\t" in line)
    assert status["NoNewPrivs"] == "1"
    limits = (folder / "limits").read_text()
    assert next(line for line in limits.splitlines() if "core" in line).split()[4:6] == ["0", "0"]
    if os.geteuid() != 0:  # root may read everything; for others a process that is not dumpable is closed
        with pytest.raises(PermissionError):
            (folder / "environ").read_bytes()
    assert (folder / "environ").stat().st_uid == 0  # the folder itself stays its user's


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root starts a process as another user")
def test_told_a_user_the_process_is_that_user_and_still_serves(sidecars: Make, corp: Realm) -> None:
    app = App(http_answer)
    inbound = ({"address": "127.0.0.1", "port": 0, "app_port": app.port},)
    agent = sidecars(corp.svid(DB), corp.bundle, inbound=inbound, uid=61_234)
    status = pathlib.Path(f"/proc/{agent.process.pid}/status").read_text()
    ids = {
        line.split(":")[0]: line.split()[1:] for line in status.splitlines() if line.startswith(("Uid", "Gid", "Gro"))
    }
    assert ids == {"Uid": ["61234"] * 4, "Gid": ["61234"] * 4, "Groups": []}
    agent.policy(policies(ALLOW_WEB, port=inbound_port(agent)))
    agent.send(identity_message(corp.svid(DB), corp.bundle))
    with connect(inbound_port(agent), corp.svid(WEB), corp.bundle) as sock:
        sock.sendall(b"GET /orders HTTP/1.1\r\n" + HOST + b"\r\n")
        assert read_response(sock) == (200, b"hello")
    agent.sock.shutdown(2)
    assert agent.process.wait(PATIENCE_S) == 0
    app.close()


def private_kib(pid: int) -> int:
    """The memory that only this process has."""
    try:
        rows = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    except PermissionError:
        pytest.skip("only root reads the memory map of a process that is not dumpable")
    sizes = {row.split(":")[0]: int(row.split()[1]) for row in rows}
    return sizes["Private_Clean"] + sizes["Private_Dirty"]


def test_the_private_memory_stays_within_its_budget_however_many_connections_came(sidecars: Make, corp: Realm) -> None:
    agent = sidecars(corp.svid(DB), corp.bundle, inbound=({"address": "127.0.0.1", "port": 0, "app_port": 1},))
    web = corp.svid(WEB)
    warm = private_kib(agent.process.pid)
    assert warm <= 30 * 1024
    for count in range(400):
        with connect(inbound_port(agent), web, corp.bundle) as sock:
            assert read_all(sock) == b""
        if count == 50:
            warm = private_kib(agent.process.pid)
    assert private_kib(agent.process.pid) - warm <= 2 * 1024
    assert private_kib(agent.process.pid) <= 30 * 1024


def test_the_end_of_the_agent_is_the_end_of_the_sidecar(sidecars: Make, corp: Realm) -> None:
    agent = sidecars(corp.svid(DB), corp.bundle, inbound=({"address": "127.0.0.1", "port": 0, "app_port": 1},))
    agent.sock.shutdown(2)
    assert agent.process.wait(PATIENCE_S) == 0


def test_stop_ends_the_process_in_order(sidecars: Make, corp: Realm) -> None:
    agent = sidecars(corp.svid(DB), corp.bundle, inbound=({"address": "127.0.0.1", "port": 0, "app_port": 1},))
    agent.send({"type": "stop"})
    assert agent.process.wait(PATIENCE_S) == 0


def test_a_malformed_stream_ends_the_process(sidecars: Make, corp: Realm) -> None:
    agent = sidecars(corp.svid(DB), corp.bundle, inbound=({"address": "127.0.0.1", "port": 0, "app_port": 1},))
    agent.sock.sendall(b"\xff\xff\xff\xff")
    assert agent.process.wait(PATIENCE_S) == 0
    assert agent.wait("failed")["code"] == "LM3001"


def test_a_port_that_is_taken_ends_the_process_with_a_code(sidecars: Make, corp: Realm) -> None:
    agent = sidecars(corp.svid(DB), corp.bundle, inbound=({"address": "127.0.0.1", "port": 0, "app_port": 1},))
    taken = inbound_port(agent)
    with pytest.raises(AssertionError, match="LM3014"):
        sidecars(corp.svid(DB), corp.bundle, inbound=({"address": "127.0.0.1", "port": taken, "app_port": 1},))


@pytest.mark.parametrize("arguments", [[], ["x"], ["1"], ["x", "/s"], ["1", "/s", "x"], ["1", "/s", "2", "3"]])
def test_started_by_hand_it_says_how_it_is_started(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert "LM3016" in capsys.readouterr().err
