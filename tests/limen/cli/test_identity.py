import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.system

PY_SPIFFE = """
import sys
from spiffe import WorkloadApiClient
with WorkloadApiClient(socket_path=sys.argv[1]) as client:
    print(client.fetch_x509_svid().spiffe_id)
"""


def test_a_rule_gives_the_process_that_asks_its_identity_at_once(make_installation: Callable[..., Any]) -> None:
    found = make_installation()
    command = [sys.executable, "-c", PY_SPIFFE, f"unix://{found.state / 'agent.sock'}"]
    before = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert before.returncode != 0
    assert "LM1210" in before.stderr
    found.rules(f'rules:\n- id: me\n  match: {{"unix:uid": "{os.getuid()}"}}\n  spiffe_id: "/user/{{unix:uid}}"\n')
    after = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert after.stdout.strip() == f"spiffe://test.limen/user/{os.getuid()}", after.stderr
    listed = {row["spiffe_id"]: row["rule"] for row in found.json("identity", "list")}
    assert listed[after.stdout.strip()] == "me"
    assert after.stdout.strip() in found.limen("identity", "list").stdout


def test_mistakes_in_the_rules_are_seen_by_who_looks(make_installation: Callable[..., Any]) -> None:
    found = make_installation()
    assert "LM1219" in found.limen("identity", "lint").stderr
    path = found.state / "identities.yaml"
    rule = 'rules:\n- id: me\n  match: {"unix:uid": "7"}\n  spiffe_id: "/x"\n'
    path.write_text(rule)
    done = found.limen("identity", "lint")
    assert (done.returncode, f"{path}:2:3: LM1227" in done.stderr) == (0, True)
    path.write_text(rule + '- id: other\n  match: {"unix:uid": "7"}\n  spiffe_id: "/y"\n  tll: 5m\n')
    for words in (("lint",), ("explain", "--pid", str(os.getpid()), "--rules", str(path))):
        done = found.limen("identity", *words)
        assert done.returncode == (1 if words[0] == "lint" else 2)
        assert f"{path}:8:3: LM1221" in done.stderr
    done = found.limen("check")
    assert (done.returncode, f"× {path}:8:3: " in done.stdout) == (1, True)  # noqa: RUF001


def test_explaining_names_facts_and_rules(installation: Any) -> None:
    done = installation.limen("identity", "explain", "--pid", str(os.getpid()))
    assert "unix:uid" in done.stdout
    found = installation.limen("identity", "explain", "--pid", str(os.getpid()), "-o", "json")
    assert found.returncode in {0, 1}
    assert '"facts"' in found.stdout
    gone = installation.limen("identity", "explain", "--pid", "4194000")
    assert gone.returncode == 2
    assert "LM3401" in gone.stderr
