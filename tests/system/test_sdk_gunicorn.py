"""An application under gunicorn that enforces by itself, under a real agent and server.

SVIDs are rotated and workers replaced while a program of ours calls it, and no request fails; every worker is told who
it is by itself.
"""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.ports import free_port

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(1500)]

# the script that is launched, and attested by its name: gunicorn with our worker class
GUNICORN = """
from gunicorn.app.wsgiapp import run
run()
"""
APP = """
import hashlib, os
from enforcer.sdk import connect
limen = connect(timeout_s=120)  # of the application's own, to call others by

async def app(scope, receive, send):
    if scope["type"] == "http":
        serial = hashlib.sha256(limen.workload.identity.svid.chain_der[0]).hexdigest()
        body = f"{scope['limen']['caller']} {limen.spiffe_id} {os.getpid()} {serial}".encode()
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})
"""
# it asks until it is told to stop and has seen enough: half of the requests on kept connections, half on new ones
CALLER = """
import collections, json, sys, threading, time
import httpx2
from enforcer.sdk import connect
from enforcer.sdk.httpxtransport import transport

limen = connect(timeout_s=120)
stop = threading.Event()
threading.Thread(target=lambda: (sys.stdin.readline(), stop.set()), daemon=True).start()
kept = httpx2.Client(transport=transport(limen), timeout=120)
failed, answers, count = [], collections.Counter(), 0
patience = time.monotonic() + 300

def is_enough():
    # workers of both generations have answered, and with another SVID
    rows = [answer.split() for answer in answers]
    return stop.is_set() and count >= 100 and len({row[2] for row in rows}) > 1 and len({row[3] for row in rows}) > 1

while not is_enough() and not failed:
    for once in (False, True):
        try:
            if once:
                with httpx2.Client(transport=transport(limen), timeout=120) as client:
                    found = client.get("http://web/orders")
            else:
                found = kept.get("http://web/orders")
            answers[found.text] += 1
            if found.status_code != 200:
                failed.append([found.status_code, found.text])
        except httpx2.TransportError as err:
            failed.append([0, repr(err)])
        count += 1
        if count == 1 and failed:  # nothing is there yet
            if time.monotonic() > patience:
                break
            failed, answers, count = [], collections.Counter(), 0
        elif count == 1:
            print("begun", flush=True)
print(json.dumps([count, failed, answers]), flush=True)
"""
TREE = """apiVersion: limen.dev/v1
kind: Service
metadata: {{name: web, owner: t}}
spec:
  identities: ["spiffe://test.limen/web"]
  ports: [{{port: {port}, protocol: http}}]
---
apiVersion: limen.dev/v1
kind: Policy
metadata: {{name: web, owner: t}}
spec:
  service: web
  tier: app
  rules:
  - {{id: orders, effect: allow, from: ["spiffe://test.limen/caller"], to: [{{paths: ["/orders"]}}]}}
"""


class Place:
    """An installation with gunicorn in it, and a program that calls."""

    def __init__(self, installation: Any, folder: pathlib.Path) -> None:
        self.installation, self.folder, self.port = installation, folder, free_port()
        self._stack = contextlib.ExitStack()
        for name, code in (("web", GUNICORN), ("served.py", APP), ("caller", CALLER)):
            (folder / name).write_text(code)
        installation.rules(
            f'rules:\n- id: scripts\n  match: {{"launch:script": "{folder}/*"}}\n'
            '  spiffe_id: "/{launch:script_basename}"\n  direct: true\n'
        )
        (folder / "tree").mkdir()
        (folder / "tree" / "all.yaml").write_text(TREE.format(port=self.port))
        done = installation.limen("policy", "publish", "--policies", str(folder / "tree"))
        assert done.returncode == 0, done.stderr
        self.pid_file = folder / "gunicorn.pid"
        self.run(
            "--inbound", str(self.port), "--", sys.executable, str(folder / "web"),
            "-k", "enforcer.sdk.gunicornworker.Worker", "--workers", "3", "--bind", f"127.0.0.1:{self.port}",
            "--chdir", str(folder), "--pid", str(self.pid_file), "--no-control-socket", "--log-level", "error",
            # a worker that is slow is no worker that hangs; connections are kept while nobody is asked
            "--timeout", "300", "--graceful-timeout", "300", "--keep-alive", "300", "served:app",
        )  # fmt: skip
        self.caller = self.run("--", sys.executable, str(folder / "caller"))

    def run(self, *words: str) -> "subprocess.Popen[str]":
        state = str(self.installation.state)
        process = subprocess.Popen(
            [sys.executable, "-m", "limen", "--state", state, "run", "--sdk", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._stack.callback(self._end, process)
        return process

    @staticmethod
    def _end(process: "subprocess.Popen[str]") -> None:
        process.terminate()
        process.communicate(timeout=300)

    def metrics(self) -> str:
        """What Prometheus reads of the agent."""
        with urllib.request.urlopen(self.installation.address("agent", "metrics"), timeout=100) as answer:
            return str(answer.read().decode())

    def workers(self, master: int) -> set[int]:
        found = set[int]()
        for task in pathlib.Path(f"/proc/{master}/task").iterdir():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that has ended
                found |= {int(child) for child in (task / "children").read_text().split()}
        return found

    def close(self) -> None:
        self._stack.close()


@pytest.fixture
def place(make_installation: Callable[..., Any]) -> Iterator[Place]:
    folder = pathlib.Path(tempfile.mkdtemp(prefix="limen-gunicorn-"))
    found = Place(make_installation(), folder)
    yield found
    found.close()
    shutil.rmtree(folder)


def test_workers_of_gunicorn_are_identified_renewed_and_replaced_and_no_request_fails(
    place: Place, until: Callable[..., Any]
) -> None:
    caller = place.caller
    assert caller.stdin is not None
    assert caller.stdout is not None
    assert caller.stdout.readline() == "begun\n"
    master = int(place.pid_file.read_text())  # gunicorn writes it anew when it replaces its workers
    first = until(lambda: found if len(found := place.workers(master)) == 3 else None, 200)
    for what in ("issuing", "--svids"):
        done = place.installation.limen("identity", "rotate", what)
        assert done.returncode == 0, done.stderr
    os.kill(master, signal.SIGHUP)
    until(lambda: len(found := place.workers(master)) == 3 and not found & first, 300)
    done = place.installation.limen("identity", "rotate", "--svids")
    assert done.returncode == 0, done.stderr
    caller.stdin.write("\n")
    caller.stdin.flush()
    count, failed, answers = json.loads(caller.stdout.readline())
    assert failed == []
    assert count >= 100  # from old and new workers, with old and new SVIDs
    rows = [answer.split() for answer in answers]
    assert {tuple(row[:2]) for row in rows} == {("spiffe://test.limen/caller", "spiffe://test.limen/web")}
    # and what they answered is counted where Prometheus reads it
    until(lambda: counted(place.metrics()) > 0, 120)


def counted(text: str) -> float:
    """How many requests of the caller were allowed, by the metrics."""
    found = [
        float(line.rpartition(" ")[2])
        for line in text.splitlines()
        if line.startswith("limen_sidecar_requests_total{") and 'caller="spiffe://test.limen/caller"' in line
    ]
    return sum(found)
