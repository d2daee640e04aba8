import json
import pathlib

import pytest

from limen.__main__ import run

CAPTURE = str(pathlib.Path(__file__).parent.parent.parent / "learner" / "data" / "loopback-tcpdump.pcap")


def test_one_row_per_conversation(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["flows", "table", "--from", CAPTURE, "-o", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == 5
    assert rows[0]["established"] is True
    assert run(["flows", "table", "--from", CAPTURE]) == 0
    assert "127.0.0.1:18099" in capsys.readouterr().out


def test_a_file_that_is_no_capture_is_exit_status_2(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x").write_text("x")
    assert run(["flows", "table", "--from", str(tmp_path / "x")]) == 2
    assert "LM4007" in capsys.readouterr().err
    assert run(["flows", "table", "--from", str(tmp_path / "x"), "--format", "pcap"]) == 2
    assert "LM4010" in capsys.readouterr().err


def test_one_row_per_flow_of_a_log(capsys: pytest.CaptureFixture[str]) -> None:
    log = str(pathlib.Path(CAPTURE).parent / "envoy" / "access.jsonl")
    assert run(["flows", "table", "--from", log, "-o", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["path"] for row in rows[:2]] == ["/orders/17", "/orders"]
    assert run(["flows", "table", "--from", log]) == 0
    assert "/orders/17" in capsys.readouterr().out
