"""The ACME authority's keys: a root and one issuing intermediate of its own, wrapped as the trust domain's are.

They stand in tables of their own, so that no path leads from here into a SPIFFE bundle.
"""

from __future__ import annotations

import datetime as dt
import secrets
from collections.abc import Callable, Sequence

import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ca import keys
from ca.acme import profile, store
from ca.acme.names import Identifier
from ca.authority import new_serial
from ca.mint import Issuer
from mesh.clock import parse_time
from mesh.database import migrate, transaction
from mesh.wrapping import WrappingKey

CRL_LIFE = dt.timedelta(hours=24)
ROOT_LIFE = dt.timedelta(days=3650)
ISSUING_LIFE = dt.timedelta(days=365)
_ROOT, _ISSUING = "root", "issuing"
_RENEW = dt.timedelta(days=120)


class AcmeAuthority:
    """Signs web certificates. ``seal`` and ``unseal`` keep the keys of external account bindings."""

    def __init__(
        self, *, name: str, engine: sa.Engine, wrapping: WrappingKey, random: Callable[[int], bytes], now: dt.datetime
    ) -> None:
        self.name, self._engine, self._wrapping, self.random = name, engine, wrapping, random
        migrate(engine, "ca")
        with transaction(engine) as connection:
            if store.get(connection, store.AUTHORITIES, name=_ROOT) is None:
                self._make_root(connection, now)
            self.root, root_key = self._load(connection, _ROOT)
            if store.get(connection, store.AUTHORITIES, name=_ISSUING) is None:
                self._make_issuing(connection, Issuer(certificate=self.root, key=root_key), now)
            self._issuer = self._lasting(connection, now)

    def renew(self, now: dt.datetime) -> None:
        """Renew the issuing certificate in time: a server that runs for years is never opened again."""
        if self._is_due(self._issuer.certificate, now):
            with transaction(self._engine) as connection:
                self._issuer = self._lasting(connection, now)

    def new_id(self) -> str:
        """A name for a row that nobody guesses."""
        return self.random(16).hex()

    def chain_pem(self, leaf: bytes) -> bytes:
        """A leaf with the issuing certificate behind it, PEM."""
        return x509.load_der_x509_certificate(leaf).public_bytes(Encoding.PEM) + self._issuer.certificate.public_bytes(
            Encoding.PEM
        )

    def root_pem(self) -> bytes:
        """The root, PEM."""
        return self.root.public_bytes(Encoding.PEM)

    @property
    def issuing(self) -> x509.Certificate:
        """The issuing certificate."""
        return self._issuer.certificate

    def sign(
        self,
        names: Sequence[Identifier],
        key: keys.PublicKey,
        *,
        now: dt.datetime,
        life: dt.timedelta,
        crl_url: str = "",
    ) -> tuple[int, bytes]:
        """Sign a web certificate: its serial number and DER. Whoever calls keeps it before it is given out."""
        serial = new_serial(self.random)
        return serial, profile.mint_web(names, key, self._issuer, serial=serial, now=now, life=life, crl_url=crl_url)

    def crl(self, now: dt.datetime) -> bytes:
        """The CRL of now, DER."""
        with transaction(self._engine) as connection:
            found = [
                (int(row["serial"], 16), parse_time(row["revoked"]), int(row["reason"] or 0))
                for row in store.revoked(connection, now)
            ]
        number = int(now.timestamp() * 1000)
        return profile.mint_crl(found, self._issuer, number=number, now=now, life=CRL_LIFE)

    def seal(self, name: str, plain: bytes) -> bytes:
        """Wrap a secret of a name."""
        return self._wrapping.wrap(f"acme-{name}", plain, self.random(12))

    def unseal(self, name: str, wrapped: bytes) -> bytes:
        """Unwrap it.

        Raises Invalid LM1201.
        """
        return self._wrapping.unwrap(f"acme-{name}", wrapped)

    def _is_due(self, issuing: x509.Certificate, now: dt.datetime) -> bool:
        # nothing outlives the root
        return issuing.not_valid_after_utc < min(now + _RENEW, self.root.not_valid_after_utc)

    def _lasting(self, connection: sa.Connection, now: dt.datetime) -> Issuer:
        """The issuing authority, renewed when that is due; another server of the database may have done so."""
        certificate, key = self._load(connection, _ISSUING)
        if self._is_due(certificate, now):
            _, root_key = self._load(connection, _ROOT)
            # the same key and name, a new time: CRLs and older leaves stay below it
            self._make_issuing(connection, Issuer(certificate=self.root, key=root_key), now, key)
            certificate, key = self._load(connection, _ISSUING)
        return Issuer(certificate=certificate, key=key)

    def _make_root(self, connection: sa.Connection, now: dt.datetime) -> None:
        key = keys.new_key()
        made = profile.mint_root(self.name, key, serial=new_serial(self.random), now=now, life=ROOT_LIFE)
        wrapped = self.seal(_ROOT, keys.key_to_der(key))
        store.put(connection, store.AUTHORITIES, name=_ROOT, certificate=made, wrapped=wrapped)

    def _make_issuing(
        self, connection: sa.Connection, root: Issuer, now: dt.datetime, key: keys.PrivateKey | None = None
    ) -> None:
        is_new = key is None
        key = key or keys.new_key()
        made = profile.mint_issuing(
            self.name, key.public_key(), root, serial=new_serial(self.random), now=now, life=ISSUING_LIFE
        )
        if is_new:
            wrapped = self.seal(_ISSUING, keys.key_to_der(key))
            store.put(connection, store.AUTHORITIES, name=_ISSUING, certificate=made, wrapped=wrapped)
        else:
            store.change(connection, store.AUTHORITIES, _ISSUING, certificate=made)

    def _load(self, connection: sa.Connection, name: str) -> tuple[x509.Certificate, keys.PrivateKey]:
        row = store.get(connection, store.AUTHORITIES, name=name)
        assert row is not None
        key = keys.private_from_der(self.unseal(name, bytes(row["wrapped"])), name)
        return x509.load_der_x509_certificate(bytes(row["certificate"])), key.key


def open_acme(
    engine: sa.Engine,
    wrapping: WrappingKey,
    *,
    name: str,
    now: dt.datetime,
    random: Callable[[int], bytes] = secrets.token_bytes,
) -> AcmeAuthority:
    """Load the authority of a state, or make it when there is none."""
    return AcmeAuthority(name=name, engine=engine, wrapping=wrapping, random=random, now=now)
