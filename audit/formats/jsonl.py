"""JSON Lines: each record as it stands in the log, one a line. What is exported can be proved as it is."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator

from audit.record import Record, read_record
from mesh.clock import parse_time
from mesh.problems import Invalid


def lines(
    records: Iterable[tuple[int, bytes]], *, since: dt.datetime | None = None, until: dt.datetime | None = None
) -> Iterator[bytes]:
    """The records of [since, until) by their own time, in the order of the log.

    Raises Invalid LM6035 for a record that cannot be read.
    """
    for index, data in records:
        moment = time_of(index, data)
        if (since is None or moment >= since) and (until is None or moment < until):
            yield data + b"\n"


def time_of(index: int, data: bytes) -> dt.datetime:
    """When the thing happened that a record is about.

    Raises Invalid LM6035 for a record that cannot be read.
    """
    try:
        found: Record = read_record(data)
        return parse_time(str(found["time"]))
    except (Invalid, ValueError) as err:
        reason = err.message if isinstance(err, Invalid) else "its time is not RFC 3339"
        raise Invalid("LM6035", index=index, reason=reason) from err
