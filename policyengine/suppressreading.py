"""Reads `metadata.suppress`: the findings of lint that a document accepts, each with a reason and an end.

What a suppression speaks of, and whether it hides anything, is the business of the loader and of
`policyengine.suppression`.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import re

from policyengine.reading import RULE_ID, Path, Reader

_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_CODE = re.compile(r"LM[0-9]{4}")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Suppressed:
    """A suppression as it was read: what it says, and where (a path of keys)."""

    code: str
    reason: str
    until: dt.datetime
    rule: str | None
    path: Path


def read_suppressions(reader: Reader, value: object, path: Path) -> tuple[Suppressed, ...]:
    """The list; findings go to the reader."""
    return reader.items(value, path, lambda item, at: _suppression(reader, item, at)) or ()


def _suppression(reader: Reader, value: object, path: Path) -> Suppressed | None:
    """One finding that is accepted: `code`, `reason`, `until`, and the rule if it is about one."""
    fields = reader.mapping(value, path, ("code", "reason", "until"), ("rule",))
    if fields is None:
        return None
    before = len(reader.findings)
    code, reason = reader.text(fields["code"], (*path, "code")), reader.text(fields["reason"], (*path, "reason"))
    until = reader.moment(_moment(fields["until"]), (*path, "until"))
    rule = reader.name(fields["rule"], (*path, "rule"), RULE_ID) if "rule" in fields else None
    if code is not None and _CODE.fullmatch(code) is None:
        reader.refuse((*path, "code"), "LM2124", value=code)
    if reason is not None and not reason.strip():
        reader.refuse((*path, "reason"), "LM2125")
    if len(reader.findings) > before or code is None or reason is None or until is None:
        return None
    return Suppressed(code=code, reason=reason, until=until, rule=rule, path=path)


def _moment(value: object) -> object:
    """A date is its first moment in UTC; everything else stays as it is."""
    return f"{value}T00:00:00Z" if isinstance(value, str) and _DATE.fullmatch(value) else value
