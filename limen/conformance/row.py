"""What a check of a Workload API finds: one row for each statement. Pure."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Iterable
from typing import Any

_SEEN_CHARS = 200


class Result(enum.StrEnum):
    """How a check ended."""

    PASS = "pass"  # noqa: S105  a result
    FAIL = "fail"
    NOT_APPLICABLE = "n/a"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One statement with its result. ``level`` is M (MUST) or S (SHOULD)."""

    id: str
    level: str
    statement: str
    result: Result
    seen: str

    @property
    def order(self) -> tuple[str, int]:
        """Where it stands in a list."""
        group, _, number = self.id.partition("-")
        return group, int(number)


def row(name: str, level: str, statement: str, good: bool | None, seen: object = "") -> Row:  # noqa: FBT001
    """A row; None is for what the server gave nothing of, and which therefore cannot be looked at."""
    result = Result.NOT_APPLICABLE if good is None else Result.PASS if good else Result.FAIL
    return Row(id=name, level=level, statement=statement, result=result, seen=str(seen)[:_SEEN_CHARS])


def each(
    name: str,
    level: str,
    words: str,
    items: Iterable[Any],
    check: Callable[[Any], object],
    label: Callable[[Any], object] = lambda item: item.spiffe_id,
) -> Row:
    """A row that holds when every one of some things passes; what cannot be read does not."""
    count = 0
    for item in items:
        count += 1
        try:
            good = bool(check(item))
        except Exception as err:  # noqa: BLE001  whatever a stranger's bytes raise is the finding
            return row(name, level, words, False, f"{label(item)}: {type(err).__name__}: {err}")
        if not good:
            return row(name, level, words, False, label(item))
    return row(name, level, words, True if count else None, f"{count} checked" if count else "")
