import json
import pathlib

import pytest

from limen.__main__ import run
from limen.attacks import TABLE


def test_before_anything_runs(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--state", str(tmp_path / "s"), "check", "--pre", "-o", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    groups = {"installation", "state", "attestation", "containers", "attacks"}
    assert {row["group"] for row in rows} == groups
    assert sum(row["group"] == "attacks" for row in rows) == len(TABLE)
    assert run(["--state", str(tmp_path / "s"), "check"]) == 0
    text = capsys.readouterr().out
    assert "LM5201" in text
    assert "passed" in text.splitlines()[-1]


def test_an_error_is_exit_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--state", "/" + "x" * 120, "check", "--pre"]) == 1
    assert "LM5001" in capsys.readouterr().out
