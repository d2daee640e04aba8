"""JWT-SVIDs from outside: a strange SPIFFE library fetches and validates them, through a rotation and an outage."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = [pytest.mark.system, pytest.mark.peer]

PY_SPIFFE = """
import json, sys
from spiffe import WorkloadApiClient
with WorkloadApiClient(socket_path=sys.argv[1]) as client:
    svid = client.fetch_jwt_svid(audience={"a", "b"})
    said = client.validate_jwt_svid(sys.argv[2] if len(sys.argv) > 2 else svid.token, audience="a")
    keys = next(iter(client.fetch_jwt_bundles().bundles)).jwt_authorities
print(json.dumps({"id": str(svid.spiffe_id), "said": str(said.spiffe_id), "token": svid.token, "keys": sorted(keys)}))
"""


KEEPER = """
import sys
from spiffe import WorkloadApiClient
with WorkloadApiClient(socket_path=sys.argv[1]) as client:
    for _ in sys.stdin:
        print(client.fetch_jwt_svid(audience={"a"}).token, flush=True)
"""


def ask(installation: Any, *token: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", PY_SPIFFE, f"unix://{installation.state / 'agent.sock'}", *token],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    return dict(json.loads(done.stdout)) if done.returncode == 0 else {"error": done.stderr}


def test_py_spiffe_fetches_and_validates_tokens_through_a_rotation_and_without_the_server(
    make_installation: Callable[..., Any], until: Callable[..., Any]
) -> None:
    installation = make_installation()
    installation.rules(
        f'rules:\n- id: me\n  match: {{"unix:uid": "{os.geteuid()}"}}\n  spiffe_id: "/user/me"\n  direct: true\n'
    )
    until(lambda: "id" in ask(installation), 200)
    first = ask(installation)
    assert first["id"] == first["said"] == f"spiffe://{installation.json('status')['trust_domain']}/user/me"
    assert installation.limen("identity", "rotate", "jwt").returncode == 0
    # old tokens stay valid: both keys are in the bundle
    second = ask(installation, first["token"])
    assert second["said"] == first["id"]
    assert set(first["keys"]) < set(second["keys"])
    # whoever was given a token keeps it while the server is away
    keeper = subprocess.Popen(
        [sys.executable, "-c", KEEPER, f"unix://{installation.state / 'agent.sock'}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert keeper.stdin is not None
    assert keeper.stdout is not None
    server = installation.pid("server")
    try:
        print(file=keeper.stdin, flush=True)
        held = keeper.stdout.readline()
        os.kill(server, signal.SIGSTOP)
        print(file=keeper.stdin, flush=True)
        assert keeper.stdout.readline() == held != ""
    finally:
        os.kill(server, signal.SIGCONT)
        keeper.stdin.close()
        keeper.wait(timeout=100)
        keeper.stdout.close()
