"""The server's own tables: flows for the learner, and how far each agent's record batches came."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from mesh.flow import flow_from_json
from mesh.problems import Invalid

_METADATA = sa.MetaData()
FLOWS = sa.Table(
    "limen_flows",
    _METADATA,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("node", sa.String),
    sa.Column("row", sa.Text),
)
BATCHES = sa.Table(
    "limen_batches",
    _METADATA,
    sa.Column("node", sa.String, primary_key=True),
    sa.Column("sequence", sa.BigInteger),
    sa.Column("digest", sa.String),
    sa.Column("previous", sa.String),
    sa.Column("key", sa.LargeBinary),
)
MAX_FLOWS = 2_000_000


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """The last batch that an agent handed over; ``key`` is the one it signed its first batch with."""

    sequence: int
    digest: str
    previous: str
    key: bytes


def put_flows(connection: sa.Connection, node: str, rows: Sequence[bytes]) -> int:
    """Keep flows; return how many connections they stand for.

    Raises Invalid LM5231 for a row that is no flow; then none is kept.
    """
    texts, connections = [], 0
    for row in rows:
        try:
            found = flow_from_json(json.loads(row))
        except (ValueError, RecursionError, AttributeError) as err:
            raise Invalid("LM5231", node=node, reason=str(err)) from err
        connections += found.connections
        texts.append(json.dumps(found.to_json()))
    if texts:
        connection.execute(sa.insert(FLOWS), [{"node": node, "row": text} for text in texts])
        newest = connection.execute(sa.select(sa.func.max(FLOWS.c.number))).scalar() or 0
        connection.execute(sa.delete(FLOWS).where(FLOWS.c.number <= newest - MAX_FLOWS))
    return connections


def flows(connection: sa.Connection, limit: int) -> list[dict[str, Any]]:
    """The newest flows, oldest first."""
    rows = connection.execute(sa.select(FLOWS.c.row).order_by(FLOWS.c.number.desc()).limit(limit))
    return [json.loads(row.row) for row in rows][::-1]


def count_flows(connection: sa.Connection) -> int:
    """How many connections the kept flows stand for."""
    return sum(int(row.get("connections", 1)) for row in flows(connection, MAX_FLOWS))


def get_progress(connection: sa.Connection, node: str) -> Progress | None:
    """How far an agent's batches came."""
    row = connection.execute(sa.select(BATCHES).where(BATCHES.c.node == node)).first()
    if row is None:
        return None
    return Progress(sequence=row.sequence, digest=row.digest, previous=row.previous, key=bytes(row.key))


def put_progress(connection: sa.Connection, node: str, progress: Progress) -> None:
    """Remember an agent's last batch."""
    values = dataclasses.asdict(progress)
    done = connection.execute(sa.update(BATCHES).where(BATCHES.c.node == node).values(**values))
    if done.rowcount == 0:
        connection.execute(sa.insert(BATCHES).values(node=node, **values))


def forget_progress(connection: sa.Connection, node: str) -> None:
    """Let a node's batches begin again, with another key."""
    connection.execute(sa.delete(BATCHES).where(BATCHES.c.node == node))
