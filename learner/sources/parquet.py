"""Reads Limen's decision records from Parquet: a file of them, or a directory of days that an export goes on writing.

`limen audit export --format parquet` and continuous exports write it. DuckDB reads the columns that a flow is made of,
on all cores and out of memory where it must, and leaves out what was delivered twice, so that months of records are
learned from without the log. What becomes of a record is said in `learner.sources.decisions`, whichever way it came.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Sequence

from learner.sources import decisions
from learner.sources.ledger import Ledger
from learner.sources.rows import Input
from mesh.flow import Flow
from mesh.problems import Diagnostic, Invalid
from mesh.rowsdb import rows_database

_MAGIC = b"PAR1"
_TEXTS = (
    "kind", "source", "direction", "caller", "destination", "peer_ip", "protocol", "method", "path", "decision",
    "policy_decision", "tier", "code", "rule",
)  # fmt: skip
# a moment without a time zone is one that DuckDB writes without its extension for those
_TIME = "strftime(make_timestamp(epoch_us(\"time\")), '%Y-%m-%dT%H:%M:%S.%fZ')"


def read_flows(path: pathlib.Path, findings: list[Diagnostic], ledger: Ledger) -> Iterator[Flow]:
    """The flows of a file of records, or of all of them below a directory; one that came twice counts once.

    Raises Invalid LM4001 when a file cannot be read, or is no Parquet of records.
    """
    source = Input(path, findings, ledger)
    files = files_of(path)
    if not files:
        return
    with rows_database(lambda reason: Invalid("LM4001", file=str(path), reason=reason)) as database:
        rows = database.execute(_query(), {"files": [str(file) for file in files]})
        names = ["index", "time", "port", "records", "name", *_TEXTS]
        while some := rows.fetchmany(10_000):
            for values in some:
                row = dict(zip(names, values, strict=True))
                row["facts"] = {"name": row.pop("name")}
                yield from source.take(row["index"], lambda row=row: [decisions.outcome(row, ledger)])  # type: ignore[misc]  # mypy has no type for a lambda's default


def recognises(head: bytes) -> bool:
    """Whether a file begins as Parquet does."""
    return head.startswith(_MAGIC)


def files_of(path: pathlib.Path) -> Sequence[pathlib.Path]:
    """A file itself, or the Parquet below a directory; what is being written there begins with a dot."""
    if not path.is_dir():
        return [path]
    return sorted(file for file in path.rglob("*.parquet") if not file.name.startswith("."))


def _query() -> str:
    """One row for each record of the log, by its index and id; what is heavy is read of few kinds alone."""
    texts = ", ".join(_TEXTS)
    return f"""
        SELECT "index", {_TIME}, port,
               CASE WHEN kind = 'lost' THEN CAST(record ->> '$.records' AS BIGINT) END,
               CASE WHEN direction = 'outbound' THEN record ->> '$.facts.name' END, {texts}
        FROM (
            SELECT DISTINCT ON ("index", id) *
            FROM read_parquet($files, union_by_name = true, hive_partitioning = false)
        )
        ORDER BY "time", "index"
    """  # noqa: S608  the names are ours, values are bound
