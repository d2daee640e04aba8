"""A real OPA as an engine: found, started on a socket of its own, fed and ended."""

import contextlib
import json
import pathlib
import re
import subprocess

import pytest

from audit import masking
from limen.opa import Opa, _wait, find_opa, running_opa
from mesh.problems import NotFound, Unavailable
from policyengine.compile.rego import LOG_MODULE, Program, compile_rego
from policyengine.inputdoc import input_of
from tests.policyengine.corners import allow, ask, tree
from tests.tools import require_opa


def test_an_OPA_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIMEN_OPA", "/nowhere/opa")
    with pytest.raises(NotFound, match="/nowhere/opa"):
        find_opa()


def test_a_program_that_ends_at_once_is_said_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIMEN_OPA", "/bin/false")
    with pytest.raises(Unavailable, match="does not begin"), running_opa():
        pass


@pytest.mark.peer
def test_OPA_decides_and_leaves_nothing_behind() -> None:
    require_opa()
    program = compile_rego(tree(app=[allow()]), "s")
    with running_opa() as opa:
        opa.load(program)
        document = input_of(ask())
        one = opa.decide(document)
        assert opa.decide_all([document, document]) == [one, one]
        assert isinstance(one, dict)
        assert (one["decision"], one["rule"]) == ("allow", "r0")
        path = opa._connection._path
    assert not pathlib.Path(path).exists()


@pytest.mark.peer
def test_what_OPA_says_against_a_module_is_told() -> None:
    require_opa()
    bad = Program(snapshot="s", modules={"m.rego": "package a\nx if {"}, release={}, roots=("limen",))
    with running_opa() as opa, pytest.raises(Unavailable, match="occurred"):
        opa.load(bad)


def test_the_mask_removes_what_records_drop_or_hash() -> None:
    text = compile_rego(tree(), "s").modules[LOG_MODULE]
    names, ends = (
        set(re.findall(r'\t"([a-z-]+)",', text.split(f"{part} := {{")[1].split("}")[0])) for part in ("names", "ends")
    )
    assert names == masking.DROPPED | masking.HASHED
    assert ends == set(masking._DROPPED_ENDS)


@pytest.mark.peer
def test_OPAs_decision_log_is_masked_by_its_own_convention(tmp_path: pathlib.Path) -> None:
    require_opa()
    (tmp_path / "mask.rego").write_text("package system.log\n\nmask := data.limen.log.mask\n", "utf-8")
    request = ask(
        headers=(("Authorization", "s3cret"), ("X-Note", "plain")),
        claims={"iss": "https://idp.test", "sub": "s3cret", "roles": ["dev"]},
    )
    path, socket_path = tmp_path / "log", tmp_path / "opa.sock"
    command = [find_opa(), "run", "--server", "--disable-telemetry", "--set", "decision_logs.console=true"]
    with path.open("w") as out:
        process = subprocess.Popen(
            [*command, "--addr", f"unix://{socket_path}", str(tmp_path / "mask.rego")], stdout=out, stderr=out
        )
        try:
            _wait(process, socket_path)
            with contextlib.closing(Opa(socket_path)) as opa:
                opa.load(compile_rego(tree(app=[allow()]), "s"))
                opa.decide(input_of(request))
                opa.decide_all([input_of(request)])
        finally:
            process.terminate()
            process.wait()
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines() if "decision_id" in line]
    one, many = (row for row in rows if str(row.get("path", "")).startswith("limen/"))
    assert "s3cret" not in path.read_text("utf-8")
    assert one["input"]["headers"]["x-note"]["value"] == "plain"
    assert one["input"]["claims"]["roles"] == ["dev"]
    assert one["result"]["decision"] == "allow"
    assert "batch" not in many["input"]
