from cryptography import x509

from ca.acme.authority import open_acme
from mesh.database import open_database, transaction
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
