"""Field lines that came before: read once, and compared with what comes next.

A caller sends the same fields again and again, but for a value or two that are new each time, such as a trace's id. A
`Form` holds a head's lines as they came, with gaps for those values; where the next head is the same around the gaps,
only the gaps are read. What fits in a gap is what the grammar allows a value to be, so that a head that fits reads as
it would alone. This module gives no field a meaning.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

MAX_GAPS = 4
_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")

Values = tuple[bytes, ...]


class Form(NamedTuple):
    """What follows a request line: ``pieces`` stand around the gaps, one more than there are gaps.

    ``gaps`` are the places of the values among the fields that are sent on, in order. Forms are told apart by which
    objects they are: as long as it is the same one, nothing differs but what is in the gaps.
    """

    pieces: tuple[bytes, ...]
    gaps: tuple[int, ...] = ()

    def read(self, buffer: bytes, at: int) -> tuple[int, Values] | None:
        """Where a head that has this form ends, and what is in its gaps; None where it has another."""
        pieces = self.pieces
        if not buffer.startswith(pieces[0], at):
            return None
        at += len(pieces[0])
        if len(pieces) == 1:
            return at, ()
        values = []
        for piece in pieces[1:]:
            found = _VALUE.match(buffer, at)
            assert found is not None, "no byte at all is a value too"
            at = found.end()
            if not buffer.startswith(piece, at):
                return None
            values.append(found[0].strip(b" \t"))
            at += len(piece)
        return at, tuple(values)

    def filled(self, fields: tuple[tuple[bytes, bytes], ...], values: Values) -> tuple[tuple[bytes, bytes], ...]:
        """The fields of a head that has this form, with other values in the gaps."""
        found = list(fields)
        for place, value in zip(self.gaps, values, strict=True):
            found[place] = found[place][0], value
        return tuple(found)


def learned(before: bytes, block: bytes, places: Sequence[int | None]) -> Form | None:
    """The form of a head's lines and of those before, where they differ in a few values and nothing else.

    ``places`` say of each line where its field stands among those that are sent on, None for one that has a meaning of
    its own: that one has to be the same.
    """
    lines = block.split(b"\r\n")
    last = before.split(b"\r\n")
    if len(lines) != len(last) or len(lines) != len(places) + 2:
        return None
    pieces: list[bytes] = []
    gaps: list[int] = []
    piece = b""
    for line, other, place in zip(lines, last, (*places, None, None), strict=True):
        name, colon, _ = line.partition(b":")
        if line == other:
            piece += line + b"\r\n"
            continue
        if place is None or not other.startswith(name + colon) or len(gaps) == MAX_GAPS:
            return None
        gaps.append(place)
        pieces.append(piece + name + colon)
        piece = b"\r\n"
    pieces.append(piece[:-2])  # the last line has no end of its own
    return Form(tuple(pieces), tuple(gaps))
