"""The report is JUnit XML as Ant's and Jenkins' schemas have it in common."""

import datetime as dt
import xml.etree.ElementTree as ET

from hypothesis import given
from hypothesis import strategies as st

from limen.junit import junit
from mesh.problems import Diagnostic, Span
from mesh.request import Decision, Effect, Mode, Request
from policyengine.suite import Case, Expected, Given, Outcome

NOW = dt.datetime(2026, 11, 24, 12, 0, tzinfo=dt.UTC)
# per element: its attributes, all of which are required, and its children in their order
SHAPE = {
    "testsuites": ((), ("testsuite",)),
    "testsuite": (
        ("name", "timestamp", "hostname", "tests", "failures", "errors", "time", "package", "id"),
        ("properties", "testcase", "system-out", "system-err"),
    ),
    "properties": ((), ("property",)),
    "property": (("name", "value"), ()),
    "testcase": (("name", "classname", "time"), ("failure",)),
    "failure": (("message", "type"), ()),
    "system-out": ((), ()),
    "system-err": ((), ()),
}


def outcome(test: str, case: str, because: str, *, has_passed: bool) -> Outcome:
    decision = Decision(
        effect=Effect.DENY, policy_effect=Effect.DENY, mode=Mode.ENFORCE, snapshot="s", tier="", policy="", rule="",
        code="LM2302",
    )  # fmt: skip
    span = Span(file="f.yaml", line=3, column=5)
    facts: dict[str, object] = {"case": case, "because": because, "differs": "x", "by": "y"}
    return Outcome(
        test=test,
        case=Case(
            name=case,
            given=Given({"source": None, "service": "db"}),
            expect=Expected(decision=Effect.ALLOW),
            because=because,
            span=span,
        ),
        request=Request(service="db", port=1, protocol="http"),
        decision=decision,
        finding=None if has_passed else Diagnostic(code="LM2700", span=span, facts=facts),
    )


def check(element: ET.Element) -> None:
    attributes, children = SHAPE[element.tag]
    assert set(element.attrib) == set(attributes)
    order = [children.index(child.tag) for child in element]
    assert order == sorted(order)
    for child in element:
        check(child)


@given(
    st.lists(
        st.builds(
            outcome, st.sampled_from(("a", "b")), st.text(max_size=9), st.text(max_size=9), has_passed=st.booleans()
        ),
        max_size=6,
    )
)
def test_any_outcomes_give_a_document_of_that_shape_with_sums_that_add_up(outcomes: list[Outcome]) -> None:
    root = ET.fromstring(junit(outcomes, {"coverage": "1"}, NOW))
    check(root)
    suites = list(root)
    assert sum(int(suite.attrib["tests"]) for suite in suites) == len(root.findall(".//testcase")) == len(outcomes)
    failed = [item for item in outcomes if not item.has_passed]
    assert sum(int(suite.attrib["failures"]) for suite in suites) == len(root.findall(".//failure")) == len(failed)
    assert all("f.yaml:3:5" in (item.text or "") for item in root.findall(".//failure"))


def test_times_have_the_form_of_the_schema() -> None:
    root = ET.fromstring(junit([outcome("a", "b", "c", has_passed=True)], {}, NOW))
    assert root[0].attrib["timestamp"] == "2026-11-24T12:00:00"
    assert junit([], {}, NOW).startswith('<?xml version="1.0" encoding="UTF-8"?>\n<testsuites')
