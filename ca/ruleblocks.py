"""Divides a large `identities.yaml` between its rules, so that it is read in small parts and a changed one alone anew.

Only for a file of the usual form: `rules:` and a list whose items all begin at one column. A part is read as a file of
its own that has just these rules. That is the same as reading the whole at once, if EVERY part is a whole document with
as many rules as items begin in it: whatever would go on across a boundary (a quoted text, a flow list) is not whole in
the part where it began. When one is not, the parts say nothing, and the file is read as a whole.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterator, Sequence

_BLANK = r"(?:[ \t]*(?:#[^\n]*)?\r?\n)*"
_HEAD = re.compile(rf"{_BLANK}(?:---[ \t]*\r?\n{_BLANK})?rules:[ \t]*(?:#[^\n]*)?\r?\n{_BLANK}(?= *- )")
# where a part ends depends on the rule that ends it, not on how many there are: a new one moves no other boundary
_ENDS_IN = 64
_MOST = 1024


def divide(text: str) -> Iterator[tuple[str, int, int]]:
    """The parts of a file in order: text, how many items begin in it, and where that is. Nothing for another form."""
    head = _HEAD.match(text)
    if head is not None:
        begin = head.end()
        yield from _parts(text, begin, len(text), text[begin : text.index("-", begin)])


def redivide(text: str, before: str, begins: Sequence[int]) -> tuple[int, int, list[tuple[str, int, int]]] | None:
    """What changed of a file that was divided before into parts that began at ``begins``.

    Returns how many parts are the same at the beginning and at the end, and the parts between them; None when the first
    one is not the same, and with it what stands before it may be, or when the text cannot be divided any more.
    """
    prefix = _common(before, text)
    suffix = _common_end(before, text, min(len(before), len(text)) - prefix)
    indent = before[begins[0] : before.index("-", begins[0])]
    # a part is the same if what ends it is, and what makes the next one begin
    same = bisect.bisect_right(begins, prefix - len(indent) - 2) - 1
    if same < 1:
        return None
    last = max(same, bisect.bisect_left(begins, len(before) - suffix + 1))
    begin = begins[same]
    end = len(text) if last == len(begins) else len(text) - (len(before) - begins[last]) - 1
    if end < begin:
        return same, len(begins) - last, []
    between = [*_parts(text, begin, end, indent)]
    # nothing, of a text that is not: a document may end in it
    return (same, len(begins) - last, between) if between else None


def _parts(text: str, begin: int, end: int, indent: str) -> Iterator[tuple[str, int, int]]:
    body = text[begin:end]
    if f"\n{body}".find("\n---") >= 0 or f"\n{body}".find("\n...") >= 0:
        # a document may end there: a part would not tell
        return
    mark = f"\n{indent}- "
    items = body[len(mark) - 1 :].split(mark)
    first = 0
    for place, item in enumerate(items):
        is_last = place == len(items) - 1
        if is_last or hash(item) % _ENDS_IN == 0 or place - first == _MOST:
            part = mark[1:] + mark.join(items[first : place + 1])
            yield part, place + 1 - first, begin
            begin += len(part) + 1
            first = place + 1


def _common(one: str, other: str) -> int:
    """How many characters two texts have in common at their beginning."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _common_end(one: str, other: str, most: int) -> int:
    """How many characters two texts have in common at their end; no more than ``most``."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        if one[len(one) - middle : len(one) - low] == other[len(other) - middle : len(other) - low]:
            low = middle
        else:
            high = middle - 1
    return low
