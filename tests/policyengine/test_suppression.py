"""A suppression hides what it names, where it says, until it ends, and is a finding when it hides nothing."""

# ruff: noqa: E501  a table reads best with one case a line

import dataclasses
import datetime as dt

import pytest

from mesh.problems import Diagnostic, Span
from policyengine.model import Suppression
from policyengine.suppression import settle

NOW = dt.datetime(2026, 11, 24, 12, 0, tzinfo=dt.UTC)
LATER, EARLIER = NOW + dt.timedelta(days=1), NOW - dt.timedelta(days=1)
HERE = Suppression(
    code="LM2108", reason="why", until=LATER, span=Span(file="a", line=3, column=1), extent=((1, 1), (9, 1))
)


def at(line: int, code: str = "LM2108", file: str = "a") -> Diagnostic:
    facts: dict[str, object] = {"rule": "r", "policy": "p", "who": "any"}
    return Diagnostic(code=code, span=Span(file=file, line=line, column=5), facts=facts)


@pytest.mark.parametrize(
    ("found", "suppression", "left", "accepted"),
    [
        pytest.param(at(5), HERE, [], 1, id="hidden"),
        pytest.param(at(9), HERE, ["LM2108", "LM2121"], 0, id="behind-its-end"),
        pytest.param(at(5, file="b"), HERE, ["LM2108", "LM2121"], 0, id="other-file"),
        pytest.param(at(5, code="LM2104"), HERE, ["LM2104", "LM2121"], 0, id="other-code"),
        pytest.param(at(5), dataclasses.replace(HERE, until=EARLIER), ["LM2108", "LM2120"], 0, id="ended"),
        pytest.param(at(5), dataclasses.replace(HERE, until=NOW), ["LM2108", "LM2120"], 0, id="ends-at-its-moment"),
        pytest.param(at(50), dataclasses.replace(HERE, extent=((1, 1), None)), [], 1, id="to-the-end-of-the-file"),
        pytest.param(at(5, code="LM2002"), dataclasses.replace(HERE, code="LM2002"), ["LM2002", "LM2122"], 0, id="error"),
        pytest.param(at(5), dataclasses.replace(HERE, code="LM9999"), ["LM2108", "LM2122"], 0, id="no-such-code"),
    ],
)  # fmt: skip
def test_settle(found: Diagnostic, suppression: Suppression, left: list[str], accepted: int) -> None:
    report = settle([found], [suppression], NOW)
    assert sorted(item.code for item in report.findings) == left
    assert len(report.accepted) == accepted


def test_what_was_not_looked_for_is_not_called_unused() -> None:
    unused = dataclasses.replace(HERE, code="LM2119")
    assert settle([], [unused], NOW, unasked=frozenset({"LM2119"})).findings == ()
    assert [item.code for item in settle([], [unused], NOW).findings] == ["LM2121"]


def test_findings_come_in_the_order_of_the_files() -> None:
    report = settle([at(5, file="b"), at(7), at(2)], [], NOW)
    assert [(item.span.file, item.span.line) for item in report.findings if item.span] == [("a", 2), ("a", 7), ("b", 5)]
