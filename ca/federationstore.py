"""The tables of federation: relationships with the last good bundle of each, and where their services are reached.

A bundle is kept as the document that its values make, so that a server that starts without the network goes on with
what it had (F-15). Functions take a connection; the caller holds the transaction.
"""

from __future__ import annotations

import sqlalchemy as sa

from ca.federation import Profile, Relationship, Standing
from mesh.bundle import parse_bundle
from mesh.clock import format_time, parse_time
from mesh.spiffe import SpiffeId, TrustDomain

_METADATA = sa.MetaData()
RELATIONSHIPS = sa.Table(
    "ca_federation",
    _METADATA,
    sa.Column("trust_domain", sa.String, primary_key=True),
    sa.Column("url", sa.String),
    sa.Column("profile", sa.String),
    sa.Column("endpoint_id", sa.String),
    sa.Column("web_roots", sa.Text),
    sa.Column("bundle", sa.LargeBinary),
    sa.Column("fetched", sa.String),
    sa.Column("tried", sa.String),
    sa.Column("next_poll", sa.String),
    sa.Column("failures", sa.Integer),
    sa.Column("code", sa.String),
    sa.Column("reason", sa.Text),
)
ENDPOINTS = sa.Table(
    "ca_federation_endpoints",
    _METADATA,
    sa.Column("spiffe_id", sa.String, primary_key=True),
    sa.Column("address", sa.String, primary_key=True),
    sa.Column("port", sa.Integer, primary_key=True),
    sa.Column("trust_domain", sa.String),
)


def put(connection: sa.Connection, relationship: Relationship, standing: Standing) -> None:
    """Keep a relationship and how it stands, in place of what was kept of it."""
    name = str(relationship.trust_domain)
    connection.execute(sa.delete(RELATIONSHIPS).where(RELATIONSHIPS.c.trust_domain == name))
    connection.execute(
        sa.insert(RELATIONSHIPS).values(
            trust_domain=name,
            url=relationship.url,
            profile=str(relationship.profile),
            endpoint_id=None if relationship.endpoint_id is None else str(relationship.endpoint_id),
            web_roots=relationship.web_roots,
            bundle=None if standing.bundle is None else standing.bundle.to_json(),
            fetched=None if standing.fetched is None else format_time(standing.fetched),
            tried=None if standing.tried is None else format_time(standing.tried),
            next_poll=format_time(standing.next_poll),
            failures=standing.failures,
            code=standing.code,
            reason=standing.reason[:2000],
        )
    )


def load(connection: sa.Connection) -> dict[TrustDomain, tuple[Relationship, Standing]]:
    """Every relationship, by trust domain name."""
    rows = connection.execute(sa.select(RELATIONSHIPS).order_by(RELATIONSHIPS.c.trust_domain))
    return {TrustDomain.parse(row.trust_domain): _read(row) for row in rows}


def remove(connection: sa.Connection, trust_domain: TrustDomain) -> bool:
    """Forget a relationship, its bundle and where its services are; False when there was none."""
    connection.execute(sa.delete(ENDPOINTS).where(ENDPOINTS.c.trust_domain == str(trust_domain)))
    found = connection.execute(sa.delete(RELATIONSHIPS).where(RELATIONSHIPS.c.trust_domain == str(trust_domain)))
    return found.rowcount == 1


def put_endpoint(connection: sa.Connection, spiffe_id: SpiffeId, address: str, port: int) -> None:
    """Remember where a service of another trust domain is reached."""
    remove_endpoint(connection, spiffe_id, address, port)
    connection.execute(
        sa.insert(ENDPOINTS).values(
            spiffe_id=str(spiffe_id), address=address, port=port, trust_domain=str(spiffe_id.trust_domain)
        )
    )


def remove_endpoint(connection: sa.Connection, spiffe_id: SpiffeId, address: str, port: int) -> bool:
    """Forget where a service is reached; False when it was not known."""
    where = (ENDPOINTS.c.spiffe_id == str(spiffe_id), ENDPOINTS.c.address == address, ENDPOINTS.c.port == port)
    return connection.execute(sa.delete(ENDPOINTS).where(*where)).rowcount == 1


def endpoints(connection: sa.Connection) -> list[tuple[str, str, int]]:
    """Where services of other trust domains are reached: SPIFFE ID, address and port."""
    rows = connection.execute(
        sa.select(ENDPOINTS).order_by(ENDPOINTS.c.spiffe_id, ENDPOINTS.c.address, ENDPOINTS.c.port)
    )
    return [(str(row.spiffe_id), str(row.address), int(row.port)) for row in rows]


def _read(row: sa.Row[tuple[object, ...]]) -> tuple[Relationship, Standing]:
    domain = TrustDomain.parse(row.trust_domain)
    relationship = Relationship(
        trust_domain=domain,
        url=row.url,
        profile=Profile(row.profile),
        endpoint_id=None if row.endpoint_id is None else SpiffeId.parse(row.endpoint_id),
        web_roots=row.web_roots,
    )
    return relationship, Standing(
        bundle=None if row.bundle is None else parse_bundle(domain, bytes(row.bundle)),
        fetched=None if row.fetched is None else parse_time(row.fetched),
        tried=None if row.tried is None else parse_time(row.tried),
        next_poll=parse_time(row.next_poll),
        failures=int(row.failures),
        code=row.code,
        reason=row.reason,
    )
