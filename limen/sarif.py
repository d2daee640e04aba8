"""Findings as SARIF 2.1.0 (OASIS, errata 01), the format in which code scanning takes them.

A file's name stays as it was given when it is relative, so that a run at a repository's root gives names that are
relative to it; suppressed findings are results too, each with its reason. This module writes nothing.
"""

from __future__ import annotations

import hashlib
import pathlib
import urllib.parse
from collections.abc import Sequence

from mesh.clock import format_time
from mesh.problems import Diagnostic, Severity, entry
from policyengine.suppression import Accepted, Report

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_LEVELS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "note"}
Json = dict[str, object]


def sarif_of(report: Report, *, version: str) -> Json:
    """The SARIF log of a report; ``version`` is the tool's."""
    every = [*report.findings, *(item.finding for item in report.accepted)]
    codes = sorted({item.code for item in every})
    results = [_result(item, codes) for item in report.findings]
    results += [{**_result(item.finding, codes), "suppressions": [_suppression(item)]} for item in report.accepted]
    driver = {"name": "Limen", "version": version, "rules": [_rule(code) for code in codes]}
    run = {"tool": {"driver": driver}, "columnKind": "unicodeCodePoints", "results": results}
    return {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}


def _rule(code: str) -> Json:
    """The description of a code (SARIF §3.49)."""
    found = entry(code)
    return {
        "id": code,
        "name": "".join(word.capitalize() for word in found["name"].split("-")),
        "shortDescription": {"text": found["name"].replace("-", " ")},
        "fullDescription": {"text": found["message"]},
        "help": {"text": f"{found['help']}. `limen explain {code}` has the whole page."},
        "defaultConfiguration": {"level": _LEVELS[Severity(found["severity"])]},
    }


def _result(item: Diagnostic, codes: Sequence[str]) -> Json:
    """A finding (SARIF §3.27)."""
    found: Json = {
        "ruleId": item.code,
        "ruleIndex": codes.index(item.code),
        "level": _LEVELS[item.severity],
        "message": {"text": f"{item.message}; {item.help}"},
        "partialFingerprints": {"limenFinding/v1": _fingerprint(item)},
    }
    if item.span is not None:
        region = {"startLine": item.span.line, "startColumn": item.span.column}
        place = {"artifactLocation": {"uri": _uri(item.span.file)}, "region": region}
        found["locations"] = [{"physicalLocation": place}]
    return found


def _fingerprint(item: Diagnostic) -> str:
    """What stays when lines move: the code, the file, and what the finding is about."""
    facts = sorted((name, str(value)) for name, value in item.facts.items() if name in _SUBJECT)
    text = repr((item.code, item.span.file if item.span else "", facts))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


_SUBJECT = frozenset({"rule", "policy", "service", "name", "kind", "exception", "suppressed", "field", "value"})


def _suppression(item: Accepted) -> Json:
    """That a finding was accepted in the file, and why (SARIF §3.35)."""
    reason = f"{item.suppression.reason} (until {format_time(item.suppression.until)})"
    return {"kind": "inSource", "status": "accepted", "justification": reason}


def _uri(file: str) -> str:
    """A file's name as a URI reference (RFC 3986 §4.1)."""
    path = pathlib.PurePath(file)
    if path.is_absolute():
        return pathlib.Path(file).as_uri()
    return urllib.parse.quote(path.as_posix())
