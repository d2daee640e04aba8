"""Beside the tables that Docker's daemon writes: a redirected workload is redirected, and nothing of Docker's changes.

No daemon runs here: its chains are written as it writes them, by `iptables-nft`, in a network of the test's own.
"""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from tests.tools import needs

pytestmark = [
    pytest.mark.system,
    pytest.mark.root,
    pytest.mark.slow,
    needs("ip", "nft", "unshare", "iptables-nft", "iptables-nft-save"),
    pytest.mark.skipif(os.geteuid() != 0, reason="namespaces take root"),
]
ROOT = pathlib.Path(__file__).parents[2]

SCRIPT = r"""
import json, os, socket, subprocess, sys, threading
from enforcer import guard, redirect
from enforcer.redirect import Redirected

HOST, PUBLISHED, PLACE = "10.198.7.1", 8080, 8081
DOCKER = '''
*nat
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
-A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 10.198.7.1:8081
COMMIT
*filter
:FORWARD DROP [0:0]
:DOCKER - [0:0]
:DOCKER-USER - [0:0]
:DOCKER-ISOLATION-STAGE-1 - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-ISOLATION-STAGE-1
-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o docker0 -j DOCKER
-A DOCKER-USER -j RETURN
-A DOCKER-ISOLATION-STAGE-1 -j RETURN
COMMIT
'''

def run(*command, text=None):
    return subprocess.run(command, input=text, check=True, capture_output=True, text=True).stdout

def serve(host, port, name):
    sock = socket.create_server((host, port))
    def answer():
        while True:
            peer, _ = sock.accept()
            with peer:
                peer.sendall(name)
    threading.Thread(target=answer, daemon=True).start()
    return sock.getsockname()[1]

ASK = '''
import socket, sys
for line in sys.stdin:
    try:
        with socket.create_connection(("10.198.7.1", 8080), 30) as sock:
            print(sock.recv(99).decode(), flush=True)
    except OSError as err:
        print(type(err).__name__, flush=True)
'''

def asker():
    return subprocess.Popen([sys.executable, "-c", ASK], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

def ask(found):
    found.stdin.write("\n")
    found.stdin.flush()
    return found.stdout.readline().strip()

def docker():
    rows = run("iptables-nft-save").splitlines()
    return [row.partition(" [")[0] if row.startswith(":") else row for row in rows if not row.startswith("#")]

SET_UP = f'''link set lo up
link add d0 type veth peer name d1
addr add {HOST}/24 dev d0
link set d0 up
link set d1 up'''
for command in SET_UP.splitlines():
    run("ip", *command.split())
sidecar = serve("127.0.0.1", 0, b"sidecar")
serve(HOST, PLACE, b"container")
inside, outside = asker(), asker()
group = redirect.enclose(inside.pid, f"limen-docker-{os.getpid()}")
redirected = [Redirected(group=group, port=sidecar)]
said = {}
try:
    if sys.argv[1] == "docker first":
        run("iptables-nft-restore", text=DOCKER)
        said["before"] = docker()
        guard.apply("limen_test", [], redirected)
    else:
        guard.apply("limen_test", [], redirected)
        run("iptables-nft-restore", text=DOCKER)
        said["before"] = docker()
    said["inside"], said["outside"], said["beside"] = ask(inside), ask(outside), docker()
    guard.apply("limen_test", [], redirected)  # written anew
    said["again"] = ask(inside), ask(outside)
    guard.remove("limen_test")
    said["removed"], said["after"] = (ask(inside), ask(outside)), docker()
    said["tables"] = run("nft", "list", "tables")
finally:
    for found in (inside, outside):
        found.kill()
        found.wait()
    redirect.release(group)
print(json.dumps(said))
"""


@pytest.mark.parametrize("order", ["docker first", "limen first"])
def test_dockers_chains_and_ours_leave_each_other_alone(order: str) -> None:
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-c", SCRIPT, order], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert (
        "-A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 10.198.7.1:8081" in said["before"]
    )
    # a published port is no way around the sidecar, whoever wrote first
    assert (said["inside"], said["outside"]) == ("sidecar", "container")
    assert said["again"] == ["sidecar", "container"]
    assert said["removed"] == ["container", "container"]
    assert said["before"] == said["beside"] == said["after"]
    assert "limen" not in said["tables"]
