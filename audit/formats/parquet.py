"""Parquet: which columns a record becomes. A file is written by `audit.sinks.parquet`, which knows the library.

Every row has the record whole in `record`; the other columns are what people filter and group by. A file holds the
records of one day or of one export, and one set of columns: a later version adds columns at the end and renames none.
"""

from __future__ import annotations

from typing import Any

from audit.formats.meaning import meaning, read
from mesh.clock import format_time

_TEXTS = (
    "decision",
    "policy_decision",
    "mode",
    "direction",
    "caller",
    "destination",
    "peer_ip",
    "protocol",
    "method",
    "host",
    "path",
    "policy",
    "rule",
    "tier",
    "snapshot",
    "code",
    "event",
    "actor",
    "spiffe_id",
    "serial",
    "review",
    "node",
)
COLUMNS: dict[str, str] = {
    "index": "BIGINT",
    "id": "VARCHAR",
    "time": "TIMESTAMPTZ",
    "kind": "VARCHAR",
    "source": "VARCHAR",
    "outcome": "VARCHAR",
    "port": "INTEGER",
    **dict.fromkeys(_TEXTS, "VARCHAR"),
    "trace_id": "VARCHAR",
    "span_id": "VARCHAR",
    "record": "VARCHAR",
}
"""Names and SQL types of the columns, in their order."""


def row(index: int, data: bytes) -> dict[str, Any]:
    """A record's row: EVERY column, None where the record has nothing for it.

    Raises Invalid LM6035 for a record that cannot be read.
    """
    record = read(index, data)
    said = meaning(index, record)
    port = record.get("port")
    texts = {name: value if type(value := record.get(name)) is str else None for name in _TEXTS}
    return {
        "index": index,
        "id": said.id,
        "time": format_time(said.time),
        "kind": said.kind,
        "source": said.source,
        "outcome": said.outcome.value,
        "port": port if type(port) is int and 0 <= port <= 65535 else None,
        **texts,
        "trace_id": said.trace_id,
        "span_id": said.span_id,
        "record": data.decode(),
    }
