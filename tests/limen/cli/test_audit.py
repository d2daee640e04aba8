import json
import pathlib
from typing import Any

import pytest

from limen.__main__ import run
from tests.audit.making import id_of, make, make_log, open_log


@pytest.fixture
def state(tmp_path: pathlib.Path) -> pathlib.Path:
    make_log(tmp_path / "audit", 300)
    return tmp_path


def call(state: pathlib.Path, *words: str) -> int:
    return run(["--state", str(state), "audit", *words])


def rows(capsys: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_tail_shows_the_newest_records_oldest_first(state: pathlib.Path, capsys: Any) -> None:
    assert call(state, "tail", "-n", "2", "-o", "jsonl") == 0
    assert [(row["index"], row["id"]) for row in rows(capsys)] == [(298, id_of(298)), (299, id_of(299))]
    assert call(state, "tail", "-o", "json") == 0
    assert len(json.loads(capsys.readouterr().out)) == 20
    assert call(state, "tail", "-n", "3") == 0
    lines = capsys.readouterr().out.splitlines()
    assert (len(lines), lines[0].split()) == (4, ["TIME", "KIND", "ID", "WHAT"])


def test_tail_keeps_to_one_kind(state: pathlib.Path, capsys: Any) -> None:
    log = open_log(state / "audit")
    log.append([make(1000).replace(b'"kind":"decision"', b'"kind":"review"')])
    log.append([make(number) for number in range(2000, 2005)])
    log.close()
    assert call(state, "tail", "--kind", "review", "-o", "jsonl") == 0
    assert [row["id"] for row in rows(capsys)] == [id_of(1000)]


def test_a_decision_is_one_readable_line_that_steers_no_terminal(tmp_path: pathlib.Path, capsys: Any) -> None:
    log = open_log(tmp_path / "audit")
    fields = {"caller": "spiffe://a/cart", "destination": "spiffe://a/db", "port": 8080, "method": "GET"}
    log.append([make(1, decision="deny", path="/\x1b[2Jx", policy="shop", rule="r1", **fields)])
    log.close()
    assert call(tmp_path, "tail") == 0
    said = capsys.readouterr().out
    assert "deny spiffe://a/cart → spiffe://a/db:8080 GET /\\x1b[2Jx by shop/r1" in said
    assert "\x1b" not in said
    assert call(tmp_path, "show", id_of(1)) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_show_prints_one_record(state: pathlib.Path, capsys: Any) -> None:
    assert call(state, "show", id_of(7), "-o", "json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["index"], found["n"]) == (7, 7)
    assert call(state, "show", id_of(999)) == 2
    assert "LM6038" in capsys.readouterr().err


def test_show_prints_both_records_of_one_id(state: pathlib.Path, capsys: Any) -> None:
    log = open_log(state / "audit")
    log.append([make(7, decision="deny")])
    log.close()
    assert call(state, "show", id_of(7), "-o", "json") == 0
    said = capsys.readouterr()
    assert [row["index"] for row in json.loads(said.out)] == [7, 300]
    assert "LM6036" in said.err
    assert call(state, "prove", id_of(7), "--index", "300") == 0
    assert json.loads(capsys.readouterr().out)["index"] == 300
    assert call(state, "verify") == 0


def test_verify_says_yes_with_zero(state: pathlib.Path, capsys: Any) -> None:
    assert call(state, "verify", "-o", "json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["verified"], found["records"], found["findings"]) == (True, 300, [])
    assert call(state, "verify") == 0
    assert "300 records" in capsys.readouterr().out


def test_verify_says_no_with_one_and_names_the_place(state: pathlib.Path, capsys: Any) -> None:
    path = state / "audit" / "tile" / "entries" / "000"
    data = bytearray(path.read_bytes())
    data[2 + len(make(0)) + 2 + 20] ^= 1
    path.write_bytes(data)
    assert call(state, "verify", "-o", "json") == 1
    found = json.loads(capsys.readouterr().out)
    assert [(item["code"], item["facts"]) for item in found["findings"]] == [("LM6034", {"index": 1})]
    assert call(state, "verify") == 1
    said = capsys.readouterr()
    assert "record 1 is not the one that was logged" in said.err


def test_a_copy_is_verified_and_proved_without_a_state(
    state: pathlib.Path, capsys: Any, tmp_path: pathlib.Path
) -> None:
    words = ["--log", str(state / "audit"), "--key", str(state / "audit" / "key.pub"), "-o", "json"]
    assert call(tmp_path / "none", "verify", *words) == 0
    assert capsys.readouterr().err == ""
    assert call(tmp_path / "none", "prove", id_of(299), *words) == 0
    proof = json.loads(capsys.readouterr().out)
    assert (proof["id"], proof["index"], proof["size"]) == (id_of(299), 299, 300)


def test_a_copy_that_brings_its_own_key_is_warned_of(state: pathlib.Path, capsys: Any) -> None:
    assert call(state, "verify", "--log", str(state / "audit")) == 0
    assert "--key" in capsys.readouterr().err


def test_prove_shows_the_path(state: pathlib.Path, capsys: Any) -> None:
    assert call(state, "prove", id_of(0), "-o", "table") == 0
    assert len(capsys.readouterr().out.splitlines()) == 1 + 9
    assert call(state, "prove", id_of(999)) == 2


def test_checkpoint_prints_the_note(state: pathlib.Path, capsys: Any) -> None:
    assert call(state, "checkpoint") == 0
    assert capsys.readouterr().out == (state / "audit" / "checkpoint").read_text()
    assert call(state, "checkpoint", "-o", "json") == 0
    assert json.loads(capsys.readouterr().out)["size"] == 300


def test_export_writes_records_of_a_time(state: pathlib.Path, capsys: Any) -> None:
    assert call(state, "export", "--since", "2026-11-24T12:00:05Z", "--until", "2026-11-24T13:00:08+01:00") == 0
    assert [row["n"] for row in rows(capsys)] == [5, 6, 7]
    target = state / "out.jsonl"
    assert call(state, "export", "--format", "jsonl", "--to", str(target)) == 0
    assert target.read_bytes() == b"".join(make(number) + b"\n" for number in range(300))
    assert "300 records" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "status", "code"),
    [
        (["export", "--format", "ocsf"], 2, "LM0001"),
        (["export", "--to", "https://siem.test"], 2, "LM0001"),
        (["export", "--since", "yesterday"], 2, "LM6050"),
        (["export", "--to", "/nonexistent/out"], 3, "LM6051"),
        (["export", "--format", "xml"], 2, "xml"),
        (["verify", "--log", "/nonexistent"], 2, "LM6054"),
        (["verify", "--key", "/nonexistent"], 2, "LM6053"),
        (["verify", "--key", "/etc/hostname"], 2, "LM6030"),
    ],
)
def test_what_cannot_be_done_says_so(
    state: pathlib.Path, capsys: Any, words: list[str], status: int, code: str
) -> None:
    assert call(state, *words) == status
    assert code in capsys.readouterr().err
