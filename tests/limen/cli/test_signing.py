from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from limen.cli.signing import other_changes, signing_key
from mesh.problems import Invalid
from mesh.spiffe import TrustDomain
from policyengine import dsse
from policyengine.keyfile import write_key
from policyengine.model import PolicySet
from policyengine.snapshot import Snapshot

KEY = Ed25519PrivateKey.from_private_bytes(b"\x07" * 32)


def snapshot(**fields: Any) -> Snapshot:
    return Snapshot(
        **{"trust_domain": TrustDomain("corp.test"), "policies": PolicySet(), "reviewer_set": "sha256:x", **fields}
    )


def test_reads_a_key_with_the_passphrase_of_the_environment(tmp_path: Any, monkeypatch: Any) -> None:
    write_key(tmp_path / "k", KEY, b"correct horse")
    monkeypatch.setenv("LIMEN_REVIEWER_PASSPHRASE", "correct horse")
    assert dsse.public_bytes(signing_key(tmp_path / "k")) == dsse.public_bytes(KEY)


def test_asks_nobody_where_there_is_no_terminal(tmp_path: Any, monkeypatch: Any) -> None:
    write_key(tmp_path / "k", KEY, b"correct horse")
    monkeypatch.delenv("LIMEN_REVIEWER_PASSPHRASE", raising=False)
    with pytest.raises(Invalid) as caught:
        signing_key(tmp_path / "k")
    assert caught.value.code == "LM2407"


def test_names_what_else_than_policies_changes() -> None:
    before = snapshot()
    assert other_changes(before, snapshot()) == []
    assert other_changes(None, snapshot(identity_rules="rules: []")) == []
    after = snapshot(identity_rules="rules: []", federation=(("b.test", "https://b.test"),))
    assert other_changes(before, after) == ["identity rules", "federation"]
