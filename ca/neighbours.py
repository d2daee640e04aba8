"""What other servers of the same trust domain add to its trust: the one above, and those below that were allowed.

The server above says which roots and intermediates are trusted and what is revoked; each one below says which keys
sign its tokens and what it revoked. Functions take a connection; the caller holds the transaction.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime as dt
import json

import sqlalchemy as sa

from ca.slotstore import Live
from mesh.clock import format_time, parse_time
from mesh.spiffe import TrustDomain
from mesh.truststate import TrustState, parse_payload

_METADATA = sa.MetaData()
DOWNSTREAMS = sa.Table(
    "ca_downstreams",
    _METADATA,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("token", sa.String),
    sa.Column("life_s", sa.Integer),
    sa.Column("allowed", sa.String),
    sa.Column("removed", sa.String),
    sa.Column("words", sa.Text),
    sa.Column("heard", sa.String),
)
CERTIFICATES = sa.Table(
    "ca_downstream_certificates",
    _METADATA,
    sa.Column("slot", sa.String, primary_key=True),
    sa.Column("name", sa.String),
)
ABOVE = sa.Table(
    "ca_above",
    _METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("sequence", sa.BigInteger),
    sa.Column("payload", sa.LargeBinary),
    sa.Column("token", sa.LargeBinary),
)
FRESH = dt.timedelta(seconds=60)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What of an issuing certificate's work is valid, as the server below counts it; the certificate by its SHA-256."""

    certificate: str
    live: Live


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """What a server below says of itself: its JWT authorities (JWK), its revocation lists (DER), and its work."""

    jwks: tuple[bytes, ...] = ()
    crls: tuple[bytes, ...] = ()
    works: tuple[Work, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Downstream:
    """A server below: its node's name, how long its issuing certificates live, and what it last said, and when."""

    name: str
    token: str
    life: dt.timedelta
    allowed: dt.datetime
    removed: dt.datetime | None
    words: Words
    heard: dt.datetime | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Others:
    """What others add to the trust state. ``roots`` and ``pins`` are None when nobody above decides them."""

    roots: tuple[bytes, ...] | None = None
    pins: frozenset[str] | None = None
    jwks: tuple[bytes, ...] = ()
    crls: tuple[bytes, ...] = ()


def others(connection: sa.Connection, trust_domain: TrustDomain) -> Others:
    """What the server above and the servers below add now."""
    jwks: list[bytes] = []
    crls: list[bytes] = []
    for found in downstreams(connection):
        if found.removed is None:
            jwks.extend(found.words.jwks)
            crls.extend(found.words.crls)
    above = get_above(connection, trust_domain)
    if above is None:
        return Others(jwks=tuple(jwks), crls=tuple(crls))
    bundle = above[0].bundle
    return Others(
        roots=bundle.x509_authorities,
        pins=bundle.intermediates,
        jwks=(*bundle.jwt_authorities, *jwks),
        crls=(*bundle.crls, *crls),
    )


# -- above


def get_above(connection: sa.Connection, trust_domain: TrustDomain) -> tuple[TrustState, bytes] | None:
    """The newest trust state of the server above, and as it signed it; None when there is none."""
    row = connection.execute(sa.select(ABOVE)).first()
    return None if row is None else (parse_payload(bytes(row.payload), trust_domain), bytes(row.token))


def put_above(connection: sa.Connection, state: TrustState, token: bytes) -> bool:
    """Keep a trust state of the server above, unless a newer one is kept; whether it says anything new."""
    kept = connection.execute(sa.select(ABOVE.c.sequence, ABOVE.c.payload)).first()
    if kept is not None and (kept.sequence > state.sequence or bytes(kept.payload) == state.payload()):
        return False
    connection.execute(sa.delete(ABOVE))
    connection.execute(sa.insert(ABOVE).values(id=1, sequence=state.sequence, payload=state.payload(), token=token))
    return True


# -- below


def allow(connection: sa.Connection, name: str, *, token: str, life: dt.timedelta, now: dt.datetime) -> None:
    """Remember that a server may be one below, and the token that it joins with; one that was removed may be again."""
    values = {"token": token, "life_s": int(life.total_seconds()), "allowed": format_time(now), "removed": None}
    if get_downstream(connection, name) is None:
        connection.execute(sa.insert(DOWNSTREAMS).values(name=name, words="", **values))
    else:
        connection.execute(sa.update(DOWNSTREAMS).where(DOWNSTREAMS.c.name == name).values(**values))


def remove(connection: sa.Connection, name: str, now: dt.datetime) -> None:
    """Remember that a server is one below no more."""
    connection.execute(
        sa.update(DOWNSTREAMS)
        .where(DOWNSTREAMS.c.name == name)
        .values(removed=format_time(now), token="", words="", heard=None)
    )


def get_downstream(connection: sa.Connection, name: str) -> Downstream | None:
    """A server below by its name."""
    return next((found for found in downstreams(connection) if found.name == name), None)


def of_token(connection: sa.Connection, token: str) -> Downstream | None:
    """The server below that a join token was made for."""
    return next((found for found in downstreams(connection) if token and found.token == token), None)


def downstreams(connection: sa.Connection) -> list[Downstream]:
    """All servers below by name, those that were removed too."""
    return [
        Downstream(
            name=row.name,
            token=row.token,
            life=dt.timedelta(seconds=row.life_s),
            allowed=parse_time(row.allowed),
            removed=parse_time(row.removed) if row.removed else None,
            words=_read(row.words),
            heard=parse_time(row.heard) if row.heard else None,
        )
        for row in connection.execute(sa.select(DOWNSTREAMS).order_by(DOWNSTREAMS.c.name))
    ]


def hear(connection: sa.Connection, name: str, words: Words, now: dt.datetime) -> None:
    """Keep what a server below said."""
    connection.execute(
        sa.update(DOWNSTREAMS).where(DOWNSTREAMS.c.name == name).values(words=_write(words), heard=format_time(now))
    )


def give(connection: sa.Connection, slot: str, name: str) -> None:
    """Remember whose an issuing certificate is."""
    connection.execute(sa.insert(CERTIFICATES).values(slot=slot, name=name))


def owners(connection: sa.Connection) -> dict[str, str]:
    """Whose each issuing certificate is that was given to a server below: names by slot."""
    return {str(row.slot): str(row.name) for row in connection.execute(sa.select(CERTIFICATES))}


def live(connection: sa.Connection, slot: str, certificate: str, not_after: dt.datetime, now: dt.datetime) -> Live:
    """What hangs on an issuing certificate of a server below.

    What it said a moment ago counts; without that, at least one that lives as long as the certificate may be there.
    """
    owner = owners(connection).get(slot)
    found = None if owner is None else get_downstream(connection, owner)
    said = next((item.live for item in found.words.works if item.certificate == certificate), None) if found else None
    if said is not None and found is not None and found.heard is not None and now - found.heard < FRESH:
        return said
    least = 1 if not_after > now else 0
    return Live(
        certificates=max(least, said.certificates if said else 0),
        identities=max(least, said.identities if said else 0),
        nodes=max(least, said.nodes if said else 0),
        last_end=not_after if least else None,
        last_issued=said.last_issued if said else None,
    )


def _write(words: Words) -> str:
    return json.dumps(
        {
            "jwks": [item.decode() for item in words.jwks],
            "crls": [base64.b64encode(item).decode() for item in words.crls],
            "works": [
                {
                    "certificate": item.certificate,
                    "counts": [item.live.certificates, item.live.identities, item.live.nodes],
                    "ends": None if item.live.last_end is None else format_time(item.live.last_end),
                    "issued": None if item.live.last_issued is None else format_time(item.live.last_issued),
                }
                for item in words.works
            ],
        }
    )


def _read(text: str) -> Words:
    if not text:
        return Words()
    row = json.loads(text)
    works = []
    for item in row["works"]:
        certificates, identities, nodes = item["counts"]
        works.append(
            Work(
                certificate=item["certificate"],
                live=Live(
                    certificates=certificates,
                    identities=identities,
                    nodes=nodes,
                    last_end=parse_time(item["ends"]) if item["ends"] else None,
                    last_issued=parse_time(item["issued"]) if item["issued"] else None,
                ),
            )
        )
    return Words(
        jwks=tuple(item.encode() for item in row["jwks"]),
        crls=tuple(base64.b64decode(item) for item in row["crls"]),
        works=tuple(works),
    )
