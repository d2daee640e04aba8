"""Two hosts, as network namespaces: a server and an agent on one, an agent on the other, a call across."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.enforcer.test_agent import APP, CLIENT

pytestmark = [
    pytest.mark.system,
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0 or shutil.which("ip") is None, reason="namespaces take root and iproute2"),
]
# of this run alone
NEAR, FAR = (f"limen{os.getpid()}{end}" for end in "ab")
ADDRESSES = {NEAR: "10.199.7.1", FAR: "10.199.7.2"}


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


@pytest.fixture
def hosts() -> Iterator[dict[str, str]]:
    for name in ADDRESSES:
        subprocess.run(["ip", "netns", "del", name], check=False, stderr=subprocess.DEVNULL)
        ip("netns", "add", name)
    ip("link", "add", "veth-la", "netns", NEAR, "type", "veth", "peer", "name", "veth-lb", "netns", FAR)
    for name, address in ADDRESSES.items():
        device = f"veth-l{name[-1]}"
        ip("-n", name, "addr", "add", f"{address}/24", "dev", device)
        ip("-n", name, "link", "set", device, "up")
        ip("-n", name, "link", "set", "lo", "up")
    yield ADDRESSES
    for name in ADDRESSES:
        ip("netns", "del", name)


class Host:
    """One host: a namespace and a state directory."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.state = pathlib.Path(tempfile.mkdtemp(prefix="limen-h-"))
        self.processes: list[subprocess.Popen[str]] = []

    def command(self, *arguments: str) -> list[str]:
        return ["ip", "netns", "exec", self.name, sys.executable, "-m", "limen", "--state", str(self.state), *arguments]

    def limen(self, *arguments: str) -> str:
        done = subprocess.run(self.command(*arguments), capture_output=True, text=True, timeout=200, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def start(self, ready: str, *arguments: str) -> subprocess.Popen[str]:
        with (self.state / f"err{len(self.processes)}").open("w") as errors:
            process = subprocess.Popen(
                self.command(*arguments), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
            )
        self.processes.append(process)
        assert process.stdout is not None
        if ready:
            for line in process.stdout:
                if line == f"ready {ready}\n":
                    break
        return process

    def close(self) -> None:
        for process in reversed(self.processes):
            process.terminate()
            process.wait(timeout=100)
            for stream in (process.stdin, process.stdout):
                assert stream is not None
                stream.close()
        shutil.rmtree(self.state)


def test_a_workload_calls_a_service_on_another_host(
    hosts: dict[str, str], tmp_path: pathlib.Path, until: Callable[..., Any]
) -> None:
    (tmp_path / "db").write_text(APP)
    (tmp_path / "cart").write_text(CLIENT)
    near, far = Host(NEAR), Host(FAR)
    try:
        near.start("server", "server", "--trust-domain", "hosts.test", "--listen", hosts[NEAR])
        rule = f'- id: s\n  match: {{"launch:script": "{tmp_path}/*"}}\n  spiffe_id: "/{{launch:script_basename}}"\n'
        (near.state / "identities.yaml").write_text("rules:\n" + rule)
        url = json.loads((near.state / "run" / "server.json").read_text("utf-8"))["addresses"]["tls"]
        assert hosts[NEAR] in url
        for host in (near, far):
            token = json.loads(near.limen("token", "create", "-o", "json"))["token"]
            host.start("agent", "agent", "--join", url, "--token", token, "--advertise", hosts[host.name])
        tree = tmp_path / "tree"
        tree.mkdir()
        (tree / "db.yaml").write_text(
            "apiVersion: limen.dev/v1\nkind: Service\nmetadata: {name: db, owner: t}\nspec:\n"
            '  identities: ["spiffe://hosts.test/db"]\n  ports: [{port: 8443, protocol: http}]\n---\n'
            "apiVersion: limen.dev/v1\nkind: Policy\nmetadata: {name: p, owner: t}\nspec:\n  service: db\n  tier: app\n"
            '  rules:\n  - {id: r, effect: allow, from: ["spiffe://hosts.test/cart"], to: [{paths: ["/ok"]}]}\n'
        )
        near.limen("policy", "publish", "--policies", str(tree))
        far.start("", "run", "--inbound", "0.0.0.0:8443=8080", "--", sys.executable, f"{tmp_path}/db", "8080")
        cart = near.start("", "run", "--outbound", "9001=db", "--", sys.executable, f"{tmp_path}/cart", "9001")
        assert cart.stdin is not None
        assert cart.stdout is not None

        def get(path: str) -> int:
            cart.stdin.write(path + "\n")  # type: ignore[union-attr]
            cart.stdin.flush()  # type: ignore[union-attr]
            return int(cart.stdout.readline() or 0)  # type: ignore[union-attr]

        until(lambda: get("/ok") == 200, 200)
        assert get("/other") == 403
        # the application itself is not reachable from the other host
        refused = subprocess.run(
            ["ip", "netns", "exec", NEAR, sys.executable, "-c",
             f"import socket; socket.create_connection(('{hosts[FAR]}', 8080), timeout=2)"],
            check=False, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        assert refused.returncode != 0
    finally:
        near_first = [far, near]
        for host in near_first:
            host.close()
