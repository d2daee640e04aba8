"""The result of one check: passed, a warning or an error, with the next thing to do."""

from __future__ import annotations

import dataclasses
from typing import Literal

Level = Literal["ok", "warning", "error"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One line of `limen check`. ``code`` is empty for what passed; ``hint`` says what to do."""

    group: str
    level: Level
    text: str
    code: str = ""
    hint: str = ""

    def to_json(self) -> dict[str, str]:
        """The result as JSON."""
        return dataclasses.asdict(self)


def passed(group: str, text: str) -> Result:
    """Something is as it should be."""
    return Result(group=group, level="ok", text=text)


def warned(group: str, text: str, code: str, hint: str) -> Result:
    """Something works, and will bite."""
    return Result(group=group, level="warning", text=text, code=code, hint=hint)


def failed(group: str, text: str, code: str, hint: str) -> Result:
    """Something does not work, or is unsafe."""
    return Result(group=group, level="error", text=text, code=code, hint=hint)
