"""Sidecars that others take over from, under load: no request of a kept-alive or one-request connection fails."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from enforcer import control
from mesh.problems import Unavailable
from tests.enforcer.test_agent import APP, free_port
from tests.system.test_rotation_soak import write

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(600)]
UPGRADES = 10

# two threads with one connection for as long as it stays, two with one for each request; each line in is answered
# with what was counted since the last one
CLIENT = """
import http.client, json, sys, threading
port, lock, state = int(sys.argv[1]), threading.Lock(), {"kept": 0, "short": 0, "bad": []}
def count(kind, problem):
    with lock:
        if problem: state["bad"].append(kind + " " + problem)
        else: state[kind] += 1
def ask(call, **headers):
    call.request("GET", "/ok", headers={"host": "db", **headers})
    answer = call.getresponse()
    text = answer.read().decode()
    return "" if answer.status == 200 else f"{answer.status} {text}"
def kept():
    while True:
        # http.client connects again by itself after `Connection: close`, and not otherwise
        call = http.client.HTTPConnection("127.0.0.1", port, timeout=90)
        try:
            while True: count("kept", ask(call))
        except (OSError, http.client.HTTPException) as err: count("kept", repr(err))
def short():
    while True:
        call = http.client.HTTPConnection("127.0.0.1", port, timeout=90)
        try: count("short", ask(call, connection="close"))
        except (OSError, http.client.HTTPException) as err: count("short", repr(err))
        call.close()
for work in (kept, kept, short, short): threading.Thread(target=work, daemon=True).start()
for line in sys.stdin:
    with lock:
        print(json.dumps(state), flush=True)
        state.update(kept=0, short=0, bad=[])
"""
SLOW = """
import http.server, sys, threading
class H(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.send_response(200); self.send_header("content-length", "4"); self.end_headers()
        self.wfile.write(b"be"); self.wfile.flush()
        print("begun", flush=True)
        # the other half when the test says so
        sys.stdin.readline()
        self.wfile.write(b"gu")
    def log_message(self, *a): pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), H).serve_forever()
"""

# one request, asked again until the service is there
ONE = """
import http.client, sys
while True:
    call = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]), timeout=90)
    try:
        call.request("GET", "/ok", headers={"host": "db"})
        answer = call.getresponse()
    except (OSError, http.client.HTTPException): continue
    if answer.status == 200:
        print(answer.status, answer.read().decode(), flush=True)
        sys.stdin.read()
"""


class Pair:
    """A service with two sidecars and a caller with one, as `limen run` launches them."""

    def __init__(self, installation: Any, folder: pathlib.Path, *, app: str = APP, client: str = CLIENT) -> None:
        self.installation = installation
        self.inbound, self.app, self.out = free_port(), free_port(), free_port()
        tree = write(folder, self.inbound)
        (folder / "db").write_text(app)
        (folder / "cart").write_text(client)
        installation.rules(
            f'rules:\n- id: s\n  match: {{"launch:script": "{folder}/*"}}\n  spiffe_id: "/{{launch:script_basename}}"\n'
        )
        assert installation.limen("policy", "publish", "--policies", str(tree)).returncode == 0
        python = sys.executable
        ports = ("--workers", "2", "--inbound", f"{self.inbound}={self.app}")
        self.db = self.run("--name", "db", *ports, "--", python, f"{folder}/db", str(self.app))
        self.cart = self.run(
            "--name", "cart", "--outbound", f"{self.out}=db", "--", python, f"{folder}/cart", str(self.out)
        )

    def run(self, *words: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "limen", "--state", str(self.installation.state), "run", *words]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def rows(self) -> dict[str, list[dict[str, Any]]]:
        """The sidecars of each workload that has its identity."""
        try:
            found = control.ask(self.installation.state / "control.sock", {"type": "status"})["workloads"]
        except Unavailable:
            return {}
        assert isinstance(found, list)
        return {row["name"]: row["sidecars"] for row in found if row["spiffe_id"]}

    def serving(self, name: str) -> list[int]:
        return [row["pid"] for row in self.rows().get(name, []) if not row["draining"]]

    def counted(self) -> dict[str, Any]:
        """What the client counted since it was asked last."""
        assert self.cart.stdin is not None
        assert self.cart.stdout is not None
        self.cart.stdin.write("\n")
        self.cart.stdin.flush()
        return dict(json.loads(self.cart.stdout.readline()))

    def close(self) -> None:
        for process in (self.cart, self.db):
            process.terminate()
            process.wait(timeout=60)
            for stream in (process.stdin, process.stdout):
                assert stream is not None
                stream.close()


@pytest.fixture
def pair(make_installation: Callable[..., Any], until: Callable[..., Any], tmp_path: pathlib.Path) -> Iterator[Pair]:
    found = Pair(make_installation(), tmp_path)
    until(lambda: len(found.serving("db")) == 2 and len(found.serving("cart")) == 1, 90)

    def serves() -> bool:
        # the program may listen later than its sidecars
        counted = found.counted()
        return not counted["bad"] and bool(counted["kept"]) and bool(counted["short"])

    until(serves, 120)
    yield found
    found.close()


def more(pair: Pair, until: Callable[..., Any]) -> list[str]:
    """What failed, once some more requests of both kinds have been served."""
    seen: dict[str, Any] = {"kept": 0, "short": 0, "bad": []}

    def enough() -> bool:
        for name, value in pair.counted().items():
            seen[name] += value
        return bool(seen["bad"]) or (seen["kept"] >= 20 and seen["short"] >= 10)

    until(enough, 120)
    return list(seen["bad"])


def test_ten_upgrades_under_load_fail_no_request(pair: Pair, until: Callable[..., Any]) -> None:
    assert more(pair, until) == []
    seen = {*pair.serving("db"), *pair.serving("cart")}
    for _ in range(UPGRADES):
        done = pair.installation.limen("sidecar", "upgrade")
        assert done.returncode == 0, done.stderr
        now = {*pair.serving("db"), *pair.serving("cart")}
        assert len(now) == 3
        assert not now & seen
        seen |= now
        assert more(pair, until) == []
    # those that called serve their kept-alive callers to the end; those that were called have ended with an answer
    until(lambda: len(pair.rows()["db"]) == 2, 90)


def test_a_killed_sidecar_is_followed_by_another_one_and_no_connection_is_refused(
    pair: Pair, until: Callable[..., Any]
) -> None:
    more(pair, until)
    (before,) = pair.serving("cart")
    os.kill(before, signal.SIGKILL)
    # a stranger's connection is taken before it is refused by its process check, never by the kernel
    while pair.serving("cart") in ([before], []):
        socket.create_connection(("127.0.0.1", pair.out), 60).close()
    # what it carried is lost with it
    until(lambda: not pair.counted()["bad"], 60)
    assert more(pair, until) == []


def test_sigterm_to_a_sidecar_is_an_upgrade(pair: Pair, until: Callable[..., Any]) -> None:
    assert more(pair, until) == []
    before = pair.serving("db")
    for pid in before:
        os.kill(pid, signal.SIGTERM)
    until(lambda: len(pair.serving("db")) == 2 and not set(pair.serving("db")) & set(before), 90)
    assert more(pair, until) == []
    until(lambda: len(pair.rows()["db"]) == 2, 90)


def test_an_agent_of_other_code_puts_sidecars_of_its_own_in_their_place(pair: Pair, until: Callable[..., Any]) -> None:
    assert more(pair, until) == []
    before = {*pair.serving("db"), *pair.serving("cart")}
    # as if other code had been installed when they were started; the agent writes these files too, so it is held
    os.kill(pair.installation.pid("agent"), signal.SIGSTOP)
    for path in (pair.installation.state / "agent" / "workloads").glob("*.json"):
        row = json.loads(path.read_text())
        for sidecar in row["sidecars"]:
            sidecar["build"] = "another"
        path.write_text(json.dumps(row))
    os.kill(pair.installation.pid("agent"), signal.SIGKILL)

    def replaced() -> bool:
        serving = {*pair.serving("db"), *pair.serving("cart")}
        return len(serving) == 3 and not serving & before

    # one that drains serves until it is told so
    until(replaced, 300)
    assert more(pair, until) == []


def connects(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 60).close()
    except ConnectionRefusedError:
        return False
    return True


def test_a_workload_that_ends_lets_answers_under_way_reach_their_callers(
    make_installation: Callable[..., Any], until: Callable[..., Any], tmp_path: pathlib.Path
) -> None:
    found = Pair(make_installation(), tmp_path, app=SLOW, client=ONE)
    assert found.db.stdin is not None
    assert found.db.stdout is not None
    assert found.db.stdout.readline() == "begun\n"
    found.db.send_signal(signal.SIGTERM)
    # nobody new is taken, and the program runs on
    until(lambda: not connects(found.inbound), 60)
    found.db.stdin.write("\n")
    found.db.stdin.flush()
    assert found.cart.stdout is not None
    assert found.cart.stdout.readline() == "200 begu\n"
    # only then it was told to end
    assert found.db.wait(timeout=60) == 128 + signal.SIGTERM
    found.close()
