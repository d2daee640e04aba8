import json
import pathlib
import shutil
from typing import Any

import pyarrow.parquet
import pytest

from limen.__main__ import run
from tests.audit.making import make, open_log
from tests.audit.sinks.answering import Answering
from tests.limen.cli.auditing import call, made, rows


@pytest.fixture
def state(tmp_path: pathlib.Path) -> pathlib.Path:
    return made(tmp_path)


def test_export_writes_records_of_a_time(state: pathlib.Path, capsys: Any) -> None:
    assert call(state, "export", "--since", "2026-11-24T12:00:05Z", "--until", "2026-11-24T13:00:08+01:00") == 0
    assert [row["n"] for row in rows(capsys)] == [5, 6, 7]
    target = state / "out.jsonl"
    assert call(state, "export", "--format", "jsonl", "--to", str(target)) == 0
    assert target.read_bytes() == b"".join(make(number) + b"\n" for number in range(300))
    assert "300 records" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["ocsf", "ecs", "cef", "syslog", "otlp"])
def test_export_writes_every_form_to_stdout_and_to_a_file_alike(
    form: str, state: pathlib.Path, capfdbinary: Any
) -> None:
    assert call(state, "export", "--format", form) == 0
    said = capfdbinary.readouterr().out
    assert call(state, "export", "--format", form, "--to", str(state / "out")) == 0
    assert (state / "out").read_bytes() == said
    assert said.count(b"\n") == (1 if form == "otlp" else 300)


def test_export_writes_a_parquet_file(state: pathlib.Path) -> None:
    target = state / "out.parquet"
    assert call(state, "export", "--format", "parquet", "--to", str(target), "--until", "2026-11-24T12:00:05Z") == 0
    assert pyarrow.parquet.read_table(target).column("record").to_pylist() == [
        make(number).decode() for number in range(5)
    ]


def test_export_posts_to_a_receiver_and_goes_on_where_it_stopped(state: pathlib.Path, capsys: Any) -> None:
    with Answering() as server:
        words = ["export", "--to", f"http://127.0.0.1:{server.port}/in", "--cursor", str(state / "cursor")]
        server.status = 500
        assert call(state, *words) == 3
        server.status, server.got = 200, []
        assert call(state, *words) == 0
        assert call(state, *words) == 0
        log = open_log(state / "audit")
        log.append([make(number) for number in range(300, 310)])
        log.close()
        assert call(state, *words) == 0
        bodies = b"".join(body for _, _, body in server.got)
    assert [json.loads(line)["n"] for line in bodies.splitlines()] == list(range(310))
    assert "10 records to http" in capsys.readouterr().err


def test_export_appends_to_a_file_that_has_a_cursor(state: pathlib.Path) -> None:
    words = ["export", "--to", str(state / "out"), "--cursor", str(state / "cursor"), "--until", "2026-11-24T12:00:05Z"]
    assert [call(state, *words), call(state, *words)] == [0, 0]
    assert (state / "out").read_bytes() == b"".join(make(number) + b"\n" for number in range(5))


def test_export_makes_a_directory_of_days(state: pathlib.Path) -> None:
    assert call(state, "export", "--format", "parquet", "--to", f"file://{state}/days/") == 0
    (file,) = (state / "days").rglob("*.parquet")
    assert pyarrow.parquet.read_table(file).num_rows == 300
    assert file.parent.name == "day=2026-11-24"


def test_export_works_on_a_copy_without_a_server(state: pathlib.Path, tmp_path: pathlib.Path, capsys: Any) -> None:
    shutil.copytree(state / "audit", tmp_path / "copy")
    words = ["audit", "export", "--log", str(tmp_path / "copy"), "--key", str(state / "audit" / "key.pub")]
    assert run(words) == 0
    assert len(rows(capsys)) == 300


def test_export_leaves_out_other_kinds(state: pathlib.Path, capsys: Any) -> None:
    assert call(state, "export", "--kind", "review") == 0
    assert rows(capsys) == []
    assert call(state, "export", "--kind", "review", "--kind", "decision") == 0
    assert len(rows(capsys)) == 300


@pytest.mark.parametrize(
    ("words", "status", "code"),
    [
        (["export", "--format", "parquet"], 2, "--to"),
        (["export", "--to", "http://siem.test"], 2, "LM6100"),
        (["export", "--to", "ftp://siem.test"], 2, "LM6100"),
        (["export", "--to", "https://siem.test", "--ca", "/nonexistent"], 2, "LM6100"),
        (["export", "--to", "http://127.0.0.1:1/"], 3, "LM6101"),
        (["export", "--since", "yesterday"], 2, "LM6050"),
        (["export", "--to", "/nonexistent/out"], 3, "LM6051"),
        (["export", "--format", "xml"], 2, "xml"),
    ],
)
def test_what_cannot_be_exported_says_so(
    state: pathlib.Path, capsys: Any, words: list[str], status: int, code: str
) -> None:
    assert call(state, *words) == status
    assert code in capsys.readouterr().err
