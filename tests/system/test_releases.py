"""A release reaches open streams, and one that nobody approved reaches nobody: in a whole running installation."""

import contextlib
import json
import os
import pathlib
import signal
import sqlite3
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.ports import free_port
from tests.system.test_audit_disk import launched

pytestmark = [pytest.mark.system, pytest.mark.slow]
ECHO = """
import socketserver, sys
class H(socketserver.BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(4096):
            self.request.sendall(data)
socketserver.ThreadingTCPServer.allow_reuse_address = True
socketserver.ThreadingTCPServer(("127.0.0.1", int(sys.argv[1])), H).serve_forever()
"""
# one stream; what it is told: open it and say something, say something on it, or wait for its end for five seconds
CALLER = """
import socket, sys
held = None
for line in sys.stdin:
    try:
        if line == "open\\n":
            held = socket.create_connection(("127.0.0.1", int(sys.argv[1])), 60)
        if line == "end\\n":
            held.settimeout(5)
            print("ended" if held.recv(10) == b"" else "spoke", flush=True)
            continue
        held.sendall(b"hello")
        print("heard" if held.recv(10) == b"hello" else "ended", flush=True)
    except ConnectionError:
        print("ended", flush=True)
    except TimeoutError:
        print("open", flush=True)
"""
TREE = """apiVersion: limen.dev/v1
kind: Service
metadata: {{name: db, owner: t}}
spec:
  identities: ["spiffe://test.limen/db"]
  ports: [{{port: {port}, protocol: tcp}}]
---
apiVersion: limen.dev/v1
kind: Policy
metadata: {{name: p, owner: t}}
spec:
  service: db
  tier: app
  rules:
  - {{id: callers, effect: allow, from: ["spiffe://test.limen/{caller}"]}}
"""


class Place:
    """A service of raw TCP and its caller."""

    def __init__(self, installation: Any, folder: pathlib.Path, caller: subprocess.Popen[str], port: int) -> None:
        self.installation = installation
        self._folder, self._caller, self._port = folder, caller, port

    def tell(self, word: str) -> str:
        assert self._caller.stdin is not None
        assert self._caller.stdout is not None
        self._caller.stdin.write(f"{word}\n")
        self._caller.stdin.flush()
        return self._caller.stdout.readline().strip()

    def publish(self, caller: str) -> None:
        """Let one caller in, and nobody else."""
        publish(self.installation, self._folder, self._port, caller)

    def refused(self) -> float:
        """How many releases the agent refused since it began."""
        try:
            with urllib.request.urlopen(
                f"{self.installation.address('agent', 'metrics')}/metrics", timeout=60
            ) as found:
                lines = found.read().decode().splitlines()
        except (OSError, KeyError, ValueError):
            return 0
        return sum(float(line.split()[-1]) for line in lines if line.startswith("limen_agent_refused_releases"))


def publish(installation: Any, folder: pathlib.Path, port: int, caller: str) -> None:
    (folder / "tree").mkdir(exist_ok=True)
    (folder / "tree" / "all.yaml").write_text(TREE.format(port=port, caller=caller))
    done = installation.limen("policy", "publish", "--policies", str(folder / "tree"))
    assert done.returncode == 0, done.stderr


@pytest.fixture
def place(make_installation: Callable[..., Any], until: Callable[..., Any], tmp_path: pathlib.Path) -> Iterator[Place]:
    installation = make_installation()
    (tmp_path / "db").write_text(ECHO)
    (tmp_path / "cart").write_text(CALLER)
    installation.rules(
        f'rules:\n- id: s\n  match: {{"launch:script": "{tmp_path}/*"}}\n  spiffe_id: "/{{launch:script_basename}}"\n'
    )
    port, app, local = free_port(), free_port(), free_port()
    publish(installation, tmp_path, port, "cart")
    with (
        launched(installation, "--inbound", f"{port}={app}", "--", sys.executable, f"{tmp_path}/db", str(app)),
        launched(
            installation, "--outbound", f"{local}=db", "--", sys.executable, f"{tmp_path}/cart", str(local)
        ) as cart,
    ):
        found = Place(installation, tmp_path, cart, port)
        until(lambda: found.tell("open") == "heard", 200)
        yield found


def test_an_open_stream_of_a_newly_denied_caller_ends_within_five_seconds_of_the_release(place: Place) -> None:
    assert place.tell("say") == "heard"
    place.publish("another")
    assert place.tell("end") == "ended"
    assert place.tell("open") == "ended"
    place.publish("cart")


@pytest.mark.parametrize(
    ("callers", "answer"),
    [pytest.param(["another"], "ended", id="closed"), pytest.param(["another", "cart"], "heard", id="open")],
)
def test_a_release_whose_approvals_are_for_another_one_is_refused_and_the_last_good_one_goes_on(
    place: Place, until: Callable[..., Any], callers: list[str], answer: str
) -> None:
    for caller in callers:
        place.publish(caller)
    until(lambda: place.tell("open") == answer, 200)
    # the one before the newest, which says the opposite
    forge(place.installation.state / "server" / "limen.sqlite")
    os.kill(place.installation.pid("agent"), signal.SIGKILL)
    until(lambda: place.refused() > 0, 200)
    assert place.tell("open") == answer


def forge(database: pathlib.Path) -> None:
    """Activate the release before the newest one again, under the approvals of the newest."""
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        rows = connection.execute("SELECT epoch, review, document FROM policy_activations ORDER BY epoch").fetchall()
        epoch, review, newest = rows[-1]
        before, last = json.loads(rows[-2][2]), json.loads(newest)
        forged = {**last, "epoch": epoch + 1, "snapshot": before["snapshot"], "predecessor": last["snapshot"]}
        row = (epoch + 1, review, json.dumps(forged))
        connection.execute("INSERT INTO policy_activations (epoch, review, document) VALUES (?, ?, ?)", row)
