"""Opens a server's state, or begins it: database, wrapping key, authority, reviewer set and log become an `App`."""

from __future__ import annotations

import os
import pathlib
import secrets

import sqlalchemy as sa
import structlog
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit import log as audit_log
from audit.recordsettings import load_record_settings
from ca import slotstore
from ca import store as ca_store
from ca.acme.authority import open_acme
from ca.authority import open_authority
from ca.keys import KeyAlgorithm, key_from_der
from ca.rotation import AuthorityState, Kind, find
from limen.above import Above
from limen.app import App
from limen.attestorsfile import AttestorsFile
from limen.authzen import mask_key_of
from limen.rulesfile import RulesFile
from limen.sources import open_key_source, open_upstream
from mesh.clock import Clock, SystemClock
from mesh.database import migrate, open_database, sqlite_url, transaction
from mesh.problems import Invalid
from mesh.spiffe import SpiffeIdError, TrustDomain
from mesh.wrapping import WrappingKey, load_wrapping_key
from policyengine import dsse, keyfile, reviewing
from policyengine import store as policy_store
from policyengine.reviewers import ReviewerSet, reviewer_set_from_json

_BUNDLE_KEY = "policy-bundles"


def open_app(
    state: pathlib.Path,
    *,
    trust_domain: str,
    database: str | None,
    reviewers: pathlib.Path | None,
    clock: Clock | None = None,
    upstream: str = "own",
    key_source: str = "database",
    key_algorithm: str = "p256",
    signers: int = 0,
    is_serving: bool = False,
) -> App:
    """Open a server's state, or begin it: database, authority, reviewer set, log.

    ``is_serving``: nobody waits for what readers of the log see; it follows at once.

    Raises Problems for a state that does not fit: another trust domain, another wrapping key, a damaged log.
    """
    clock = clock or SystemClock()
    now = clock.now()
    try:
        domain = TrustDomain.parse(trust_domain)
    except SpiffeIdError as err:
        raise Invalid("LM5214", given=trust_domain, reason=str(err)) from err
    key_file = os.environ.get("LIMEN_KEY_FILE")
    wrapping = load_wrapping_key(state / "ca", pathlib.Path(key_file) if key_file else None)
    engine = open_database(database or sqlite_url(state / "server" / "limen.sqlite"))
    for room in ("ca", "policyengine", "learner", "limen"):
        migrate(engine, room)
    keys = open_key_source(key_source, engine=engine, wrapping=wrapping, clock=clock)
    above = open_upstream(upstream, trust_domain=domain, state=state, wrapping=wrapping, clock=clock)
    algorithm = KeyAlgorithm.of(key_algorithm)
    authority = open_authority(
        engine, wrapping, trust_domain=domain, now=now, key_source=keys, upstream=above, algorithm=algorithm
    )
    keys.sweep({slot.id for slot in authority.slots} | authority.waiting_keys())
    settings = load_record_settings(state)
    with transaction(engine) as connection:
        is_new = not policy_store.reviewer_chain(connection)
        reviewing.begin(connection, _first_reviewers(connection, state, domain, reviewers))
        sealed = ca_store.get_key(connection, "audit")
        if sealed is None:
            plain = Ed25519PrivateKey.generate().private_bytes_raw()
            sealed = wrapping.wrap("audit", plain, secrets.token_bytes(12))
            ca_store.put_key(connection, "audit", sealed)
        bundle_key = _bundle_key(connection, wrapping)
    log_key = Ed25519PrivateKey.from_private_bytes(wrapping.unwrap("audit", sealed))
    log = audit_log.Log.open(state / "audit", key=log_key, origin=f"{domain}/audit", is_in_background=is_serving)
    app = App(
        engine=engine,
        authority=authority,
        log=log,
        rules=RulesFile(state / "identities.yaml"),
        attestors=AttestorsFile(state / "attestors.yaml"),
        acme=open_acme(engine, wrapping, name=str(domain), now=now),
        bundle_key=bundle_key,
        clock=clock,
        random=secrets.token_bytes,
        signers=signers,
        masking=settings.masking(mask_key_of(bundle_key)),
        keep=settings.keep,
    )
    if is_new:
        app.record_reviewers()
    if isinstance(above, Above):
        app.follow(above)
    if wrapping.beside_state:
        structlog.get_logger().warning(
            "the wrapping key lies beside the keys it wraps", code="LM1209", where=str(state / "ca" / "wrap.key")
        )
    return app


def _bundle_key(connection: sa.Connection, wrapping: WrappingKey) -> ec.EllipticCurvePrivateKey:
    """The key that signs policy bundles for OPA, made when there is none; ES256 is what every OPA verifies."""
    sealed = ca_store.get_key(connection, _BUNDLE_KEY)
    if sealed is None:
        plain = ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        sealed = wrapping.wrap(_BUNDLE_KEY, plain, secrets.token_bytes(12))
        ca_store.put_key(connection, _BUNDLE_KEY, sealed)
    found = serialization.load_der_private_key(wrapping.unwrap(_BUNDLE_KEY, sealed), None)
    assert isinstance(found, ec.EllipticCurvePrivateKey)
    return found


def stolen_issuer(state: pathlib.Path) -> tuple[list[x509.Certificate], ec.EllipticCurvePrivateKey]:
    """The issuing certificate and key of a local state, as a thief with the server's files has them.

    For the attack that signs a certificate with two identities by the genuine authority; nothing else uses it.
    """
    key_file = os.environ.get("LIMEN_KEY_FILE")
    wrapping = load_wrapping_key(state / "ca", pathlib.Path(key_file) if key_file else None)
    engine = open_database(sqlite_url(state / "server" / "limen.sqlite"))
    try:
        with transaction(engine) as connection:
            (slot,) = find(slotstore.slots(connection), Kind.ISSUING, AuthorityState.ACTIVE)
            sealed = ca_store.get_key(connection, slot.id)
    finally:
        engine.dispose()
    assert sealed is not None
    chain = [x509.load_der_x509_certificate(der) for der in slot.certificates]
    return chain, key_from_der(wrapping.unwrap(slot.id, sealed))


def _first_reviewers(
    connection: sa.Connection, state: pathlib.Path, domain: TrustDomain, reviewers: pathlib.Path | None
) -> ReviewerSet:
    """The set to begin with: from a file, or one local key, which is made when there is none."""
    if reviewers is not None:
        try:
            return reviewer_set_from_json(dsse.strict_json(reviewers.read_bytes(), "LM2403"))
        except OSError as err:
            raise Invalid("LM2403", reason=f"`{reviewers}`: {err.strerror}") from err
    chain = policy_store.reviewer_chain(connection)
    if chain:
        return reviewer_set_from_json(dsse.strict_json(chain[0][1].payload, "LM2403"))
    path = state / keyfile.LOCAL_KEY
    if not path.exists():
        keyfile.write_key(path, Ed25519PrivateKey.generate(), None)
    return reviewing.local_set(domain, keyfile.read_key(path, None))
