"""The names of programs that run what other files say: what such an executable is says nothing of what it does."""

from __future__ import annotations

import re

_INTERPRETERS = re.compile(
    r"(python|pypy)(\d+(\.\d+)*)?|node(js)?|ruby(\d+(\.\d+)*)?|perl(\d+(\.\d+)*)?|php(\d+(\.\d+)*)?|lua(jit)?(\d+(\.\d+)*)?"
    r"|(b|d|k|z)?a?sh|dash|bash|ksh|zsh|java|deno|bun|tclsh(\d+(\.\d+)*)?|Rscript|guile|gawk|awk|sed\Z"
)


def is_interpreter_name(name: str) -> bool:
    """Whether an executable's file name, links resolved, is an interpreter's."""
    return _INTERPRETERS.fullmatch(name) is not None
