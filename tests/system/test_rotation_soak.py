"""Authorities rotated every few seconds under mutual TLS load, with kills of server and agent: no handshake fails.

Each kind and each kill at least twice in every run, however long that takes; `make soak` (LIMEN_SOAK) goes on for ten
minutes and writes what it counted.
"""

import itertools
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from mesh.clock import SystemClock
from tests.enforcer.test_agent import APP
from tests.ports import free_port

SECONDS = 600 if os.environ.get("LIMEN_SOAK") else 120
LEAST = 2
pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(SECONDS + 900)]

CLIENT = """
import http.client, json, select, sys
port, good, bad = int(sys.argv[1]), 0, []
while not select.select([sys.stdin], [], [], 0)[0]:
    try:
        call = http.client.HTTPConnection("127.0.0.1", port, timeout=200)
        call.request("GET", "/ok", headers={"host": "db"})
        answer = call.getresponse()
        text = answer.read(500).decode()
        call.close()
        if answer.status == 200:
            good += 1
        else:
            bad.append([answer.status, text])
    except (OSError, http.client.HTTPException) as err:
        bad.append([0, repr(err)])
print(json.dumps({"good": good, "bad": bad[:20], "failed": len(bad)}), flush=True)
"""


def write(folder: pathlib.Path, inbound: int) -> pathlib.Path:
    folder.chmod(0o755)
    (folder / "db").write_text(APP)
    (folder / "cart").write_text(CLIENT)
    tree = folder / "tree"
    tree.mkdir()
    (tree / "db.yaml").write_text(
        "apiVersion: limen.dev/v1\nkind: Service\nmetadata: {name: db, owner: t}\nspec:\n"
        f'  identities: ["spiffe://test.limen/db"]\n  ports: [{{port: {inbound}, protocol: http}}]\n---\n'
        "apiVersion: limen.dev/v1\nkind: Policy\nmetadata: {name: p, owner: t}\nspec:\n  service: db\n  tier: app\n"
        '  rules:\n  - {id: r, effect: allow, from: ["spiffe://test.limen/cart"], to: [{methods: [GET]}]}\n'
    )
    return tree


def run(installation: Any, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "limen", "--state", str(installation.state), "run", *words]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def named(installation: Any) -> set[str]:
    return {row["spiffe_id"].rpartition("/")[2] for row in installation.json("identity", "list")}


def test_authorities_rotate_under_load_and_no_request_fails(
    make_installation: Callable[..., Any], until: Callable[..., Any], tmp_path: pathlib.Path
) -> None:
    installation = make_installation()
    inbound, app, outbound = free_port(), free_port(), free_port()
    tree = write(tmp_path, inbound)
    installation.rules(
        f'rules:\n- id: s\n  match: {{"launch:script": "{tmp_path}/*"}}\n  spiffe_id: "/{{launch:script_basename}}"\n'
    )
    assert installation.limen("policy", "publish", "--policies", str(tree)).returncode == 0
    python = sys.executable
    db = run(installation, "--inbound", f"{inbound}={app}", "--", python, str(tmp_path / "db"), str(app))
    until(lambda: "db" in named(installation), 200)
    cart = run(installation, "--outbound", f"{outbound}=db", "--", python, str(tmp_path / "cart"), str(outbound))
    rotations, kills = {"issuing": 0, "root": 0, "jwt": 0}, {"server": 0, "agent": 0}
    kinds = itertools.cycle(["issuing", "root", "issuing", "jwt", "issuing"])
    victims = itertools.cycle(["", "server", "", "agent"])
    begin = time.monotonic()
    while time.monotonic() < begin + SECONDS or min(*rotations.values(), *kills.values()) < LEAST:
        kind, name = next(kinds), next(victims)
        if installation.limen("identity", "rotate", kind).returncode == 0:
            rotations[kind] += 1
            # every workload's next SVID is of the new one
            installation.limen("identity", "rotate", "--svids")
        if name:
            killed = installation.pid(name)
            os.kill(killed, signal.SIGKILL)
            kills[name] += 1
            until(lambda name=name, killed=killed: installation.pid(name) != killed, 100)
            until(lambda: installation.limen("status").returncode == 0, 60)
            until(lambda: installation.json("status")["agents"][:1] != [], 60)
    assert cart.stdin is not None
    assert cart.stdout is not None
    cart.stdin.write("\n")
    cart.stdin.flush()
    counted = json.loads(cart.stdout.readline())
    for process in (cart, db):
        process.terminate()
        process.communicate(timeout=40)
    found = {"seconds": round(time.monotonic() - begin), "rotations": rotations, "kills": kills, **counted}
    if os.environ.get("LIMEN_SOAK"):
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False
        ).stdout.strip()
        command = "LIMEN_SOAK=1 python -m pytest tests/system/test_rotation_soak.py"
        date = SystemClock().now().date().isoformat()
        row = {"commit": commit, "date": date, "command": command, "is_part_of": "make soak", **found}
        pathlib.Path("benchmarks/results/rotation-soak.json").write_text(json.dumps(row, indent=1) + "\n")
    assert counted["failed"] == 0, json.dumps(found, indent=1)
    # it was under load all the while: many requests for each thing that was done
    assert counted["good"] > 5 * sum((*rotations.values(), *kills.values()))
