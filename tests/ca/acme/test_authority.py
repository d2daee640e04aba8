import datetime as dt

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from ca.acme.authority import open_acme
from mesh.database import open_database, transaction
from mesh.problems import Invalid
from mesh.wrapping import WrappingKey
from tests.world import START, World


def test_the_root_is_made_once_and_stays() -> None:
    engine, wrapping = open_database("sqlite://"), WrappingKey(b"w" * 32, beside_state=False)
    first = open_acme(engine, wrapping, name="world.test", now=START)
    again = open_acme(engine, wrapping, name="world.test", now=START)
    assert first.root == again.root
    again.issuing.verify_directly_issued_by(again.root)


def test_the_root_is_in_no_spiffe_bundle(world: World) -> None:
    root = world.app.acme.authority.root_pem().decode()
    assert root not in world.app.bundle_documents()["pem"]
    assert world.app.acme.authority.root.public_key() not in [
        x509.load_der_x509_certificate(der).public_key() for der in world.app.bundle().x509_authorities
    ]


def test_keys_are_wrapped(world: World) -> None:
    from ca.acme import store

    with transaction(world.app._engine) as connection:
        rows = store.every(connection, store.AUTHORITIES)
    assert len(rows) == 2
    assert all(bytes(row["wrapped"])[:1] == b"\x01" for row in rows)


def test_a_server_that_runs_for_years_has_an_issuing_certificate_that_lasts() -> None:
    engine, wrapping = open_database("sqlite://"), WrappingKey(b"w" * 32, beside_state=False)
    found = open_acme(engine, wrapping, name="world.test", now=START)
    other = open_acme(engine, wrapping, name="world.test", now=START)
    first, day = found.issuing, dt.timedelta(days=1)
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    names = [("dns", "a.test")]
    for days in range(0, 9 * 365, 30):
        now = START + days * day
        found.renew(now)
        _, leaf = found.sign(names, key, now=now, life=90 * day)
        assert x509.load_der_x509_certificate(leaf).not_valid_after_utc == now + 90 * day
        x509.load_der_x509_certificate(leaf).verify_directly_issued_by(found.issuing)
    # what it signed at first is below the certificate of now
    assert (found.issuing.public_key(), found.issuing.subject) == (first.public_key(), first.subject)
    assert found.issuing.not_valid_after_utc > first.not_valid_after_utc
    # another server of the same database takes the one that is there
    other.renew(now)
    assert other.issuing == found.issuing


def test_nothing_of_acme_outlives_its_root() -> None:
    found = open_acme(open_database("sqlite://"), WrappingKey(b"w" * 32, beside_state=False), name="w.test", now=START)
    end = found.root.not_valid_after_utc
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    found.renew(end - dt.timedelta(days=1))
    last = found.issuing
    assert last.not_valid_after_utc == end
    found.renew(end + dt.timedelta(days=1))
    assert found.issuing == last
    with pytest.raises(Invalid, match="LM1204"):
        found.sign([("dns", "a.test")], key, now=end + dt.timedelta(days=1), life=dt.timedelta(days=1))
