"""A host that was suspended wakes up: the wall clock is far on, the monotonic one stood still, and all is renewed.

libfaketime moves the wall clock under server, agent and launched programs of a real installation, and under a strange
SPIFFE library at the Workload API, and leaves the monotonic one alone, as a suspend does. A sidecar's environment is
its agent's alone to say, so a sidecar has the real time: with sidecars in it, the rest begins in the past.
"""

import datetime as dt
import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from enforcer import control
from mesh.clock import parse_time
from tests.enforcer.test_agent import Shop
from tests.tools import require

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.peer]
# real seconds; an hour is the life of every SVID here
WITHIN_S = 200
WATCHER = """
import json, sys, threading, time
from spiffe import X509Source
source, changed = X509Source(socket_path=sys.argv[1]), threading.Event()
source.subscribe_for_updates(changed.set)
while True:
    leaf = source.svid.leaf
    ends = leaf.not_valid_after_utc.isoformat()
    print(json.dumps({"serial": f"{leaf.serial_number:x}", "ends": ends, "wall": time.time()}), flush=True)
    changed.wait()
    changed.clear()
"""


class Laptop:
    """An installation under a wall clock that the test moves."""

    def __init__(self, folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch, ahead: str) -> None:
        self._ahead = folder / "ahead"
        self.sleeps(ahead)
        library = next(pathlib.Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
        for name, value in {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(self._ahead),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }.items():
            monkeypatch.setenv(name, value)

    def sleeps(self, ahead: str) -> None:
        """Let the wall clock be so far ahead of the real one from now on."""
        # whole at any moment: every call of every process reads it
        draft = self._ahead.with_suffix(".new")
        draft.write_text(ahead + "\n")
        draft.replace(self._ahead)


@pytest.fixture
def ahead() -> str:
    """How far the wall clock is ahead of the real one at first."""
    return "+0"


@pytest.fixture
def laptop(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, make_installation: Callable[..., Any], ahead: str
) -> Iterator[tuple[Laptop, Any, subprocess.Popen[str]]]:
    require("faketime")
    found = Laptop(tmp_path, monkeypatch, ahead)
    installation = make_installation()
    installation.rules(
        f'rules:\n- id: me\n  match: {{"unix:uid": "{os.geteuid()}"}}\n'
        '  spiffe_id: "/user/me"\n  direct: true\n  ttl: 1h\n'
    )
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", WATCHER, f"unix://{installation.state / 'agent.sock'}"],
        stdout=subprocess.PIPE,
        text=True,
    ) as watcher:
        yield found, installation, watcher
        watcher.kill()


def seen(watcher: subprocess.Popen[str]) -> dict[str, Any]:
    """The next SVID that the stream brings, waited for."""
    assert watcher.stdout is not None
    found: dict[str, Any] = json.loads(watcher.stdout.readline())
    return found


def left_s(svid: dict[str, Any]) -> float:
    """The seconds that an SVID had left when it came, by the wall clock of who had it."""
    return float(dt.datetime.fromisoformat(svid["ends"]).timestamp() - svid["wall"])


def status(installation: Any) -> dict[str, Any]:
    return dict(control.ask(installation.state / "control.sock", {"type": "status"}))


def ends(said: str) -> dt.datetime:
    return parse_time(said)


@pytest.mark.parametrize("away", ["+40m", "+3d"], ids=["half-of-its-life", "all-of-its-life"])
def test_svids_of_the_node_and_of_processes_are_renewed_as_soon_as_a_host_wakes_up(
    laptop: tuple[Laptop, Any, subprocess.Popen[str]], until: Callable[..., Any], away: str
) -> None:
    host, installation, watcher = laptop
    before, node_before = seen(watcher), ends(status(installation)["not_after"])
    began = time.monotonic()
    host.sleeps(away)
    # a whole life from the new time on; one that was asked for while rules arrived may come before it
    after = next(svid for svid in (seen(watcher) for _ in range(3)) if 3300 < left_s(svid) <= 3600)
    assert time.monotonic() - began < WITHIN_S
    assert after["serial"] != before["serial"]
    until(lambda: ends(status(installation)["not_after"]) > node_before, WITHIN_S)
    until(lambda: status(installation)["connected"] and status(installation)["problem"] is None, WITHIN_S)
    assert time.monotonic() - began < 2 * WITHIN_S


@pytest.mark.parametrize("ahead", ["-40m"])
def test_sidecars_serve_with_new_svids_as_soon_as_a_host_wakes_up(
    laptop: tuple[Laptop, Any, subprocess.Popen[str]], tmp_path: pathlib.Path, until: Callable[..., Any]
) -> None:
    host, installation, _ = laptop
    folder = tmp_path / "shop"
    folder.mkdir(mode=0o755)
    tmp_path.chmod(0o755)
    shop = Shop(installation, folder)
    try:
        until(lambda: len(rows := shop.status()["workloads"]) == 2 and all(row["spiffe_id"] for row in rows))
        until(lambda: shop.get("/ok") == 200)
        before = {row["pid"]: ends(row["not_after"]) for row in shop.status()["workloads"]}
        host.sleeps("+0")
        until(lambda: all(ends(row["not_after"]) > before[row["pid"]] for row in shop.status()["workloads"]), WITHIN_S)
        assert shop.get("/ok") == 200
        assert shop.get("/new") == 403
        assert {row["pid"] for row in shop.status()["workloads"]} == set(before)
    finally:
        shop.close()
