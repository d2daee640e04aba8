"""The server's own tables: flows for the learner, and how far each agent's record batches came."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from mesh.flow import Flow, flow_from_json
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
PUSHES = sa.Table(
    "limen_pushes",
    _METADATA,
    sa.Column("node", sa.String, primary_key=True),
    sa.Column("digest", sa.String),
)
MAX_FLOWS = 2_000_000
# a lock of PostgreSQL's own, for the numbers of flows
_IN_ORDER = 0x4C494D464C4F57


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """The last batch that an agent handed over; ``key`` is the one it signed its first batch with."""

    sequence: int
    digest: str
    previous: str
    key: bytes


def put_flows(connection: sa.Connection, node: str, rows: Sequence[bytes]) -> int:
    """Keep flows; return how many connections they stand for. The node's last push, told again, is kept once.

    Raises Invalid LM5231 for a row that is no flow; then none is kept.
    """
    texts, connections = [], 0
    digest = hashlib.sha256(b"\n".join(rows)).hexdigest()
    for row in rows:
        try:
            found = flow_from_json(json.loads(row))
        except (ValueError, RecursionError, AttributeError) as err:
            raise Invalid("LM5231", node=node, reason=str(err)) from err
        connections += found.connections
        texts.append(json.dumps(found.to_json()))
    if not texts:
        return 0
    _in_order(connection)
    known = connection.execute(sa.select(PUSHES.c.digest).where(PUSHES.c.node == node)).scalar()
    if known == digest:
        return 0
    if known is None:
        connection.execute(sa.insert(PUSHES).values(node=node, digest=digest))
    else:
        connection.execute(sa.update(PUSHES).where(PUSHES.c.node == node).values(digest=digest))
    _add(connection, node, texts)
    return connections


def add_flows(connection: sa.Connection, node: str, flows: Sequence[Flow]) -> None:
    """Keep flows that were made here; the caller's transaction sees to it that they come once."""
    if flows:
        _in_order(connection)
        _add(connection, node, [json.dumps(found.to_json()) for found in flows])


def _in_order(connection: sa.Connection) -> None:
    if connection.dialect.name == "postgresql":
        # who reads by number must not see a higher one before a lower one
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_IN_ORDER)))


def _add(connection: sa.Connection, node: str, texts: Sequence[str]) -> None:
    connection.execute(sa.insert(FLOWS), [{"node": node, "row": text} for text in texts])
    newest = connection.execute(sa.select(sa.func.max(FLOWS.c.number))).scalar() or 0
    connection.execute(sa.delete(FLOWS).where(FLOWS.c.number <= newest - MAX_FLOWS))


def flows_after(connection: sa.Connection, number: int, limit: int) -> tuple[int, list[tuple[int, str]]]:
    """The flows after a number, as texts with their numbers; and how many after it are not there any more."""
    asked = sa.select(FLOWS).where(FLOWS.c.number > number).order_by(FLOWS.c.number).limit(limit)
    rows = [(int(row.number), str(row.row)) for row in connection.execute(asked)]
    oldest = connection.execute(sa.select(sa.func.min(FLOWS.c.number))).scalar() or 0
    return max(0, oldest - number - 1), rows


def newest_flow(connection: sa.Connection) -> int:
    """The number of the newest flow; 0 before the first."""
    return int(connection.execute(sa.select(sa.func.max(FLOWS.c.number))).scalar() or 0)


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
