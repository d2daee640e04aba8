"""Three hosts as network namespaces: a redirected workload on one, what it may call on another, others on a third.

The programs are launched by `limen run --intercept` as people would; what is asked of the network is asked by them.
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
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import enforcer.nftmount
from enforcer import guard, redirect
from enforcer.stamp import unified_root
from tests.enforcer.test_agent import APP
from tests.mesh.test_clienthello import made, named
from tests.tools import needs

pytestmark = [
    pytest.mark.system,
    pytest.mark.root,
    pytest.mark.slow,
    needs("ip", "nft", "nsenter"),
    pytest.mark.skipif(os.geteuid() != 0, reason="namespaces take root"),
]
A, B, C = "10.199.9.1", "10.199.9.2", "10.199.9.3"
A6, C6 = "fd99::1", "fd99::3"
# of this run alone; names of devices have 15 letters at most
RUN = f"limen{os.getpid()}"
NAMES = {f"{RUN}a": (A, A6), f"{RUN}b": (B, "fd99::2"), f"{RUN}c": (C, C6)}
SWITCH = f"{RUN}s"

# one question a line, answered by a line
ASKER = """
import socket, sys
def ask(kind, host, port, data):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM) as sock:
        sock.settimeout(30)
        try:
            sock.connect((host, int(port)))
            sock.send(bytes.fromhex(data))
            return sock.recv(4096).hex() or "closed"
        except OSError as err:
            return type(err).__name__
for line in sys.stdin:
    print(ask(*line.split()), flush=True)
"""
# says its own name to everybody, on TCP and UDP
OUTSIDE = """
import socket, sys, threading
name = sys.argv[1].encode()
def tcp(sock):
    while True:
        peer, _ = sock.accept()
        with peer:
            peer.recv(4096); peer.sendall(name)
def udp(sock):
    while True:
        _, peer = sock.recvfrom(4096)
        sock.sendto(name, peer)
for port in (443, 9000, 9001):
    sock = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
    threading.Thread(target=tcp, args=(sock,)).start()
for port in (9053, 9054):
    sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    sock.bind(("::", port)); threading.Thread(target=udp, args=(sock,)).start()
print("ready outside", flush=True)
"""
TREE = """apiVersion: limen.dev/v1
kind: Service
metadata: {name: db, owner: t}
spec:
  identities: ["spiffe://hosts.test/db"]
  ports: [{port: 8443, protocol: http}]
---
apiVersion: limen.dev/v1
kind: Policy
metadata: {name: p, owner: t}
spec:
  service: db
  tier: app
  rules:
  - {id: r, effect: allow, from: ["spiffe://hosts.test/asker"], to: [{paths: ["/ok"]}]}
"""
EXEMPT = ("service:db", f"cidr:{C}/32:9000", f"cidr:[{C6}]:9000", "dns:api.test:443", f"udp:{C}/32:9053")


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


@pytest.fixture
def network() -> Iterator[None]:
    """Three hosts on one switch."""
    for name in (SWITCH, *NAMES):
        subprocess.run(["ip", "netns", "del", name], check=False, stderr=subprocess.DEVNULL)
        ip("netns", "add", name)
        ip("-n", name, "link", "set", "lo", "up")
    ip("-n", SWITCH, "link", "add", "name", "lan", "type", "bridge")
    ip("-n", SWITCH, "link", "set", "dev", "lan", "up")
    for name, addresses in NAMES.items():
        ip("link", "add", "name", "eth0", "netns", name, "type", "veth", "peer", "name", name, "netns", SWITCH)
        ip("-n", SWITCH, "link", "set", "dev", name, "master", "lan", "up")
        ip("-n", name, "link", "set", "dev", "eth0", "up")
        ip("-n", name, "addr", "add", f"{addresses[0]}/24", "dev", "eth0")
        ip("-n", name, "addr", "add", f"{addresses[1]}/64", "dev", "eth0", "nodad")
    yield
    for name in (SWITCH, *NAMES):
        ip("netns", "del", name)


class Host:
    """One host: its network, its own /etc/hosts, and a state directory. The control groups are the machine's."""

    def __init__(self, name: str, hosts: pathlib.Path) -> None:
        self.name, self._hosts = name, hosts
        self.state = pathlib.Path(tempfile.mkdtemp(prefix="limen-r-"))
        self.processes: list[subprocess.Popen[str]] = []

    def inside(self, *command: str) -> list[str]:
        seen = [sys.executable, "-I", "-S", enforcer.nftmount.__file__, str(self._hosts), "/etc/hosts"]
        return [*seen, "/usr/bin/nsenter", f"--net=/run/netns/{self.name}", *command]

    def limen(self, *arguments: str) -> str:
        command = self.inside(sys.executable, "-m", "limen", "--state", str(self.state), *arguments)
        done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def start(self, ready: str, *command: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(self.inside(*command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.processes.append(process)
        assert process.stdout is not None
        if ready:
            for line in process.stdout:
                if line == f"ready {ready}\n":
                    break
        return process

    def daemon(self, ready: str, *arguments: str) -> subprocess.Popen[str]:
        return self.start(ready, sys.executable, "-m", "limen", "--state", str(self.state), *arguments)

    def tables(self) -> str:
        done = subprocess.run(
            self.inside("/usr/sbin/nft", "list", "tables"), capture_output=True, text=True, check=True
        )
        return done.stdout

    def close(self) -> None:
        for process in reversed(self.processes):
            process.terminate()
            process.wait(timeout=200)
            for stream in (process.stdin, process.stdout):
                assert stream is not None
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        shutil.rmtree(self.state)


def ask(asker: subprocess.Popen[str], kind: str, host: str, port: int, data: bytes = b"x") -> str:
    """What a program hears at an address, or the error's name."""
    assert asker.stdin is not None
    assert asker.stdout is not None
    asker.stdin.write(f"{kind} {host} {port} {data.hex()}\n")
    asker.stdin.flush()
    answer = asker.stdout.readline().strip()
    with contextlib.suppress(ValueError):
        return bytes.fromhex(answer).decode("latin-1")
    return answer


@pytest.fixture
def hosts(network: None, tmp_path: pathlib.Path) -> Iterator[dict[str, Host]]:
    del network  # it comes first
    names = tmp_path / "hosts"
    names.write_text(f"127.0.0.1 localhost\n{C} api.test\n{C} other.test\n")
    found = {name[-1]: Host(name, names) for name in NAMES}
    yield found
    for host in found.values():
        host.close()


@pytest.fixture
def asker(hosts: dict[str, Host], tmp_path: pathlib.Path) -> subprocess.Popen[str]:
    """The redirected workload on `a`; `db` on `b`; servers of nobody's on `c` and on `b`."""
    near, far = hosts["a"], hosts["b"]
    (tmp_path / "asker").write_text(ASKER)
    (tmp_path / "db").write_text(APP)
    near.daemon("server", "server", "--trust-domain", "hosts.test", "--listen", A)
    rule = f'- id: s\n  match: {{"launch:script": "{tmp_path}/*"}}\n  spiffe_id: "/{{launch:script_basename}}"\n'
    (near.state / "identities.yaml").write_text("rules:\n" + rule)
    url = json.loads((near.state / "run" / "server.json").read_text("utf-8"))["addresses"]["tls"]
    for host in (near, far):
        token = json.loads(near.limen("token", "create", "-o", "json"))["token"]
        host.daemon("agent", "agent", "--join", url, "--token", token, "--advertise", NAMES[host.name][0])
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "db.yaml").write_text(TREE)
    near.limen("policy", "publish", "--policies", str(tmp_path / "tree"))
    far.daemon("", "run", "--inbound", "0.0.0.0:8443=8080", "--", sys.executable, f"{tmp_path}/db", "8080")
    hosts["c"].start("outside", sys.executable, "-c", OUTSIDE, "c")
    far.start("outside", sys.executable, "-c", OUTSIDE, "b")
    words = [word for text in EXEMPT for word in ("--egress", text)]
    return near.daemon("", "run", "--intercept", *words, "--", sys.executable, f"{tmp_path}/asker")


GET = b"GET /ok HTTP/1.1\r\nHost: db\r\n\r\n"


def groups() -> list[pathlib.Path]:
    return [path for path in pathlib.Path(unified_root()).rglob("limen_*") if path.is_dir()]


def test_a_redirected_workload_reaches_what_was_named_and_nothing_else(
    hosts: dict[str, Host], asker: subprocess.Popen[str], until: Callable[..., Any]
) -> None:
    until(lambda: ask(asker, "tcp", B, 8443, GET).startswith("HTTP/1.1 200"), 200)
    # networks, IPv4 and IPv6; nothing beside them
    assert (ask(asker, "tcp", C, 9000), ask(asker, "tcp", C6, 9000)) == ("c", "c")
    denied = {"closed", "ConnectionResetError", "TimeoutError"}
    assert ask(asker, "tcp", C, 9001) in denied
    assert ask(asker, "tcp", C6, 9001) in denied
    assert ask(asker, "tcp", B, 9000) in denied
    # a name, where this host says that it is
    hello, other = made(named(b"api.test")), made(named(b"other.test"))
    assert (ask(asker, "tcp", C, 443, hello), ask(asker, "tcp", B, 443, hello)) == ("c", "c")
    assert ask(asker, "tcp", C, 443, other) in denied
    # datagrams
    assert ask(asker, "udp", C, 9053) == "c"
    for host, port in ((C, 9054), (C6, 9053), (B, 9053)):
        assert ask(asker, "udp", host, port) in {"PermissionError", "ConnectionRefusedError", "OSError"}
    # the service's port is reached by mutual TLS alone, and by the rules
    assert ask(asker, "tcp", B, 8443, GET.replace(b"/ok", b"/no")).startswith("HTTP/1.1 403")
    rows = [json.loads(line) for line in hosts["a"].limen("audit", "tail", "-n", "1000", "-o", "jsonl").splitlines()]
    codes = [row.get("code") for row in rows if row.get("direction") == "outbound"]
    assert "LM3230" in codes


def test_whoever_is_not_in_the_group_is_left_alone_though_it_is_the_same_user(
    hosts: dict[str, Host], asker: subprocess.Popen[str], tmp_path: pathlib.Path, until: Callable[..., Any]
) -> None:
    until(lambda: ask(asker, "tcp", C, 9000) == "c", 200)
    stranger = hosts["a"].start("", sys.executable, str(tmp_path / "asker"))
    assert (ask(stranger, "tcp", C, 9001), ask(stranger, "udp", C, 9054)) == ("c", "c")


def test_a_killed_agents_rules_hold_and_its_successor_removes_what_nobody_needs(
    hosts: dict[str, Host], asker: subprocess.Popen[str], until: Callable[..., Any]
) -> None:
    near = hosts["a"]
    name = guard.table_name(near.state)
    until(lambda: ask(asker, "tcp", C, 9000) == "c", 200)
    url = json.loads((near.state / "run" / "server.json").read_text("utf-8"))["addresses"]["tls"]
    rejected = {"PermissionError", "ConnectionRefusedError", "OSError"}

    def kill(agent: subprocess.Popen[str]) -> None:
        agent.send_signal(signal.SIGKILL)
        agent.wait()

    kill(near.processes[1])
    # nothing opens when the agent is gone
    assert name in near.tables()
    assert ask(asker, "udp", C, 9054) in rejected
    # a successor goes on with the program and with its rules
    successor = near.daemon("agent", "agent", "--join", url)
    until(lambda: ask(asker, "tcp", C, 9000) == "c", 200)
    assert ask(asker, "udp", C, 9054) in rejected
    assert ask(asker, "udp", C, 9053) == "c"
    kill(successor)
    # and another one, when the program is gone too, removes them at its start
    asker.kill()
    asker.wait()
    successor = near.daemon("agent", "agent", "--join", url)
    until(lambda: name not in near.tables(), 200)
    until(lambda: not [path for path in groups() if path.name.startswith(name)], 200)
    assert redirect.left_out() == ""
