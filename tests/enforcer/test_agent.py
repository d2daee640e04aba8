"""The agent as a whole, in a running installation: workloads, sidecars, releases, guards."""

import errno
import http.client
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from enforcer import control
from tests.ports import free_port
from tests.tools import needs

pytestmark = pytest.mark.system

APP = """
import http.server, sys
class H(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.send_response(200); self.send_header("content-length", "2"); self.end_headers(); self.wfile.write(b"hi")
    def log_message(self, *a): pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), H).serve_forever()
"""
CLIENT = """
import http.client, sys
for line in sys.stdin:
    c = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]), timeout=200)
    c.request("GET", line.strip(), headers={"host": "db"}); r = c.getresponse(); r.read(); print(r.status, flush=True)
"""


class Shop:
    """A service and a client of it, launched as workloads."""

    def __init__(self, installation: Any, folder: pathlib.Path) -> None:
        self.installation = installation
        (folder / "db").write_text(APP)
        (folder / "cart").write_text(CLIENT)
        installation.rules(
            f'rules:\n- id: s\n  match: {{"launch:script": "{folder}/*"}}\n  spiffe_id: "/{{launch:script_basename}}"\n'
        )
        self.app, self.inbound, self.out = free_port(), free_port(), free_port()
        self.folder = folder
        self.publish("/ok")
        self.db = self.run(
            "--inbound", f"{self.inbound}={self.app}", "--", sys.executable, f"{folder}/db", str(self.app)
        )
        self.cart = self.run("--outbound", f"{self.out}=db", "--", sys.executable, f"{folder}/cart", str(self.out))

    def publish(self, path: str) -> None:
        tree = self.folder / f"tree{len(list(self.folder.iterdir()))}"
        tree.mkdir()
        (tree / "db.yaml").write_text(
            "apiVersion: limen.dev/v1\nkind: Service\nmetadata: {name: db, owner: t}\nspec:\n"
            f'  identities: ["spiffe://test.limen/db"]\n  ports: [{{port: {self.inbound}, protocol: http}}]\n---\n'
            "apiVersion: limen.dev/v1\nkind: Policy\nmetadata: {name: p, owner: t}\nspec:\n  service: db\n  tier: app\n"
            '  rules:\n  - {id: r, effect: allow, from: ["spiffe://test.limen/cart"], to: [{methods: [GET], '
            f'paths: ["{path}"]}}]}}\n'
        )
        done = self.installation.limen("policy", "publish", "--policies", str(tree))
        assert done.returncode == 0, done.stderr

    def run(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "limen", "--state", str(self.installation.state), "run", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def get(self, path: str) -> int:
        assert self.cart.stdin is not None
        assert self.cart.stdout is not None
        self.cart.stdin.write(path + "\n")
        self.cart.stdin.flush()
        return int(self.cart.stdout.readline())

    def status(self) -> dict[str, Any]:
        return dict(control.ask(self.installation.state / "control.sock", {"type": "status"}))

    def close(self) -> None:
        for process in (self.cart, self.db):
            process.terminate()
            process.wait(timeout=100)
            for stream in (process.stdin, process.stdout):
                assert stream is not None
                stream.close()


@pytest.fixture(scope="module")
def shop(own_installation: Any, tmp_path_factory: pytest.TempPathFactory, until: Callable[..., Any]) -> Iterator[Shop]:
    folder = tmp_path_factory.mktemp("shop")
    folder.chmod(0o755)
    found = Shop(own_installation, folder)
    # ready: both have identities, and the application answers through both sidecars
    until(
        lambda: all(row["spiffe_id"] for row in found.status()["workloads"]) and len(found.status()["workloads"]) == 2
    )
    until(lambda: found.get("/ok") == 200)
    yield found
    found.close()


def test_a_new_release_holds_from_the_next_request_and_a_rotation_loses_none(
    shop: Shop, until: Callable[..., Any]
) -> None:
    assert (shop.get("/ok"), shop.get("/new")) == (200, 403)
    from limen.client import Client

    def issued() -> int:
        return sum(row["spiffe_id"] == "spiffe://test.limen/cart" for row in shop.installation.json("identity", "list"))

    before = issued()
    Client(shop.installation.state / "server.sock").call("POST", "/v1/rotate", {})
    until(lambda: shop.get("/ok") != 200 or issued() > before)
    assert shop.get("/ok") == 200
    shop.publish("/new")
    until(lambda: shop.get("/new") == 200)
    assert shop.get("/ok") == 403
    # as the other tests expect it
    shop.publish("/ok")
    until(lambda: shop.get("/ok") == 200)


def test_other_programs_get_nothing_from_a_workloads_way_out(shop: Shop) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", shop.out, timeout=200)
    connection.request("GET", "/ok", headers={"host": "db"})
    answer = connection.getresponse()
    assert answer.status == 403
    assert json.loads(answer.read())["code"] == "LM3422"
    connection.close()


def test_decisions_reach_the_log_and_flows_the_server(shop: Shop, until: Callable[..., Any]) -> None:
    shop.get("/ok")
    shop.get("/denied")

    def codes() -> set[tuple[str, str]]:
        done = shop.installation.limen("audit", "tail", "-n", "200", "-o", "jsonl")
        rows = [json.loads(line) for line in done.stdout.splitlines()]
        return {(row["decision"], row["code"]) for row in rows if row["kind"] == "decision"}

    until(lambda: {("allow", "LM2300"), ("deny", "LM2302")} <= codes())
    until(lambda: shop.installation.json("status")["flow_connections"] > 0)


def test_the_status_says_what_this_host_cannot_guard(shop: Shop) -> None:
    left_out = shop.status()["left_out"]
    assert ("root" in left_out) is (os.geteuid() != 0)
    assert ("nft" in left_out) is (os.geteuid() != 0 or shutil.which("nft") is None)
    said = (shop.installation.state / "stderr").read_text("utf-8")
    rows = shop.installation.limen("check", "-o", "json").stdout
    for name, reason in left_out.items():
        assert f'"missing": "{name}"' in said
        assert reason in rows


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="the packet filter takes root")
@needs("nft")
def test_nobody_passes_the_sidecar(shop: Shop) -> None:
    with socket.socket() as sock:
        assert sock.connect_ex(("127.0.0.1", shop.app)) == errno.ECONNREFUSED
    assert shop.get("/ok") == 200


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives each sidecar a user of its own")
def test_every_sidecar_runs_as_an_unprivileged_user_of_its_own(shop: Shop) -> None:
    uids = set()
    for task in pathlib.Path(f"/proc/{shop.installation.pid('agent')}/task").iterdir():
        for child in (task / "children").read_text("ascii").split():
            if b"enforcer.native" in pathlib.Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0"):
                text = pathlib.Path(f"/proc/{child}/status").read_text("ascii", "replace")
                uids |= {line.split()[1] for line in text.splitlines() if line.startswith("Uid:")}
    assert len(uids) == 2
    assert all(int(uid) >= 61184 for uid in uids)
