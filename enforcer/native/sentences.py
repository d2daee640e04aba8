"""The catalogue's sentences for a process that must stay small: read without the YAML library.

The catalogue's files hold a code per block and a field per line, each value on one line, plain or in double quotes;
that much is read here, and a test compares the outcome with YAML's. A code that is not found has no sentence,
which is never a reason to fail.
"""

from __future__ import annotations

import functools
import importlib.resources
import json
import re
import string

_CODE = re.compile(r"(LM[0-9]{4}):\s*")
_FIELD = re.compile(r"\s+(message|help):\s*(.+)")


class _Facts(dict[str, object]):
    def __missing__(self, key: str) -> str:
        return f"?{key}"


@functools.cache
def sentences() -> dict[str, dict[str, str]]:
    """Read message and help of every code."""
    found: dict[str, dict[str, str]] = {}
    current: dict[str, str] = {}
    for file in (importlib.resources.files("mesh") / "catalogue").iterdir():
        for line in file.read_text("utf-8").splitlines():
            if code := _CODE.fullmatch(line):
                current = found.setdefault(code[1], {})
            elif field := _FIELD.fullmatch(line):
                current[field[1]] = _plain(field[2])
    return found


def sentence(code: str, field: str, facts: dict[str, object]) -> str:
    """One sentence of a code with its facts filled in; empty when there is none."""
    template = sentences().get(code, {}).get(field, "")
    return string.Formatter().vformat(template, (), _Facts(facts))


def _plain(text: str) -> str:
    text = text.strip()
    try:
        return str(json.loads(text)) if text.startswith('"') else text
    except ValueError:
        return ""
