import dataclasses
import datetime as dt

from ca import federationstore
from ca.federation import Profile, Relationship, Standing
from mesh.bundle import TrustBundle
from mesh.database import migrate, open_database, transaction
from mesh.spiffe import SpiffeId, TrustDomain
from tests.pki import NOW, Pki

B = TrustDomain.parse("b.test")
SERVICE = SpiffeId.parse("spiffe://b.test/db")
FOUND = Relationship(
    trust_domain=B,
    url="https://b.test/x",
    profile=Profile.HTTPS_SPIFFE,
    endpoint_id=SpiffeId.parse("spiffe://b.test/endpoint"),
)
STANDING = Standing(
    bundle=TrustBundle(trust_domain=B, x509_authorities=(Pki("b.test").root.der,), sequence=2**63 - 1, refresh_hint=7),
    fetched=NOW,
    tried=NOW + dt.timedelta(seconds=3),
    next_poll=NOW + dt.timedelta(seconds=10),
    failures=2,
    code="LM1508",
    reason="gone",
)


def test_what_is_kept_comes_back_as_it_was() -> None:
    engine = open_database("sqlite://")
    migrate(engine, "ca")
    migrate(engine, "ca")
    with transaction(engine) as connection:
        assert federationstore.load(connection) == {}
        federationstore.put(connection, FOUND, STANDING)
        assert federationstore.load(connection) == {B: (FOUND, STANDING)}
        web = Relationship(trust_domain=B, url="https://b.test/y", profile=Profile.HTTPS_WEB, web_roots="PEM")
        fresh = Standing(next_poll=NOW)
        federationstore.put(connection, web, fresh)
        assert federationstore.load(connection) == {B: (web, fresh)}
        assert federationstore.remove(connection, B)
        assert not federationstore.remove(connection, B)
        assert federationstore.load(connection) == {}
    engine.dispose()


def test_services_are_forgotten_with_their_trust_domain() -> None:
    engine = open_database("sqlite://")
    migrate(engine, "ca")
    other = dataclasses.replace(FOUND, trust_domain=TrustDomain.parse("c.test"))
    with transaction(engine) as connection:
        for found in (FOUND, other):
            federationstore.put(connection, found, STANDING if found is FOUND else Standing(next_poll=NOW))
        kept = SpiffeId.parse("spiffe://c.test/db")
        for name, port in ((SERVICE, 1), (SERVICE, 1), (SERVICE, 2), (kept, 1)):
            federationstore.put_endpoint(connection, name, "10.0.0.1", port)
        assert len(federationstore.endpoints(connection)) == 3
        assert federationstore.remove_endpoint(connection, SERVICE, "10.0.0.1", 2)
        assert not federationstore.remove_endpoint(connection, SERVICE, "10.0.0.1", 2)
        federationstore.remove(connection, B)
        assert federationstore.endpoints(connection) == [(str(kept), "10.0.0.1", 1)]
    engine.dispose()
