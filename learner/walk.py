"""Finds where the records of a capture begin, many at once: cursors that walk through the bytes in lockstep.

A record says how long it is, so that finding the next is a step that needs the one before: a loop, at several
million a second. Here a block of bytes is cut in parts; for each the first place that looks like a record is taken,
and all parts are walked together.

1. The first cursor stands on a record that is known to be one.
2. Every cursor walks until it reaches the place where the next one began.
3. If EVERY cursor lands exactly there, all places are records: by induction from (1), each walked from a true one.
4. If one does not, the guess was wrong (or made to be), and the block is walked one record after the other.

It reads no header but for lengths, and holds no state.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

# parts of so many bytes are walked together; smaller ones look longer for beginnings than they save
PART_BYTES = 1 << 16
# a beginning is looked for within so many bytes of a part: a packet of an Ethernet without jumbo frames, and its header
LOOK_BYTES = 1600
_HOPS = 3
Array: TypeAlias = Any  # of numpy, into which mypy does not look


@dataclasses.dataclass(frozen=True, slots=True)
class Format:
    """How records follow one another: where the next one begins, and whether a place looks like a record.

    Both take an array of places; the next one is always further on.
    """

    following: Callable[[Array], Array]
    looks_right: Callable[[Array], Array]
    header: int


def walk(form: Format, end: int) -> tuple[Array, int]:
    """The places of all whole records of a block of ``end`` bytes, and where the first that is not whole begins."""
    width = max(PART_BYTES, 4 * LOOK_BYTES)
    starts = _starts(form, end, width)
    found = _lockstep(form, starts, end) if len(starts) > 1 else None
    places = found if found is not None else _one_by_one(form, end)
    if not len(places):
        return places, 0
    # the last one may not be whole
    last = int(places[-1])
    rest = int(form.following(places[-1:])[0])
    return (places, rest) if rest <= end else (places[:-1], last)


def _starts(form: Format, end: int, width: int) -> Array:
    """One place for each part; parts in which none is found belong to the one before."""
    bounds = np.arange(width, end - LOOK_BYTES - form.header, width, dtype=np.int64)
    first = np.full(len(bounds), -1, dtype=np.int64)
    for begin, stop in itertools.pairwise((0, LOOK_BYTES // 8, LOOK_BYTES)):
        missing = np.nonzero(first < 0)[0]
        if len(missing):
            rows, at = _look(form, bounds[missing], begin, stop, end)
            first[missing[rows]] = at
    out = [0, *first[first >= 0].tolist()]
    return np.array(out, dtype=np.int64)


def _look(form: Format, bounds: Array, begin: int, stop: int, end: int) -> tuple[Array, Array]:
    """The first place that looks right behind each bound, and whose next ones do: which bounds have one, and where."""
    places = bounds[:, None] + np.arange(begin, stop, dtype=np.int64)
    rows, columns = np.nonzero(form.looks_right(places.ravel()).reshape(places.shape))
    alive = places[rows, columns]
    at, last = alive, end - form.header
    keep = np.ones(len(at), dtype=bool)
    for _ in range(_HOPS):
        at = form.following(np.minimum(at, last))
        # a place beyond the block cannot be looked at, and is no sign of a wrong one
        keep &= (at > last) | form.looks_right(np.minimum(at, last))
    rows, alive = rows[keep], alive[keep]
    rows, index = np.unique(rows, return_index=True)
    return rows, alive[index]


def _lockstep(form: Format, starts: Array, end: int) -> Array | None:
    """Steps 2 and 3; None where a cursor does not land."""
    goals = np.append(starts[1:], end)
    last = end - form.header
    steps: list[Array] = []
    which: list[Array] = []
    at, number = starts, np.arange(len(starts))
    goal = goals
    while len(at):
        steps.append(at)
        which.append(number)
        at = form.following(at)
        # the last cursor ends where no whole header is left
        going = (at < goal) & (at <= last)
        if not going.all():
            ended = ~going
            if (at[ended & (number < len(starts) - 1)] != goal[ended & (number < len(starts) - 1)]).any():
                return None
            at, number, goal = at[going], number[going], goal[going]
    places = np.concatenate(steps)
    places.sort()
    return places


def _one_by_one(form: Format, end: int) -> Array:
    """Step 4."""
    places = []
    at = 0
    one = np.zeros(1, dtype=np.int64)
    while at <= end - form.header:
        places.append(at)
        one[0] = at
        at = int(form.following(one)[0])
    return np.array(places, dtype=np.int64)
