"""A sidecar's life under load: everything rotates, flips, is killed and taken over from, and every answer is right.

Two minutes in every run; `make soak` (LIMEN_SOAK) goes on to a million requests and writes what it counted. Two
callers, one allowed and one not, send requests of every kind (`soakclient.py`) to one service (`soakapp.py`) through
four sidecars, two of them sharing the service's port. Meanwhile authorities and SVIDs rotate, two snapshots take turns,
server and agent are killed, and sidecars are taken over from. Then:

* no request that is allowed by both snapshots fails or is refused, and none is allowed that neither allows;
* what only one snapshot allows is answered as the active one says, and in the window of a flip as one of the two does:
  the window begins when the change is asked for, and ends when the agent says that every sidecar applies it;
* in the second part, in which agent and sidecars live on, neither memory nor descriptors grow.
"""

import json
import math
import os
import pathlib
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from enforcer import control
from mesh.clock import SystemClock
from mesh.problems import Unavailable
from tests.ports import free_port

HERE = pathlib.Path(__file__).parent
IS_FULL = bool(os.environ.get("LIMEN_SOAK"))
# the bounded run ends after two minutes, whatever it has counted: a slow machine makes it smaller, not longer
REQUESTS = 1_000_000 if IS_FULL else math.inf
SECONDS = int(os.environ.get("LIMEN_SOAK_S", "14400")) if IS_FULL else 120
# so many requests between two events at least: commands cost what would be requests
BETWEEN = 1_600 if IS_FULL else 30
FIRST_PART = 0.5
GROWTH_KIB = 16 * 1024
SAMPLES = 20
pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(SECONDS + 1500)]
Window = tuple[float, float]


def wait(claim: Callable[[], object], seconds: float = 600) -> None:
    """Ask until a claim holds, now and then: the processors are the load's."""
    end, never = time.monotonic() + seconds, threading.Event()
    while not claim():
        assert time.monotonic() < end, "waited in vain"
        never.wait(0.05)


class Caller:
    """A client program under `limen run`, and the last that it told."""

    def __init__(self, process: subprocess.Popen[str], rows: pathlib.Path) -> None:
        self.process, self.rows = process, rows
        self.said: dict[str, Any] = {"count": 0, "failed": 0, "wrong": 0}
        self._listening = threading.Thread(target=self._listen, daemon=True)
        self._listening.start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said = json.loads(line)

    def end(self) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        self.process.wait(timeout=300)
        self._listening.join(30)
        return self.said


class Place:
    """The installation with its three workloads."""

    def __init__(self, installation: Any, folder: pathlib.Path) -> None:
        self.installation, self.folder = installation, folder
        self.inbound, self.app = free_port(), free_port()
        folder.chmod(0o755)
        (folder / "db").write_text((HERE / "soakapp.py").read_text())
        for name in ("cart", "thief"):
            (folder / name).write_text((HERE / "soakclient.py").read_text())
        installation.rules(
            f'rules:\n- id: s\n  match: {{"launch:script": "{folder}/*"}}\n  spiffe_id: "/{{launch:script_basename}}"\n'
        )
        for letter in "ab":
            self._write(letter)

    def _write(self, letter: str) -> None:
        tree = self.folder / letter
        tree.mkdir()
        (tree / "db.yaml").write_text(
            "apiVersion: limen.dev/v1\nkind: Service\nmetadata: {name: db, owner: t}\nspec:\n"
            '  identities: ["spiffe://test.limen/db"]\n'
            f"  ports: [{{port: {self.inbound}, protocol: http, websocket: true}}]\n---\n"
            "apiVersion: limen.dev/v1\nkind: Policy\nmetadata: {name: p, owner: t}\nspec:\n  service: db\n  tier: app\n"
            '  rules:\n  - {id: r, effect: allow, from: ["spiffe://test.limen/cart"], to: [{methods: [GET, POST], '
            f'paths: ["/ok/**", "/{letter}/**"]}}]}}\n'
        )

    def run(self, *words: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "limen", "--state", str(self.installation.state), "run", *words]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def caller(self, name: str) -> Caller:
        port, rows = free_port(), self.folder / f"{name}.rows"
        script = str(self.folder / name)
        words = (sys.executable, script, str(port), name, str(rows))
        return Caller(self.run("--name", name, "--outbound", f"{port}=db", "--", *words), rows)

    def status(self) -> dict[str, Any]:
        try:
            return dict(control.ask(self.installation.state / "control.sock", {"type": "status"}))
        except Unavailable:
            return {}

    def stand(self) -> bool:
        """Whether server and agent are there, and all workloads with them."""
        status = self.status()
        rows = status.get("workloads", [])
        is_whole = len(rows) == 3 and all(row["spiffe_id"] and row["sidecars"] for row in rows)
        return is_whole and bool(status["connected"]) and self.installation.limen("status").returncode == 0

    def applied(self) -> bool:
        """Whether every sidecar, draining ones too, applies what its agent has."""
        status = self.status()
        rows = status.get("workloads", [])
        return len(rows) == 3 and all(row["epoch"] == status["epoch"] for row in rows)

    def epoch(self) -> int:
        return int(self.status().get("epoch", -1))

    def processes(self) -> dict[str, int]:
        """The agent and the sidecars that serve, by name."""
        found = {"agent": self.installation.pid("agent")}
        for row in self.status()["workloads"]:
            for sidecar in row["sidecars"]:
                if not sidecar["draining"]:
                    found[f"{row['name']}:{sidecar['place']}"] = sidecar["pid"]
        return found

    def sizes(self) -> dict[str, dict[str, int]]:
        """Private memory in KiB and open descriptors of each of them: the least that they have in a few seconds.

        What is in hand at a moment (a batch, a policy that is being read) is not what stays.
        """
        found, never = self._sizes(), threading.Event()
        for _ in range(SAMPLES):
            never.wait(0.5)
            for name, now in self._sizes().items():
                least = found.get(name, now)
                found[name] = now if now["pid"] != least["pid"] else {key: min(now[key], least[key]) for key in now}
        return found

    def _sizes(self) -> dict[str, dict[str, int]]:
        found = {}
        for name, pid in self.processes().items():
            rows = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text("ascii").splitlines()
            private = sum(int(row.split()[1]) for row in rows if row.startswith(("Private_Clean", "Private_Dirty")))
            found[name] = {"pid": pid, "private_kib": private, "descriptors": len(os.listdir(f"/proc/{pid}/fd"))}
        return found


class Events:
    """What happens meanwhile."""

    def __init__(self, place: Place) -> None:
        self._place, self._installation = place, place.installation
        self._dice = random.Random(5)
        self.counts = dict.fromkeys(("issuing", "root", "jwt", "svids", "flips", "server", "agent", "upgrades"), 0)
        self.windows: list[Window] = []
        self.active: list[tuple[float, str]] = [(time.monotonic(), "a")]

    def stand(self) -> None:
        wait(self._place.stand)

    def flip(self) -> None:
        """Let the other snapshot be active; the window is open until every sidecar applies it."""
        letter = "b" if self.active[-1][1] == "a" else "a"
        begin, before = time.monotonic(), self._place.epoch()
        done = self._installation.limen("policy", "publish", "--policies", str(self._place.folder / letter))
        assert done.returncode == 0, done.stderr
        wait(lambda: self._place.epoch() > before and self._place.applied())
        end = time.monotonic()
        self.windows.append((begin, end))
        self.active.append((end, letter))
        self.counts["flips"] += 1

    def rotate(self) -> None:
        kind = self._dice.choices(["issuing", "root", "jwt"], [5, 2, 1])[0]
        if self._installation.limen("identity", "rotate", kind).returncode == 0:
            self.counts[kind] += 1
        if self._installation.limen("identity", "rotate", "--svids").returncode == 0:
            self.counts["svids"] += 1

    def kill(self, name: str) -> None:
        os.kill(self._installation.pid(name), signal.SIGKILL)
        self.counts[name] += 1
        self.stand()

    def upgrade(self) -> None:
        done = self._installation.limen("sidecar", "upgrade", "-o", "json")
        assert done.returncode == 0, done.stderr
        self.counts["upgrades"] += 1

    def next(self, turn: int, *, is_second: bool) -> None:
        """One event after the other; in the second part agent and sidecars are left alone."""
        acts: list[Callable[[], None]] = [self.flip, self.rotate, lambda: self.kill("server")]
        if not is_second:
            acts += [self.upgrade, lambda: self.kill("agent"), self.upgrade]
        acts[turn % len(acts)]()


def contradictions(rows: pathlib.Path, events: Events) -> tuple[int, list[str]]:
    """How many answers hung on the snapshot, and those that the one that was active does not give."""
    found, checked = [], 0
    for row in rows.read_text("ascii").splitlines():
        letter, status, first, last = row.split()
        begin, end = float(first), float(last)
        checked += 1
        if any(begin <= closes and end >= opens for opens, closes in events.windows):
            continue
        active = [name for since, name in events.active if since <= begin][-1]
        if (status == "200") != (letter == active):
            found.append(f"{row}: {active} was active")
    return checked, found


def test_whatever_happens_every_answer_is_right_and_none_is_lost(
    make_installation: Callable[..., Any], tmp_path: pathlib.Path
) -> None:
    place = Place(make_installation(), tmp_path)
    installation = place.installation
    assert installation.limen("policy", "publish", "--policies", str(tmp_path / "a")).returncode == 0
    ports = f"{place.inbound}={place.app}"
    words = (sys.executable, str(tmp_path / "db"), str(place.app))
    db = place.run("--name", "db", "--workers", "2", "--inbound", ports, "--", *words)
    wait(lambda: [row["spiffe_id"] for row in place.status().get("workloads", [])] == ["spiffe://test.limen/db"])
    events = Events(place)
    callers = [place.caller("cart"), place.caller("thief")]
    wait(place.stand)
    wait(lambda: all(found.said["count"] for found in callers))
    begin = time.monotonic()

    def count() -> int:
        return sum(int(found.said["count"]) for found in callers)

    def done() -> float:
        """How much of the run is over."""
        return max(count() / REQUESTS, (time.monotonic() - begin) / SECONDS)

    def event(turn: int, *, is_second: bool) -> int:
        due = count() + BETWEEN
        events.next(turn, is_second=is_second)
        wait(lambda: count() >= due or done() >= 1)
        return turn + 1

    turn = 0
    while done() < FIRST_PART or turn < 6:
        turn = event(turn, is_second=False)
    events.stand()
    # what was warm or draining is not growth: a fifth of the second part goes by first
    before: dict[str, Any] = {}
    turn = 0
    while done() < 1 or turn < 3 or not before:
        turn = event(turn, is_second=True)
        if not before and done() >= FIRST_PART + (1 - FIRST_PART) / 5:
            before = place.sizes()
    after = place.sizes()
    seconds = round(time.monotonic() - begin)
    counted = {name: found.end() for name, found in zip(("cart", "thief"), callers, strict=True)}
    checked, wrong = contradictions(callers[0].rows, events)
    db.terminate()
    for process in (db, *(found.process for found in callers)):
        process.wait(timeout=60)
        for stream in (process.stdin, process.stdout):
            assert stream is not None
            stream.close()
    found = {
        "seconds": seconds,
        "requests": sum(item["count"] for item in counted.values()),
        "failed": sum(item["failed"] for item in counted.values()),
        "wrong_decisions": sum(item["wrong"] for item in counted.values()) + len(wrong),
        "by_the_snapshot": checked,
        "longest_window_s": round(max(closes - opens for opens, closes in events.windows), 2),
        "events": events.counts,
        "callers": counted,
        "against_the_snapshot": wrong[:20],
        "sizes_before": before,
        "sizes_after": after,
    }
    if IS_FULL:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False
        ).stdout.strip()
        command = (
            f"LIMEN_SOAK=1 LIMEN_SOAK_S={SECONDS} python -m pytest --timeout 18000 tests/system/test_enforcer_soak.py"
        )
        date = SystemClock().now().date().isoformat()
        row = {"commit": commit, "date": date, "command": command, "is_part_of": "make soak", **found}
        pathlib.Path("benchmarks/results/enforcer-soak.json").write_text(json.dumps(row, indent=1) + "\n")
    text = json.dumps(found, indent=1)
    print(text)  # noqa: T201  what a bounded run counted, with -s
    assert (found["failed"], found["wrong_decisions"]) == (0, 0), text
    assert all(events.counts[name] for name in ("svids", "flips", "server", "agent", "upgrades")), text
    assert checked > 0
    grown = {
        name: (sizes, after[name])
        for name, sizes in before.items()
        if sizes["pid"] == after[name]["pid"]
        and (
            after[name]["private_kib"] > sizes["private_kib"] + GROWTH_KIB
            or after[name]["descriptors"] > sizes["descriptors"] + 32
        )
    }
    assert grown == {}, text
    assert {name for name in before if before[name]["pid"] == after[name]["pid"]} == set(before), text
