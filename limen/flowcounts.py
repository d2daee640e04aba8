"""Large files of recorded flows, reduced to the flows that a decision can tell apart, each with how often it was seen.

DuckDB reads the file and counts, on all cores and out of memory where it must; what is left is read as strictly as any
flow. Lines that differ only in what no decision looks at (times, sizes, sensors) are one. Where anything is odd, the
file is left to the reader that names the line.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterator

from mesh.flow import flow_from_json
from mesh.rowsdb import rows_database
from policyengine.replay import Counted

# below this a line at a time is as quick, and names what is wrong at once
LARGE_BYTES = 16 << 20
MAX_LINE_BYTES = 1 << 20
_KEY = ("source", "source_ip", "destination", "destination_ip", "destination_port", "protocol", "method", "path")
_CHECKED = {"end": "VARCHAR", "status": "INTEGER", "established": "BOOLEAN", "connections": "BIGINT"}


class Odd(Exception):  # noqa: N818  not an error: another reader says what is wrong
    """The file holds something that is no flow, or that this reader does not take."""


def is_large(file: pathlib.Path, at_least: int = LARGE_BYTES) -> bool:
    """Whether reading by DuckDB is worth while; a name with a pattern's characters is read as it stands, elsewhere."""
    try:
        return file.stat().st_size >= at_least and not set(str(file)) & set("*?[]{}")
    except OSError:
        return False


def count_flows(file: pathlib.Path) -> Iterator[Counted]:
    """The distinct flows of a file with one JSON object a line.

    Raises Odd.
    """
    names = ", ".join(_KEY)
    columns = {"start": "VARCHAR", **dict.fromkeys(_KEY, "JSON"), **_CHECKED}
    # a moment that does not parse is a line that is no flow: counted here, named by the other reader
    query = f"""
        SELECT {names}, min(start), count(*), count(try_cast(start AS TIMESTAMPTZ)),
               count(*) FILTER ("end" IS NOT NULL AND try_cast("end" AS TIMESTAMPTZ) IS NULL)
        FROM read_json($file, format = 'newline_delimited', columns = $columns, maximum_object_size = $longest)
        GROUP BY ALL
    """  # noqa: S608  the names are ours, values are bound
    with rows_database(Odd) as database:
        found = database.execute(query, {"file": str(file), "columns": columns, "longest": MAX_LINE_BYTES})
        while rows := found.fetchmany(10_000):
            for row in rows:
                yield _counted(row)


def _counted(row: tuple[object, ...]) -> Counted:
    """One group, its fields read as a line's would be."""
    *texts, start, count, dated, undated_ends = row
    assert isinstance(count, int)
    if dated != count or undated_ends:
        raise Odd("a line has no moment")
    fields = {name: json.loads(text) for name, text in zip(_KEY, texts, strict=True) if isinstance(text, str)}
    try:
        return Counted(flow_from_json({"start": start, **fields}), count)
    except ValueError as err:
        raise Odd(str(err)) from err
