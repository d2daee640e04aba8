import json
import pathlib
import re

import pytest

from mesh.problems import (
    Conflict,
    Diagnostic,
    Forbidden,
    Invalid,
    NotFound,
    Problem,
    Refused,
    Severity,
    Span,
    Unavailable,
    bug_report,
    catalogue,
    entry,
    first_problem,
)

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("kind", "status"),
    [(Problem, 2), (NotFound, 2), (Conflict, 2), (Refused, 1), (Invalid, 2), (Forbidden, 4), (Unavailable, 3)],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_each_class_has_its_exit_status(kind: type[Problem], status: int) -> None:
    assert kind("LM0001", command="x").exit_status == status


def test_a_problem_is_its_sentence_with_facts_and_place() -> None:
    problem = Invalid("LM0001", span=Span(file="a.yaml", line=3, column=5), command="limen x")
    assert str(problem) == "a.yaml:3:5: LM0001: `limen x` is not part of this version"
    assert problem.help.startswith("read ")
    found = problem.diagnostic()
    assert (found.code, found.severity, found.message) == ("LM0001", Severity.ERROR, problem.message)
    assert str(found).startswith("a.yaml:3:5: error LM0001:")


def test_a_missing_fact_shows_and_never_fails() -> None:
    assert Diagnostic(code="LM0001").message == "`?command` is not part of this version"
    assert "a" in Diagnostic(code="LM0001", facts={"command": "{a}"}).message


def test_what_no_encoding_carries_is_said_in_another_way() -> None:
    problem = Invalid("LM0001", command="\ud800é")
    assert problem.facts == {"command": "\\ud800é"}
    assert str(problem).encode("utf-8").decode("utf-8") == "LM0001: `\\ud800é` is not part of this version"
    assert Diagnostic(code="LM0001", facts={"command": "\udfff"}).message.isascii()


def test_a_fact_says_nothing_to_the_terminal_that_shows_it() -> None:
    message = Diagnostic(code="LM0001", facts={"command": "\x1b[2Ja\u202eb\x9bc\td é"}).message
    assert message == "`\\x1b[2Ja\\u202eb\\x9bc\td é` is not part of this version"


def test_an_unknown_code_is_a_bug() -> None:
    with pytest.raises(KeyError):
        entry("LM9999")
    assert all(code.startswith("LM") for code in catalogue())


def test_of_tasks_that_failed_together_the_first_problem_is_raised() -> None:
    problem = Unavailable("LM5201", socket="s", reason="r")
    with pytest.raises(Unavailable) as caught, first_problem():
        raise ExceptionGroup("a", [ExceptionGroup("b", [problem]), Invalid("LM1207")])
    assert caught.value is problem


def test_a_problem_on_its_own_is_raised_as_it_is() -> None:
    problem = Invalid("LM1207")
    with pytest.raises(Invalid) as caught, first_problem():
        raise problem
    assert caught.value is problem


@pytest.mark.parametrize("others", [[ValueError()], [Invalid("LM1207"), ValueError()]], ids=["bugs", "both"])
def test_a_group_that_holds_a_bug_passes_whole(others: list[Exception]) -> None:
    group = ExceptionGroup("a", others)
    with pytest.raises(ExceptionGroup) as caught, first_problem():
        raise group
    assert caught.value is group


def test_no_code_stands_twice() -> None:
    # of two equal keys in one file a YAML reader takes the last without a word
    texts = [path.read_text("utf-8") for path in sorted((ROOT / "mesh/catalogue").glob("*.yaml"))]
    found = [code for text in texts for code in re.findall(r"^(LM\d{4}):", text, re.MULTILINE)]
    assert sorted(set(found)) == sorted(found)


@pytest.mark.parametrize("code", sorted(code for code, found in catalogue().items() if "docs/" in found["help"]))
def test_a_document_that_a_help_names_is_there(code: str) -> None:
    for name in re.findall(r"docs/[\w./-]+\.md", entry(code)["help"]):
        assert (ROOT / name).is_file(), name


def test_a_finding_is_a_json_object() -> None:
    item = Diagnostic(code="LM0001", span=Span(file="f", line=1, column=2), facts={"command": "x"})
    assert json.loads(json.dumps(item.to_json())) == {
        "code": "LM0001",
        "severity": "error",
        "message": "`x` is not part of this version",
        "help": item.help,
        "file": "f",
        "line": 1,
        "column": 2,
    }
    nowhere = Diagnostic(code="LM0001").to_json()
    assert (nowhere["file"], nowhere["line"], nowhere["column"]) == (None, None, None)


def test_a_bug_is_reported_under_the_hash_of_its_traceback() -> None:
    reports = set()
    for text in ("one", "one", "other"):
        try:
            raise RuntimeError(text)
        except RuntimeError as err:
            report, trace = bug_report(err)
        assert f"RuntimeError: {text}" in trace
        reports.add(report)
    assert len(reports) == 2
