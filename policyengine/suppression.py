"""Findings that somebody accepted, with a reason and an end: `metadata.suppress` of a policy document.

A suppression hides the findings of one code in its document, or of one rule in it, until its end. Errors are never
hidden, and neither is what is wrong with suppressions themselves: one that has ended, and one that hides nothing.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Iterable, Sequence

from mesh.clock import format_time
from mesh.problems import Diagnostic, Severity, Span, catalogue
from policyengine.model import Suppression

EXPIRED, UNUSED, REFUSED = "LM2120", "LM2121", "LM2122"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """A finding that is hidden, and the suppression that hides it."""

    finding: Diagnostic
    suppression: Suppression


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a lint found: what is left, in order of place, and what was accepted."""

    findings: tuple[Diagnostic, ...] = ()
    accepted: tuple[Accepted, ...] = ()


def settle(
    found: Iterable[Diagnostic],
    suppressions: Sequence[Suppression],
    now: dt.datetime,
    *,
    unasked: frozenset[str] = frozenset(),
) -> Report:
    """Hide what was accepted and report what is wrong with the suppressions.

    1. A suppression counts until its end, for findings of its code within its extent that are no errors.
    2. One that has ended is a finding; the findings that it hid are back.
    3. One that names an error is a finding; so is one that hid nothing, unless its code is ``unasked``: what was
       not looked for may be there.
    """
    findings: list[Diagnostic] = []
    accepted: list[Accepted] = []
    used: set[int] = set()
    # (1)
    for item in found:
        holding = [place for place, one in enumerate(suppressions) if _is_about(one, item) and now < one.until]
        if holding and item.severity is not Severity.ERROR:
            used.add(holding[0])
            accepted.append(Accepted(finding=item, suppression=suppressions[holding[0]]))
        else:
            findings.append(item)
    for place, one in enumerate(suppressions):
        facts: dict[str, object] = {
            "suppressed": one.code,
            "until": format_time(one.until),
            "reason": one.reason,
            "rule": one.rule or "",
        }
        code = None
        if now >= one.until:
            code = EXPIRED  # (2)
        elif _is_error(one.code):
            code = REFUSED  # (3)
        elif place not in used and one.code not in unasked:
            code = UNUSED
        if code is not None:
            findings.append(Diagnostic(code=code, span=one.span, facts=facts))
    return Report(findings=tuple(sorted(findings, key=by_place)), accepted=tuple(accepted))


def by_place(item: Diagnostic) -> tuple[str, int, int, str]:
    """Findings in the order in which somebody reads the files."""
    span = item.span
    return (span.file, span.line, span.column, item.code) if span else ("", 0, 0, item.code)


def _is_error(code: str) -> bool:
    entry = catalogue().get(code)
    return entry is None or entry["severity"] == Severity.ERROR


def _is_about(one: Suppression, item: Diagnostic) -> bool:
    """Whether a finding has the code and the place that a suppression names."""
    span = item.span
    if span is None or one.code != item.code or span.file != one.span.file:
        return False
    begin, end = one.extent
    return begin <= _place(span) and (end is None or _place(span) < end)


def _place(span: Span) -> tuple[int, int]:
    return (span.line, span.column)
