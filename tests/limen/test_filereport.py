import pathlib

from limen.filereport import MAX_TOLD, report
from mesh.problems import Diagnostic, Span

WARNING = Diagnostic(code="LM1227", span=Span("f", 2, 3), facts={"rule": "a"})
ERROR = Diagnostic(code="LM1223", span=Span("f", 9, 1), facts={"field": "id"})


def test_errors_come_first_and_keep_the_file_out_of_force() -> None:
    found = report(pathlib.Path("/f"), count=2, findings=[WARNING, ERROR])
    assert (found["in_force"], found["count"], found["more"]) == (False, 2, 0)
    assert [row["code"] for row in found["findings"]] == ["LM1223", "LM1227"]
    assert (found["findings"][0]["line"], found["findings"][0]["severity"]) == (9, "error")
    assert all(row["message"] and row["help"] for row in found["findings"])


def test_warnings_alone_do_not() -> None:
    assert report(pathlib.Path("/f"), count=1, findings=[WARNING])["in_force"]
    assert not report(pathlib.Path("/f"), count=1, findings=[], unreadable="no text")["in_force"]


def test_what_is_not_told_is_counted() -> None:
    found = report(pathlib.Path("/f"), count=0, findings=[WARNING] * (MAX_TOLD + 7))
    assert (len(found["findings"]), found["more"]) == (MAX_TOLD, 7)
