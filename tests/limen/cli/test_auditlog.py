import pathlib
from typing import Any

import pytest

from limen.__main__ import run
from limen.cli.auditlog import line_of, moment, readable
from mesh.problems import Invalid
from tests.audit.making import START, make


def test_a_moment_has_an_offset() -> None:
    assert moment("--since", None) is None
    assert moment("--since", "2026-11-24T13:00:00+01:00") == START
    with pytest.raises(Invalid, match="LM6050") as caught:
        moment("--since", "2026-11-24T13:00:00")
    assert caught.value.facts["option"] == "--since"


def test_a_record_that_breaks_its_format_is_named_by_its_index() -> None:
    assert readable(3, make(1))["n"] == 1
    with pytest.raises(Invalid, match="LM6035") as caught:
        readable(3, b"{}")
    assert caught.value.facts["index"] == 3


def test_what_is_no_decision_is_told_by_its_fields() -> None:
    row = {"schema": 1, "id": "i", "time": "t", "kind": "review", "source": "s", "event": "approve", "by": "a\x1b"}
    assert line_of(row) == ("t", "review", "i", "event=approve by=a\\x1b")


def test_a_directory_without_a_log_is_said_to_be_none(tmp_path: pathlib.Path, capsys: Any) -> None:
    assert run(["--state", str(tmp_path), "audit", "tail"]) == 2
    assert "LM6054" in capsys.readouterr().err
