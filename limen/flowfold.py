"""Large files of flows folded into a history: DuckDB reads the lines, on all cores, and each costs one look-up here.

What a line says beside its path and its times is read as strictly as any flow, once for each different saying. Where
anything is odd (a line that is no flow, a moment without an offset), nothing is folded and the file is left to the
reader that names the line.
"""

from __future__ import annotations

import json
import pathlib

from learner.history import History, Place
from limen import flowcounts
from limen.flowcounts import MAX_LINE_BYTES, Odd
from mesh.flow import flow_from_json
from mesh.rowsdb import rows_database

__all__ = ["LARGE_BYTES", "Odd", "fold_large", "is_large"]

# below this a line at a time is as quick, and names what is wrong at once
LARGE_BYTES = 4 << 20

_TEXTS = (
    "source", "source_ip", "destination", "destination_ip", "destination_port", "protocol", "method", "status",
    "established", "replica", "version", "sensor", "verdict", "host",
)  # fmt: skip
_MOMENT = r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?([Zz]|[+-][0-9]{2}:[0-9]{2})"
_ANY_TIME = "1970-01-01T00:00:00Z"


def is_large(file: pathlib.Path) -> bool:
    """Whether folding at once is worth while."""
    return flowcounts.is_large(file, LARGE_BYTES)


def fold_large(file: pathlib.Path, history: History) -> int:
    """Fold a file of flows; how many there were.

    Raises Odd, and then nothing was folded.
    """
    names = ", ".join(_TEXTS)
    columns = {
        "start": "VARCHAR", "end": "VARCHAR", "path": "JSON", "decision": "JSON", "connections": "JSON",
        **dict.fromkeys(_TEXTS, "JSON"),
    }  # fmt: skip
    with rows_database(Odd) as database:
        database.execute(
            f"""
            CREATE TEMP TABLE lines AS
            SELECT epoch_us(try_cast(start AS TIMESTAMPTZ)) / 1e6 AS first,
                   epoch_us(try_cast("end" AS TIMESTAMPTZ)) / 1e6 AS last,
                   try_cast(coalesce(connections, '1') AS BIGINT) AS connections,
                   path ->> '$' AS path, decision ->> '$' AS decision,
                   regexp_full_match(start, $moment) AND coalesce(regexp_full_match("end", $moment), true)
                       AND coalesce(json_type(path) IN ('VARCHAR', 'NULL'), true)
                       AND coalesce(json_type(decision) IN ('VARCHAR', 'NULL'), true)
                       AND coalesce(json_type(connections) IN ('UBIGINT', 'BIGINT', 'NULL'), true) AS plain,
                   {names}
            FROM read_json($file, format = 'newline_delimited', columns = $columns,
                           maximum_object_size = $longest)
            """,  # noqa: S608  the names are ours, values are bound
            {"file": str(file), "columns": columns, "longest": MAX_LINE_BYTES, "moment": _MOMENT},
        )
        odd = database.execute(
            "SELECT count(*) FROM lines WHERE NOT coalesce(plain, false) OR first IS NULL OR connections IS"
            " NULL OR connections NOT BETWEEN 1 AND 9007199254740992"
        ).fetchone()
        if odd is None or odd[0]:
            raise Odd("a line is no flow")
        database.execute(
            f"CREATE TEMP TABLE places AS SELECT row_number() OVER () - 1 AS place, {names}"  # noqa: S608
            f" FROM (SELECT DISTINCT {names} FROM lines)"
        )
        rows = database.execute(f"SELECT {names} FROM places ORDER BY place").fetchall()  # noqa: S608
        places = [_place(row) for row in rows]
        same = " AND ".join(f"lines.{name} IS NOT DISTINCT FROM places.{name}" for name in _TEXTS)
        found = database.execute(
            "SELECT place, lines.path, lines.first, lines.last, lines.connections, lines.decision"  # noqa: S608
            f" FROM lines JOIN places ON {same} ORDER BY lines.first"
        )
        count = 0
        fold = history.fold_at
        while some := found.fetchmany(50_000):
            count += len(some)
            for place, path, first, last, connections, decision in some:
                fold(places[place], path, first, first if last is None else last, connections, decision)
    return count


def _place(row: tuple[object, ...]) -> Place:
    """One saying, its fields read as a line's would be."""
    fields = {name: json.loads(text) for name, text in zip(_TEXTS, row, strict=True) if isinstance(text, str)}
    try:
        return Place(flow_from_json({"start": _ANY_TIME, "source": None, "destination": None, **fields}))
    except ValueError as err:
        raise Odd(str(err)) from err
