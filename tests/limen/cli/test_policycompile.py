"""`limen policy compile`: the snapshot's part of a tree, or all findings and nothing written."""

import hashlib
import json
import pathlib

import pytest

from limen.__main__ import run
from mesh import canonicaljson
from policyengine.model import policy_set_from_json

EXAMPLES = str(pathlib.Path(__file__).parents[3] / "policies" / "examples")


def test_says_what_comes_of_each_service(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["policy", "compile", "--policies", EXAMPLES, "-o", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    orders = next(item for item in found["services"] if item["service"] == "orders")
    assert orders["ports"] == {"8080": "HTTP1", "9000": "ENVOY"}
    assert run(["policy", "compile", "--policies", EXAMPLES]) == 0
    done = capsys.readouterr()
    assert done.out.startswith("SERVICE")
    assert found["policies"] in done.err
    assert "LM2126" in done.err
    assert "`dataplane: envoy`" in done.err


def test_writes_what_a_snapshot_would_hold_and_its_name_is_that_of_decisions(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "policies.json"
    assert run(["policy", "compile", "--policies", EXAMPLES, "--out", str(out), "-o", "json"]) == 0
    said = json.loads(capsys.readouterr().out)
    content = json.loads(out.read_bytes())
    assert canonicaljson.dumps(content) == out.read_bytes()
    assert (said["bytes"], said["out"]) == (len(out.read_bytes()), str(out))
    assert policy_set_from_json(content["policies"]).services
    assert content["tiers"]["orders"] == {"8080": "HTTP1", "9000": "ENVOY"}
    assert said["policies"] == "sha256:" + hashlib.sha256(canonicaljson.dumps(content["policies"])).hexdigest()
    run(["can", "cart", "orders:8080", "POST", "/orders", "--policies", EXAMPLES, "-o", "json"])
    assert json.loads(capsys.readouterr().out)["snapshot"] == said["policies"]


def test_a_bad_tree_exits_2_with_all_findings_and_keeps_what_was_written(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "policies.json"
    out.write_text("old")
    (tmp_path / "a.yaml").write_text("a: [\n")
    (tmp_path / "b.yaml").write_text(
        "apiVersion: limen.dev/v1\nkind: Group\nmetadata: {name: g}\nspec: {members: [x]}\n"
    )
    assert run(["policy", "compile", "--policies", str(tmp_path), "--out", str(out)]) == 2
    done = capsys.readouterr()
    assert done.out == ""
    for code in ("LM5102", "LM2006", "LM2203"):
        assert code in done.err
    assert out.read_text() == "old"


def test_a_file_that_cannot_be_written_is_told(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["policy", "compile", "--policies", EXAMPLES, "--out", str(tmp_path / "no" / "x")]) == 2
    assert "LM2713" in capsys.readouterr().err
