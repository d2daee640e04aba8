import pytest

from limen.cli import render
from mesh.problems import Diagnostic, Span


def test_data_goes_to_stdout_and_talk_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    render.line("a")
    render.data({"ü": 1})
    render.row({"b": 2})
    render.say("talk")
    render.progress("hidden, since nobody watches")
    found = capsys.readouterr()
    assert found.out.splitlines() == ["a", '{"ü": 1}', '{"b":2}']
    assert found.err == "talk\n"


def test_tables_are_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    render.table([("a", 10), ("long", 2)], ("name", "n"))
    assert capsys.readouterr().out == "NAME  N\na     10\nlong  2\n"
    render.table([], ("name",))
    assert capsys.readouterr().out == "NAME\n"


def test_findings_name_place_code_and_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    item = Diagnostic(code="LM0001", span=Span(file="f", line=1, column=2), facts={"command": "x"})
    render.diagnostics([item])
    err = capsys.readouterr().err
    assert err.splitlines()[0].endswith("f:1:2: LM0001 `x` is not part of this version")
