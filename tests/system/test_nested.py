"""Two servers of one trust domain, one below the other, as processes: a workload below each, and calls across."""

import json
import os
import pathlib
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from tests.enforcer.test_agent import APP
from tests.ports import free_port
from tests.system.test_rotation_soak import CLIENT, named, run

pytestmark = [pytest.mark.system, pytest.mark.slow]
TREE = """
apiVersion: limen.dev/v1
kind: Service
metadata: {{name: db, owner: t}}
spec:
  identities: ["spiffe://test.limen/db"]
  ports: [{{port: {port}, protocol: http}}]
---
apiVersion: limen.dev/v1
kind: Policy
metadata: {{name: p, owner: t}}
spec:
  service: db
  tier: app
  rules:
  - {{id: r, effect: allow, from: ["spiffe://test.limen/cart"], to: [{{methods: [GET]}}]}}
"""


def active(installation: Any, kind: str) -> str:
    rows = installation.json("identity", "authorities")["authorities"]
    return next(row["id"] for row in rows if (row["kind"], row["state"]) == (kind, "active"))


def roots(installation: Any) -> set[str]:
    found = json.loads(installation.limen("bundle", "show", "--format", "spiffe").stdout)
    return {key["x5c"][0] for key in found["keys"] if key["use"] == "x509-svid"}


def issuer_of(installation: Any) -> str:
    return active(installation, "issuing")


def test_workloads_of_both_call_each_other_while_the_root_rotates_and_the_server_below_is_killed(
    make_installation: Callable[..., Any], until: Callable[..., Any], tmp_path: pathlib.Path
) -> None:
    above = make_installation()
    token = tmp_path / "token"
    assert above.limen("identity", "downstream", "allow", "eu", "--out", str(token)).returncode == 0
    below = make_installation("--upstream", f"limen:url={above.address('server', 'tls')},token={token}")
    inbound, app, outbound = free_port(), free_port(), free_port()
    tmp_path.chmod(0o755)
    (tmp_path / "db").write_text(APP)
    (tmp_path / "cart").write_text(CLIENT)
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "db.yaml").write_text(TREE.format(port=inbound))
    match = f'{{"launch:script": "{tmp_path}/*"}}'
    for installation in (above, below):
        installation.rules(f'rules:\n- id: s\n  match: {match}\n  spiffe_id: "/{{launch:script_basename}}"\n')
        assert installation.limen("policy", "publish", "--policies", str(tmp_path / "tree")).returncode == 0
    db = run(above, "--inbound", f"{inbound}={app}", "--", sys.executable, str(tmp_path / "db"), str(app))
    until(lambda: "db" in named(above), 200)
    reached = below.limen("federation", "reach", "spiffe://test.limen/db", "127.0.0.1", str(inbound))
    assert reached.returncode == 0, reached.stderr
    cart = run(below, "--outbound", f"{outbound}=db", "--", sys.executable, str(tmp_path / "cart"), str(outbound))
    try:
        until(lambda: "cart" in named(below), 200)
        first = issuer_of(below)
        # the root rotates; the server below asks for another certificate by itself
        assert above.limen("identity", "rotate", "root").returncode == 0
        until(lambda: issuer_of(below) != first, 200)
        assert roots(above) == roots(below)
        below.limen("identity", "rotate", "--svids")
        # an own rotation goes through the server above; a kill in the middle of it breaks nothing
        rotating = subprocess.Popen(
            [sys.executable, "-m", "limen", "--state", str(below.state), "identity", "rotate", "issuing"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.kill(below.pid("server"), signal.SIGKILL)
        rotating.wait(timeout=90)
        until(lambda: below.limen("status").returncode == 0, 200)
        second = issuer_of(below)
        until(lambda: below.limen("identity", "rotate", "issuing").returncode == 0, 200)
        assert issuer_of(below) != second
        # what was below the old root is replaced, and then the old root is trusted no more anywhere
        old = next(
            row["id"]
            for row in above.json("identity", "authorities")["authorities"]
            if (row["kind"], row["state"]) == ("root", "old")
        )
        assert above.limen("identity", "taint", old).returncode == 0
        until(lambda: {row["state"] for row in listed(below, "issuing")} == {"active", "tainted", "old"}, 200)
        assert above.limen("identity", "revoke", old, "--force").returncode == 0
        until(lambda: len(roots(above)) == 1 and roots(above) == roots(below), 200)
    finally:
        assert cart.stdin is not None
        assert cart.stdout is not None
        cart.stdin.write("\n")
        cart.stdin.flush()
        counted = json.loads(cart.stdout.readline())
        for process in (cart, db):
            process.terminate()
            process.communicate(timeout=100)
    assert counted["failed"] == 0, counted
    assert counted["good"] > 20


def listed(installation: Any, kind: str) -> list[dict[str, Any]]:
    return [row for row in installation.json("identity", "authorities")["authorities"] if row["kind"] == kind]
