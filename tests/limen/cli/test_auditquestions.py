import json
import pathlib
import subprocess
import sys
from typing import Any

import pytest

from tests.audit.making import id_of, make, open_log
from tests.limen.cli.auditing import call, made, rows


@pytest.fixture
def state(tmp_path: pathlib.Path) -> pathlib.Path:
    return made(tmp_path)


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


@pytest.fixture
def mixed(tmp_path: pathlib.Path) -> pathlib.Path:
    log = open_log(tmp_path / "audit")
    caller, called = "spiffe://a/ns/shop/sa/cart", "spiffe://a/ns/shop/sa/db"
    log.append(
        [make(n, caller=caller, destination=called, decision="deny" if n % 100 == 0 else "allow") for n in range(300)]
    )
    log.append([make(900, reviewers=["ada"], event="approve").replace(b'"kind":"decision"', b'"kind":"review"')])
    log.close()
    return tmp_path


def test_search_lists_what_a_question_means_in_every_form(mixed: pathlib.Path, capsys: Any) -> None:
    words = ["search", "--service", "db", "--decision", "deny"]
    assert call(mixed, *words, "-o", "jsonl") == 0
    assert [row["n"] for row in rows(capsys)] == [0, 100, 200]
    assert call(mixed, *words, "-o", "json") == 0
    assert [row["index"] for row in json.loads(capsys.readouterr().out)] == [0, 100, 200]
    assert call(mixed, *words) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1 + 3
    assert call(mixed, *words, "-n", "1", "-o", "jsonl") == 0
    assert [row["n"] for row in rows(capsys)] == [200]


def test_search_says_no_with_one(mixed: pathlib.Path, capsys: Any) -> None:
    assert call(mixed, "search", "--code", "LM2399", "-o", "json") == 1
    assert json.loads(capsys.readouterr().out) == []
    assert call(mixed, "search", "--identity", "spiffe://b/**") == 1
    assert capsys.readouterr().out == ""


def test_search_works_on_a_copy_by_time_and_reviewer(mixed: pathlib.Path, capsys: Any, tmp_path: pathlib.Path) -> None:
    words = ["--log", str(mixed / "audit"), "--key", str(mixed / "audit" / "key.pub"), "-o", "jsonl"]
    assert call(tmp_path / "none", "search", "--reviewer", "ada", *words) == 0
    assert [row["index"] for row in rows(capsys)] == [300]
    assert call(tmp_path / "none", "search", "--since", "2026-11-24T12:04:58Z", "--kind", "decision", *words) == 0
    assert [row["n"] for row in rows(capsys)] == [298, 299]


def test_tail_takes_the_same_filters(mixed: pathlib.Path, capsys: Any) -> None:
    assert call(mixed, "tail", "-n", "2", "--decision", "deny", "-o", "jsonl") == 0
    assert [row["n"] for row in rows(capsys)] == [100, 200]
    assert call(mixed, "tail", "-f", "-o", "json") == 2


def test_an_identity_that_is_none_is_refused(mixed: pathlib.Path, capsys: Any) -> None:
    assert call(mixed, "search", "--identity", "cart") == 2
    assert "LM6059" in capsys.readouterr().err


def test_following_goes_on_with_what_is_meant(mixed: pathlib.Path) -> None:
    """A process of its own prints what is appended while it runs."""
    command = [sys.executable, "-m", "limen", "--state", str(mixed), "audit", "tail", "-f", "-n", "1", "-o", "jsonl"]
    with subprocess.Popen([*command, "--decision", "deny"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert json.loads(process.stdout.readline())["n"] == 200
            log = open_log(mixed / "audit")
            log.append([make(1001, decision="allow"), make(1002, decision="deny")])
            log.close()
            assert json.loads(process.stdout.readline())["n"] == 1002
        finally:
            process.terminate()
