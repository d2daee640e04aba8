"""Which records of a log are meant: those of a time and of some kinds, in the order of the log."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterable, Iterator

from audit.formats.meaning import moment, read


def selected(
    records: Iterable[tuple[int, bytes]],
    *,
    since: dt.datetime | None = None,
    until: dt.datetime | None = None,
    kinds: Collection[str] = (),
) -> Iterator[tuple[int, bytes]]:
    """The records of [since, until) by their own time, of these kinds or, without any, of all.

    Raises Invalid LM6035 for a record that cannot be read.
    """
    if since is None and until is None and not kinds:
        yield from records
        return
    for index, data in records:
        record = read(index, data)
        if kinds and record["kind"] not in kinds:
            continue
        at = moment(index, str(record["time"]))
        if (since is None or at >= since) and (until is None or at < until):
            yield index, data
