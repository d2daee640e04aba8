"""Divides a large `identities.yaml` between its rules, so that it is read in small parts and a changed one alone anew.

Only for a file of the usual form: `rules:` and a list whose items all begin at one column. A part is read as a file of
its own that has just these rules. That is the same as reading the whole at once, if EVERY part is a whole document with
as many rules as items begin in it: whatever would go on across a boundary (a quoted text, a flow list) is not whole in
the part where it began. When one is not, the parts say nothing, and the file is read as a whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_BLANK = r"(?:[ \t]*(?:#[^\n]*)?\r?\n)*"
_HEAD = re.compile(rf"{_BLANK}(?:---[ \t]*\r?\n{_BLANK})?rules:[ \t]*(?:#[^\n]*)?\r?\n{_BLANK}(?= *- )")
# where a part ends depends on the rule that ends it, not on how many there are: a new one moves no other boundary
_ENDS_IN = 64
_MOST = 1024


def divide(text: str) -> Iterator[tuple[str, int, int]]:
    """The parts of a file in order: text, how many items begin in it, and its first line. Nothing for another form."""
    head = _HEAD.match(text)
    if head is None:
        return
    begin = head.end()
    if "\n---" in text[begin - 1 :] or "\n..." in text[begin - 1 :]:
        # a document may end there: a part would not tell
        return
    indent = text[begin : text.index("-", begin)]
    mark = f"\n{indent}- "
    line = text.count("\n", 0, begin) + 1
    items = text[begin + len(mark) - 1 :].split(mark)
    first = 0
    for place, item in enumerate(items):
        is_last = place == len(items) - 1
        if is_last or hash(item) % _ENDS_IN == 0 or place - first == _MOST:
            part = mark[1:] + mark.join(items[first : place + 1])
            yield part, place + 1 - first, line
            line += part.count("\n") + 1
            first = place + 1
