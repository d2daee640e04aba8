"""The tables of nodes: join tokens, who was attested and how, with which keys, and who is banned.

Functions take a connection; the caller holds the transaction. Of every node the present and the previous key are
known by their hashes: whichever of the two an agent had saved when it was killed, it can prove itself with it.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import json

import sqlalchemy as sa

from mesh.clock import format_time, parse_time

_METADATA = sa.MetaData()
TOKENS = sa.Table(
    "ca_tokens",
    _METADATA,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("expires", sa.String),
    sa.Column("used", sa.String),
    sa.Column("spki_sha256", sa.String),
)
NODES = sa.Table(
    "ca_nodes",
    _METADATA,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("joined", sa.String),
    sa.Column("spki_sha256", sa.String),
    sa.Column("attestor", sa.String),
    sa.Column("facts", sa.Text),
    sa.Column("previous_sha256", sa.String),
    sa.Column("renewed", sa.String),
    sa.Column("banned", sa.String),
    sa.Column("ban_reason", sa.String),
)
PROOFS = sa.Table(
    "ca_node_proofs",
    _METADATA,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("spki_sha256", sa.String),
    sa.Column("expires", sa.String),
)
Facts = tuple[tuple[str, str], ...]
MACHINE_FACTS = frozenset({"node:x509-public-key", "node:tpm-ek"})
"""What a machine proves and cannot change about itself, whatever name it gives itself by what it can change."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One node. ``facts`` are those that its attestation gave; keys are SHA-256 hashes of SubjectPublicKeyInfo."""

    name: str
    attestor: str
    facts: Facts
    joined: dt.datetime
    renewed: dt.datetime | None
    spki_sha256: str
    previous_sha256: str | None
    banned: dt.datetime | None
    ban_reason: str


def put_token(connection: sa.Connection, token_id: str, expires: dt.datetime) -> None:
    """Remember a join token by the hash that names it."""
    connection.execute(sa.insert(TOKENS).values(id=token_id, expires=format_time(expires), used=None))


def use_token(connection: sa.Connection, token_id: str, spki_sha256: str, now: dt.datetime) -> bool:
    """Use a token up for a key: True for a known token that has not expired and that no other key used.

    The same key may come again: an agent that was killed before it had the answer asks for it once more.
    """
    result = connection.execute(
        sa.update(TOKENS)
        .where(
            TOKENS.c.id == token_id,
            TOKENS.c.expires > format_time(now),
            sa.or_(TOKENS.c.used.is_(None), TOKENS.c.spki_sha256 == spki_sha256),
        )
        .values(used=format_time(now), spki_sha256=spki_sha256)
    )
    return result.rowcount == 1


def bind_proof(
    connection: sa.Connection, proof_id: str, spki_sha256: str, *, expires: dt.datetime, now: dt.datetime
) -> bool:
    """Tie a proof that bears itself, such as a CI job's token, to the first key it is shown with.

    True for that key, False for every other one until the proof expires.
    """
    connection.execute(sa.delete(PROOFS).where(PROOFS.c.expires <= format_time(now)))
    found = connection.execute(sa.select(PROOFS.c.spki_sha256).where(PROOFS.c.id == proof_id)).scalar()
    if found is None:
        connection.execute(sa.insert(PROOFS).values(id=proof_id, spki_sha256=spki_sha256, expires=format_time(expires)))
        return True
    return bool(found == spki_sha256)


def admit_node(
    connection: sa.Connection, name: str, *, attestor: str, facts: Facts, spki_sha256: str, now: dt.datetime
) -> bool:
    """Remember a node that was attested; True when it was not known before. A ban stays."""
    known = get_node(connection, name)
    values = {"attestor": attestor, "facts": json.dumps(facts), "spki_sha256": spki_sha256, "renewed": format_time(now)}
    if known is None:
        connection.execute(sa.insert(NODES).values(name=name, joined=format_time(now), ban_reason="", **values))
        return True
    if known.spki_sha256 != spki_sha256:
        # attested anew: nothing speaks for the keys from before
        values["previous_sha256"] = spki_sha256
    connection.execute(sa.update(NODES).where(NODES.c.name == name).values(**values))
    return False


def renew_node(connection: sa.Connection, name: str, *, proven: str, spki_sha256: str, now: dt.datetime) -> None:
    """A node proved the one key and goes on with the other; every older key proves nothing from now on."""
    connection.execute(
        sa.update(NODES)
        .where(NODES.c.name == name)
        .values(previous_sha256=proven, spki_sha256=spki_sha256, renewed=format_time(now))
    )


def get_node(connection: sa.Connection, name: str) -> Node | None:
    """A node by its name."""
    row = connection.execute(sa.select(NODES).where(NODES.c.name == name)).first()
    return None if row is None else _node(row)


def forget_nodes(connection: sa.Connection, attestor: str, before: dt.datetime) -> None:
    """Forget the nodes of an attestor that were last heard of before a moment, and are not banned."""
    connection.execute(
        sa.delete(NODES).where(
            NODES.c.attestor == attestor, NODES.c.banned.is_(None), NODES.c.renewed < format_time(before)
        )
    )


def forget_node(connection: sa.Connection, name: str) -> None:
    """Forget a node: its keys prove nothing any more. A ban stays."""
    connection.execute(sa.delete(NODES).where(NODES.c.name == name, NODES.c.banned.is_(None)))


def list_nodes(connection: sa.Connection) -> list[Node]:
    """All nodes by name."""
    return [_node(row) for row in connection.execute(sa.select(NODES).order_by(NODES.c.name))]


def of_machine(connection: sa.Connection, facts: Facts, *, are_banned: bool = False) -> list[Node]:
    """All nodes that proved to be the machine that proved these facts, by name; only banned ones when asked for."""
    mine = MACHINE_FACTS.intersection(name for name, _ in facts)
    proved = {(name, value) for name, value in facts if name in mine}
    if not proved:
        return []
    query = sa.select(NODES).where(sa.or_(*(NODES.c.facts.contains(value, autoescape=True) for _, value in proved)))
    if are_banned:
        query = query.where(NODES.c.banned.is_not(None))
    found = [_node(row) for row in connection.execute(query.order_by(NODES.c.name))]
    return [node for node in found if not proved.isdisjoint(node.facts)]


def set_ban(connection: sa.Connection, name: str, banned: dt.datetime | None, reason: str) -> None:
    """Ban a node, or allow it again."""
    text = format_time(banned) if banned is not None else None
    connection.execute(sa.update(NODES).where(NODES.c.name == name).values(banned=text, ban_reason=reason))


def _node(row: sa.Row[tuple[object, ...]]) -> Node:
    return Node(
        name=row.name,
        attestor=row.attestor,
        facts=tuple((str(key), str(value)) for key, value in json.loads(row.facts)),
        joined=parse_time(row.joined),
        renewed=parse_time(row.renewed) if row.renewed else None,
        spki_sha256=row.spki_sha256,
        previous_sha256=row.previous_sha256,
        banned=parse_time(row.banned) if row.banned else None,
        ban_reason=row.ban_reason,
    )
