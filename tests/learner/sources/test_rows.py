import pathlib

import pytest

from learner.sources.rows import Input, Object, json_object, read_objects
from mesh.problems import Diagnostic, Invalid
from tests.learner.sources.accounts import ledger


def test_lines_beyond_the_limit_are_passed_over_and_counted(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"one\n\n" + b"y" * 25 + b"\nthree\nfour")
    findings: list[Diagnostic] = []
    source = Input(path, findings, ledger())
    assert list(source.lines(10)) == [(1, b"one\n"), (4, b"three\n"), (5, b"four")]
    assert source.ledger.unreadable == 1
    assert [(item.code, item.span and item.span.line) for item in findings] == [("LM4013", 3)]


def test_broken_rows_have_their_place_and_left_out_ones_their_reason(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "x"
    path.write_text('{"a": 1}\n{"b": 1}\nnonsense\n{"a": NaN}\n[]\n{"a": 2}', "utf-8")
    findings: list[Diagnostic] = []
    account = ledger()

    def parse(row: Object) -> list[str]:
        return [f"reason {row['a']}"]

    assert list(read_objects(Input(path, findings, account), parse)) == []
    assert account.seen == 6
    assert account.unreadable == 4
    assert account.skipped == {"reason 1": 1, "reason 2": 1, "unreadable": 4}
    assert [item.span and item.span.line for item in findings] == [2, 3, 4, 5]
    assert "`b`" not in str(findings[0])
    assert "`a` is missing" in str(findings[0])


def test_findings_are_bounded_and_counts_are_not(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "x"
    path.write_text("x\n" * 300, "utf-8")
    findings: list[Diagnostic] = []
    account = ledger()
    list(read_objects(Input(path, findings, account), lambda row: []))
    assert len(findings) == 100
    assert account.unreadable == 300


@pytest.mark.parametrize("text", [b"", b"[]", b"\xff", b"nul", b'{"a": Infinity}'], ids=str)
def test_what_is_no_object_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError):
        json_object(text)


def test_a_document_is_read_whole_and_a_missing_one_is_a_problem(tmp_path: pathlib.Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    assert Input(tmp_path / "x", [], ledger()).document() == b"abc"
    with pytest.raises(Invalid, match="LM4001"):
        Input(tmp_path / "none", [], ledger()).document()
    with pytest.raises(Invalid, match="LM4001"):
        list(Input(tmp_path / "none", [], ledger()).lines())
