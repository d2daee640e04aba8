import pathlib
import re
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from audit.batches import sign_batch, verify_batch
from enforcer import nodestate
from limen.__main__ import run
from limen.cli.auditlog import agent_key
from mesh.wrapping import load_wrapping_key

pytestmark = pytest.mark.system


def test_a_node_is_banned_and_comes_back_by_itself_when_allowed(
    make_installation: Callable[..., Any], until: Callable[..., Any]
) -> None:
    installation = make_installation()
    (row,) = installation.json("node", "list")
    assert (row["attestor"], row["banned"]) == ("join_token", None)
    pid = installation.pid("agent")

    def connected() -> bool:
        return bool(installation.json("status")["agents"][0]["is_connected"])

    assert connected()
    done = installation.limen("node", "ban", row["node"], "--reason", "a drill")
    assert done.returncode == 0, done.stderr
    until(lambda: not connected())
    assert "a drill" in installation.limen("node", "list", "-o", "json").stdout
    assert "since" in installation.limen("node", "list").stdout
    assert installation.limen("node", "allow", row["node"]).returncode == 0
    until(connected, 60)
    assert installation.pid("agent") == pid
    assert installation.limen("node", "ban", "nobody").returncode == 2


def test_the_pins_are_those_of_the_server(installation: Any) -> None:
    found = installation.json("node", "pins")
    assert set(found) == {"server", "reviewers", "url"}
    line = installation.limen("node", "pins").stdout
    assert re.search(r"--server-key sha256:[0-9a-f]{64} --reviewers sha256:[0-9a-f]{64}", line)


def test_the_signer_that_a_host_prints_is_who_signs_its_batches(installation: Any) -> None:
    found = installation.json("node", "signer")
    assert installation.limen("node", "signer").stdout.strip() == f"{found['agent']}={found['signer']}"
    folder = installation.state / "agent"
    node = nodestate.load(folder, load_wrapping_key(folder, None))
    assert node is not None
    # as `enforcer.delivery` signs
    key = Ed25519PrivateKey.from_private_bytes(node.record_key)
    signature, _ = sign_batch(key, node.spiffe_id, 1, [], "")
    name, public = agent_key(f"{found['agent']}={found['signer']}")
    verify_batch(Ed25519PublicKey.from_public_bytes(public), name, 1, [], "", signature)


def test_a_host_that_never_joined_has_no_signer_and_is_given_none(tmp_path: pathlib.Path, capsys: Any) -> None:
    assert run(["--state", str(tmp_path), "node", "signer"]) == 2
    assert "LM3445" in capsys.readouterr().err
    assert list(tmp_path.rglob("*")) == []


def test_an_attestors_file_is_checked_before_it_counts(installation: Any, tmp_path: pathlib.Path) -> None:
    file = tmp_path / "attestors.yaml"
    assert "LM1261" in installation.limen("node", "lint", str(file)).stderr
    file.write_text("attestors:\n- {name: vm, type: x509pop, ca: gone.pem}\n- {naem: b}\n")
    done = installation.limen("node", "lint", str(file))
    assert done.returncode == 1
    for code in ("LM1254", "LM1251", "LM1253"):
        assert code in done.stdout + done.stderr
    assert ":3:" in done.stdout + done.stderr
    file.write_text("attestors:\n- {name: hw, type: tpm, ek_hashes: ['" + "ab" * 32 + "']}\n")
    found = installation.json("node", "lint", str(file))
    assert found == {"attestors": [{"name": "hw", "type": "tpm", "node": "{tpm-ek}"}], "findings": []}
    assert installation.json("node", "attestors") == []
