"""The authority of one trust domain: a root, one issuing intermediate below it, and the server's pinned key.

Reads from top to bottom: make or load the keys, then sign. The root's key is used to sign the issuing certificate
and for nothing else; the server's key is no part of the trust domain, so that an agent whose every known CA has
expired can still tell its server. Who may have which identity is decided in `ca.issuance`.
"""

from __future__ import annotations

import datetime as dt
import enum
import hashlib
import secrets
from collections.abc import Callable

import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from ca import keys, mint, store
from ca.mint import Issuer
from mesh.bundle import TrustBundle
from mesh.database import migrate, transaction
from mesh.problems import Conflict
from mesh.spiffe import SpiffeId, TrustDomain
from mesh.wrapping import WrappingKey
from mesh.x509svid import split_chain

ROOT_LIFE = dt.timedelta(days=3650)
ISSUING_LIFE = dt.timedelta(days=365)
SERVER_LIFE = dt.timedelta(days=3650)
NODE_LIFE = dt.timedelta(hours=1)
_ROOT, _ISSUING, _SERVER = "root", "issuing", "server"


class AuthorityState(enum.StrEnum):
    """Where a signing authority stands (SPIRE's words)."""

    PREPARED = "prepared"
    ACTIVE = "active"
    OLD = "old"


def new_serial(random: Callable[[int], bytes]) -> int:
    """A positive serial number of 127 random bits (RFC 5280 §4.1.2.2 allows 20 bytes)."""
    return int.from_bytes(random(16), "big") >> 1 or 1


class Authority:
    """One trust domain's keys and chains, loaded into this process."""

    def __init__(
        self,
        *,
        trust_domain: TrustDomain,
        engine: sa.Engine,
        root: bytes,
        issuer: Issuer,
        server_certificate: bytes,
        server_key: ec.EllipticCurvePrivateKey,
        random: Callable[[int], bytes],
    ) -> None:
        self.trust_domain = trust_domain
        self._engine = engine
        self._root = root
        self._issuer = issuer
        self._server_certificate = server_certificate
        self._server_key = server_key
        self._random = random
        # named by JWT-SVIDs as `iss` when this trust domain is an OIDC issuer
        self.jwt_issuer: str | None = None

    @property
    def bundle(self) -> TrustBundle:
        """The trust bundle: the root, with the first sequence number."""
        return TrustBundle(trust_domain=self.trust_domain, x509_authorities=(self._root,), sequence=1, refresh_hint=300)

    @property
    def issuer(self) -> Issuer:
        """The issuing certificate with its key."""
        return self._issuer

    @property
    def intermediates(self) -> tuple[bytes, ...]:
        """What stands behind a leaf in a chain, DER."""
        return (self._issuer.certificate.public_bytes(Encoding.DER),)

    @property
    def server_key(self) -> ec.EllipticCurvePrivateKey:
        """The server's long-lived key: TLS, and signatures on join tokens."""
        return self._server_key

    @property
    def server_certificate(self) -> bytes:
        """The server's self-signed certificate, DER."""
        return self._server_certificate

    @property
    def server_pin(self) -> str:
        """The hash that agents pin: ``sha256:`` and the hexadecimal hash of the server key's SPKI."""
        return "sha256:" + hashlib.sha256(keys.spki_der(self._server_key.public_key())).hexdigest()

    def sign(
        self,
        spiffe_id: SpiffeId,
        public_key: keys.PublicKey,
        *,
        now: dt.datetime,
        life: dt.timedelta,
        node: str,
        rule: str = "",
        dns_names: tuple[str, ...] = (),
    ) -> tuple[bytes, ...]:
        """Sign an X.509-SVID and record it; return its chain, leaf first.

        1. A fresh random serial number.
        2. The certificate is minted, in memory.
        3. It is recorded durably; a serial number that was ever used refuses.
        4. Only then is it given out.

        Raises Invalid LM1204, Conflict LM1205.
        """
        # (1)
        serial = new_serial(self._random)
        # (2)
        leaf = mint.mint_svid(
            spiffe_id, public_key, self._issuer, serial=serial, now=now, life=life, dns_names=dns_names
        )
        # (3)
        not_after = x509.load_der_x509_certificate(leaf).not_valid_after_utc
        with transaction(self._engine) as connection:
            store.record_issuance(
                connection,
                store.Issuance(
                    serial=f"{serial:x}",
                    spiffe_id=str(spiffe_id),
                    node=node,
                    rule=rule,
                    issued=now,
                    not_after=not_after,
                ),
            )
        # (4)
        return (leaf, *self.intermediates)


def open_authority(
    engine: sa.Engine,
    wrapping: WrappingKey,
    *,
    trust_domain: TrustDomain,
    now: dt.datetime,
    random: Callable[[int], bytes] = secrets.token_bytes,
) -> Authority:
    """Load the authority of a state, or make it when there is none; both in one transaction.

    Raises Conflict LM1206 when the state is another trust domain's, Invalid LM1201 for a wrong wrapping key.
    """
    migrate(engine, "ca")
    with transaction(engine) as connection:
        root = store.get_authority(connection, _ROOT)
        if root is None:
            _create(connection, wrapping, trust_domain, now, random)
            root = store.get_authority(connection, _ROOT)
        issuing = store.get_authority(connection, _ISSUING)
        server = store.get_authority(connection, _SERVER)
        assert root is not None
        assert issuing is not None
        assert server is not None
        found = split_chain(root[1])[0]
        expected = x509.load_der_x509_certificate(found).extensions.get_extension_for_class(x509.SubjectAlternativeName)
        held = expected.value.get_values_for_type(x509.UniformResourceIdentifier)[0]
        if held != str(trust_domain.id):
            raise Conflict("LM1206", held=held.removeprefix("spiffe://"), asked=str(trust_domain))
        return Authority(
            trust_domain=trust_domain,
            engine=engine,
            root=found,
            issuer=Issuer(
                certificate=x509.load_der_x509_certificate(split_chain(issuing[1])[0]),
                key=_load(connection, wrapping, _ISSUING),
            ),
            server_certificate=server[1],
            server_key=_load(connection, wrapping, _SERVER),
            random=random,
        )


def _create(
    connection: sa.Connection,
    wrapping: WrappingKey,
    trust_domain: TrustDomain,
    now: dt.datetime,
    random: Callable[[int], bytes],
) -> None:
    made = {name: keys.new_key() for name in (_ROOT, _ISSUING, _SERVER)}
    serials = {name: new_serial(random) for name in made}
    root = mint.mint_root(trust_domain, made[_ROOT], serial=serials[_ROOT], now=now, life=ROOT_LIFE)
    signer = Issuer(certificate=x509.load_der_x509_certificate(root), key=made[_ROOT])
    issuing = mint.mint_intermediate(
        trust_domain, made[_ISSUING].public_key(), signer, serial=serials[_ISSUING], now=now, life=ISSUING_LIFE
    )
    server = mint.mint_server(made[_SERVER], serial=serials[_SERVER], now=now, life=SERVER_LIFE)
    for name, certificate in ((_ROOT, root), (_ISSUING, issuing), (_SERVER, server)):
        store.put_key(connection, name, wrapping.wrap(name, keys.key_to_der(made[name]), random(12)))
        store.put_authority(connection, name, AuthorityState.ACTIVE, certificate)
        store.record_issuance(
            connection,
            store.Issuance(
                serial=f"{serials[name]:x}",
                spiffe_id=str(trust_domain.id),
                node="",
                rule="",
                issued=now,
                not_after=x509.load_der_x509_certificate(certificate).not_valid_after_utc,
            ),
        )


def _load(connection: sa.Connection, wrapping: WrappingKey, name: str) -> ec.EllipticCurvePrivateKey:
    wrapped = store.get_key(connection, name)
    assert wrapped is not None
    return keys.key_from_der(wrapping.unwrap(name, wrapped))
