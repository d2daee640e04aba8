import pathlib
import stat

import pytest

from enforcer import nodestate
from enforcer.nodestate import NodeState
from mesh.problems import Invalid
from mesh.wrapping import WrappingKey

WRAPPING = WrappingKey(bytes(32), beside_state=False)


def state() -> NodeState:
    return NodeState(
        trust_domain="td",
        url="https://x:1",
        node_api="x:2",
        server_pin="sha256:1",
        server_certificate=b"cert",
        reviewers_pin="sha256:2",
        spiffe_id="spiffe://td/limen/agent/node-1",
        chain=(b"leaf", b"middle"),
        bundle=b"{}",
        key=b"the-private-key",
        record_key=b"the-record-key",
        epoch=3,
        snapshot="sha256:ab",
        reviewers=("{}",),
    )


def test_a_state_comes_back_and_its_secrets_are_not_on_the_disk(tmp_path: pathlib.Path) -> None:
    nodestate.save(tmp_path, state(), WRAPPING)
    found = nodestate.load(tmp_path, WRAPPING)
    assert found == state()
    assert found is not None
    assert found.name == "node-1"
    data = (tmp_path / "node.json").read_bytes()
    import base64

    for secret in (b"the-private-key", b"the-record-key"):
        assert secret not in data
        assert base64.b64encode(secret) not in data
        assert secret.decode() not in repr(found)
    assert stat.S_IMODE((tmp_path / "node.json").stat().st_mode) == 0o600


def test_no_file_is_no_state_and_a_broken_one_is_said(tmp_path: pathlib.Path) -> None:
    assert nodestate.load(tmp_path, WRAPPING) is None
    (tmp_path / "node.json").write_text("{")
    with pytest.raises(Invalid, match="LM3440"):
        nodestate.load(tmp_path, WRAPPING)
    nodestate.save(tmp_path, state(), WRAPPING)
    with pytest.raises(Invalid, match="LM1201"):
        nodestate.load(tmp_path, WrappingKey(b"\x01" * 32, beside_state=False))


def test_snapshots_are_kept_by_their_hash(tmp_path: pathlib.Path) -> None:
    nodestate.save_snapshot(tmp_path, "sha256:aa", b"one")
    nodestate.save_snapshot(tmp_path, "sha256:bb", b"two")
    assert nodestate.load_snapshot(tmp_path, "sha256:aa") == b"one"
    nodestate.forget_snapshots(tmp_path, "sha256:bb")
    assert nodestate.load_snapshot(tmp_path, "sha256:aa") is None
    assert nodestate.load_snapshot(tmp_path, "sha256:bb") == b"two"
