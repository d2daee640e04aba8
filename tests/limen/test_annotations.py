"""Workflow commands: one a finding, whatever stands in a file's name or a message."""

import re

import pytest

from limen.annotations import annotation
from mesh.problems import Diagnostic, Span

COMMAND = re.compile(r"::(error|warning|notice) ([^:]*)::(.*)")


def finding(file: str, who: str = "any") -> Diagnostic:
    facts: dict[str, object] = {"rule": "r", "policy": "p", "who": who}
    return Diagnostic(code="LM2108", span=Span(file=file, line=3, column=7), facts=facts)


def test_a_finding_is_one_command() -> None:
    found = annotation(finding("policies/db.yaml"))
    assert found.startswith("::notice file=policies/db.yaml,line=3,col=7,title=LM2108 info::an allow names callers")
    assert "%0Aname the services that call" in found


@pytest.mark.parametrize("text", ["a,b", "a:b", "a::b", "a%0A::error::x", "a\n::error::x", "a\r\n", "100%"])
def test_nothing_that_a_file_says_ends_a_part_or_begins_a_command(text: str) -> None:
    found = annotation(finding(text, who=text))
    assert "\n" not in found
    assert "\r" not in found
    match = COMMAND.fullmatch(found)
    assert match is not None
    fields = dict(part.split("=", 1) for part in match[2].split(","))
    assert set(fields) == {"file", "line", "col", "title"}
    back = fields["file"]
    for code, char in (("%0D", "\r"), ("%0A", "\n"), ("%3A", ":"), ("%2C", ","), ("%25", "%")):
        back = back.replace(code, char)
    assert back == text


def test_a_finding_without_a_place_names_no_file() -> None:
    assert annotation(Diagnostic(code="LM2023", facts={"path": "x"})).startswith("::error title=LM2023 error::")
