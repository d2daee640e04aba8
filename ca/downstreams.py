"""Servers of the same trust domain below this one: who may be one, what they are given, and what they say.

Nobody is given an issuing certificate but a node that people allowed by name. Its path length is 0 and its life
bounded; it is written like any authority (journal, trust state, blast radius), so that it is tainted and revoked like
any. What a server below says counts for itself alone: its token keys, the lists that its own certificates signed.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import re
from collections.abc import Callable

import jwt
import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ca import mint, neighbours, nodestore, slotstore
from ca.neighbours import Downstream, Words
from ca.rotation import AuthorityState, Event, Kind, Slot, find
from ca.slotbook import SlotBook, Stand
from ca.trustmaking import fingerprint, kid_of
from ca.upstream.chain import read_csr
from mesh import canonicaljson, crl
from mesh.database import transaction
from mesh.problems import Conflict, Forbidden, Invalid, NotFound

ATTESTOR = "downstream"
PREFIX = "downstream-"
SHORTEST, LONGEST = dt.timedelta(hours=1), dt.timedelta(days=90)
MAX_CERTIFICATES = 8
MAX_JWKS, MAX_CRLS, MAX_WORKS, MAX_BYTES = 16, 16, 64, 1 << 20
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?\Z")
_S = AuthorityState


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """An issuing certificate: what leads from it to a root (DER, itself first), the roots, and its slot."""

    chain: tuple[bytes, ...]
    roots: tuple[bytes, ...]
    slot: Slot
    is_new: bool


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How a server below stands: whether to ask for another certificate, and which of its own are tainted (SHA-256)."""

    renew: bool
    tainted: tuple[str, ...]


class Downstreams:
    """The servers below. ``changed`` is called after each change of what is trusted, outside the transaction."""

    def __init__(self, stand: Stand, changed: Callable[[], None]) -> None:
        self._at, self._changed = stand, changed
        self._book = SlotBook(stand)

    # -- people

    def allow(self, name: str, *, token: str, life: dt.timedelta, now: dt.datetime) -> str:
        """Let a server be one below, by a join token of this id; return the name of its node.

        Raises Invalid LM1622 for a name or a life that may not be, Conflict LM1623 where no root is our own.
        """
        if not _NAME.match(name):
            raise Invalid("LM1622", given=name[:80], reason="a name is 1 to 40 of a-z, 0-9 and hyphens inside")
        if not SHORTEST <= life <= LONGEST:
            raise Invalid("LM1622", given=name, reason="a life is from 1h to 90d")
        self._require_root()
        with transaction(self._at.engine) as connection:
            neighbours.allow(connection, PREFIX + name, token=token, life=life, now=now)
        return PREFIX + name

    def remove(self, name: str, now: dt.datetime, *, actor: str, reason: str) -> list[Slot]:
        """Let a server be one below no more: its certificates are revoked, what it said is forgotten.

        Raises NotFound LM1624.
        """
        found = self.find(name)
        gone = self.certificates(found.name)
        self._book.warm(now, [slot.parent for slot in gone])
        with transaction(self._at.engine) as connection:
            for slot in gone:
                self._book.leave(connection, slot, Event.REVOKE, now, reason, actor)
            neighbours.remove(connection, found.name, now)
            # its keys prove nothing any more: allowed again, it joins with a token
            nodestore.forget_node(connection, found.name)
            self._book.publish(connection, now)
        self._changed()
        return gone

    def find(self, name: str) -> Downstream:
        """A server below, by its name or its node's. Raises NotFound LM1624."""
        with transaction(self._at.engine) as connection:
            found = neighbours.get_downstream(connection, PREFIX + name.removeprefix(PREFIX))
        if found is None or found.removed is not None:
            raise NotFound("LM1624", name=name[:80])
        return found

    def all(self) -> list[Downstream]:
        """The servers below."""
        with transaction(self._at.engine) as connection:
            return [found for found in neighbours.downstreams(connection) if found.removed is None]

    def certificates(self, node: str) -> list[Slot]:
        """The issuing certificates of a server below that are trusted, oldest first."""
        with transaction(self._at.engine) as connection:
            return _mine(connection, node)

    def of_token(self, token: str) -> str | None:
        """The node that a join token was made for as a server below; None for any other token."""
        with transaction(self._at.engine) as connection:
            found = neighbours.of_token(connection, token)
        return None if found is None or found.removed is not None else found.name

    @staticmethod
    def short(node: str) -> str:
        """The name that people gave a server below, by its node's."""
        return node.removeprefix(PREFIX)

    def owner(self, slot: Slot) -> str | None:
        """The server below whose an issuing certificate is; None for what is our own."""
        if slot.kind is not Kind.DOWNSTREAM:
            return None
        with transaction(self._at.engine) as connection:
            return neighbours.owners(connection).get(slot.id, "").removeprefix(PREFIX)

    # -- servers below

    def sign(self, node: str, csr: bytes, now: dt.datetime) -> Given:
        """Give a server below an issuing certificate.

        1. People allowed it, and nobody took that back.
        2. The request proves its key. Everything else in it is only a wish.
        3. The same key under the same root has its certificate already: a server that was killed before it could
           record the answer gets the very same again.
        4. There are not too many: who asks for ever more is not the server that people allowed.
        5. The root signs: path length 0, and a life that people bounded. It is written with the journal, and the one
           before retires, in one transaction; the trust state names it before anybody has it.

        Raises Forbidden LM1625 for (1), Invalid LM1617 for (2), Conflict LM1623 and LM1626.
        """
        # (1)
        found = self._allowed(node)
        # (2)
        public_key = read_csr(csr)
        root = self._require_root()
        issuer = self._book.issuer(root)
        with transaction(self._at.engine) as connection:
            mine = _mine(connection, node)
            # (3)
            wanted = public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            for slot in mine:
                if slot.parent == root.id and slot.state is _S.ACTIVE and _spki(slot.certificates[0]) == wanted:
                    return self._given(connection, slot, is_new=False)
            # (4)
            if len(mine) >= MAX_CERTIFICATES:
                raise Conflict("LM1626", name=node, most=MAX_CERTIFICATES)
            # (5)
            der = mint.mint_intermediate(
                self._at.trust_domain, public_key, issuer, serial=self._book.serial(), now=now, life=found.life
            )
            end = x509.load_der_x509_certificate(der).not_valid_after_utc
            slot = Slot(
                id=fingerprint(der)[:16],
                kind=Kind.DOWNSTREAM,
                state=_S.ACTIVE,
                parent=root.id,
                certificates=(der,),
                created=now,
                changed=now,
                not_after=end,
            )
            for former in mine:
                if former.state is _S.ACTIVE:
                    self._book.change(connection, former, Event.RETIRE, now, f"{slot.id} signs now", node)
            sequence = self._book.next(connection)
            self._book.put(connection, slot, f"{node} asked", node, sequence=sequence, node=node)
            neighbours.give(connection, slot.id, node)
            self._book.publish(connection, now)
            given = self._given(connection, slot, is_new=True)
        self._changed()
        return given

    def standing(self, node: str) -> Standing:
        """How a server below stands. Raises Forbidden LM1625 for one that is none."""
        self._allowed(node)
        with transaction(self._at.engine) as connection:
            mine, root = _mine(connection, node), find(slotstore.slots(connection), Kind.ROOT, _S.ACTIVE)[0]
        fit = [slot for slot in mine if slot.state is _S.ACTIVE and slot.parent == root.id]
        tainted = [fingerprint(slot.certificates[0]) for slot in mine if slot.state is _S.TAINTED]
        return Standing(renew=not fit, tainted=tuple(tainted))

    def hear(self, node: str, words: Words, now: dt.datetime) -> bool:
        """Keep what a server below says of itself; whether that changes what is trusted.

        1. It is one, and what it says is of a bounded size.
        2. EVERY key is a JWK that may sign tokens, under an id that nobody else has.
        3. EVERY revocation list is signed by one of its own issuing certificates: nobody revokes a neighbour's.
        4. EVERY count is of one of its own certificates.

        Raises Forbidden LM1625 and LM1628, Invalid LM1627.
        """
        # (1)
        self._allowed(node)
        size = sum(len(item) for item in (*words.jwks, *words.crls))
        if len(words.jwks) > MAX_JWKS or len(words.crls) > MAX_CRLS or len(words.works) > MAX_WORKS or size > MAX_BYTES:
            raise Invalid("LM1627", name=node, reason="it is too much")
        jwks = tuple(_jwk(item, node) for item in words.jwks)
        self._book.warm(now)
        with transaction(self._at.engine) as connection:
            # (2)
            taken = {kid_of(item) for item in self._jwks_of_others(connection, node)}
            if taken & {kid_of(item) for item in jwks}:
                raise Forbidden("LM1628", name=node, what="a key id that is another server's")
            # (3)
            own = [x509.load_der_x509_certificate(slot.certificates[0]) for slot in _mine(connection, node)]
            for der in words.crls:
                if not any(crl.is_signed(der, item) for item in own):
                    raise Forbidden("LM1628", name=node, what="a revocation list that it did not sign")
            # (4)
            names = {fingerprint(slot.certificates[0]) for slot in _mine(connection, node)}
            works = tuple(item for item in words.works if item.certificate in names)
            neighbours.hear(connection, node, dataclasses.replace(words, jwks=jwks, works=works), now)
            is_new = self._book.publish(connection, now)
        if is_new:
            self._changed()
        return is_new

    # -- inside

    def _allowed(self, node: str) -> Downstream:
        with transaction(self._at.engine) as connection:
            found = neighbours.get_downstream(connection, node)
        if found is None or found.removed is not None:
            raise Forbidden("LM1625", name=node)
        return found

    def _require_root(self) -> Slot:
        if self._at.upstream is not None:
            raise Conflict("LM1623")
        with transaction(self._at.engine) as connection:
            return find(slotstore.slots(connection), Kind.ROOT, _S.ACTIVE)[0]

    def _jwks_of_others(self, connection: sa.Connection, node: str) -> list[bytes]:
        own = [slot.certificates[0] for slot in slotstore.slots(connection) if slot.kind is Kind.JWT]
        rest = [item for found in neighbours.downstreams(connection) if found.name != node for item in found.words.jwks]
        return [*own, *rest]

    def _given(self, connection: sa.Connection, slot: Slot, *, is_new: bool) -> Given:
        """The certificate with what leads to older roots, for those who know only these; its own root first."""
        roots = [found for found in slotstore.slots(connection) if found.kind is Kind.ROOT and found.is_trusted]
        (own,) = [found for found in roots if found.id == slot.parent]
        others = [found for found in roots if found.id != own.id]
        # what would end before the certificate itself would cut its life short
        crossed = own.certificates[1:] if others else ()
        lasting = all(x509.load_der_x509_certificate(der).not_valid_after_utc >= slot.not_after for der in crossed)
        return Given(
            chain=(*slot.certificates, *(crossed if lasting else ())),
            roots=(own.certificates[0], *(found.certificates[0] for found in others)),
            slot=slot,
            is_new=is_new,
        )


def _mine(connection: sa.Connection, node: str) -> list[Slot]:
    owners = neighbours.owners(connection)
    return [
        slot
        for slot in slotstore.slots(connection)
        if slot.kind is Kind.DOWNSTREAM and slot.is_trusted and owners.get(slot.id) == node
    ]


def _spki(der: bytes) -> bytes:
    key = x509.load_der_x509_certificate(der).public_key()
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _jwk(data: bytes, node: str) -> bytes:
    """A key in canonical form. Raises Invalid LM1627."""
    try:
        found = json.loads(data)
        if not isinstance(found, dict) or not isinstance(found.get("kid"), str) or not 1 <= len(found["kid"]) <= 128:
            raise Invalid("LM1627", name=node, reason="a key has no id")
        key = jwt.PyJWK(found).key
    except (ValueError, TypeError, RecursionError, jwt.PyJWTError) as err:
        raise Invalid("LM1627", name=node, reason="a key cannot be read") from err
    if not isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
        raise Invalid("LM1627", name=node, reason="a key is none that verifies tokens")
    kept = {name: found[name] for name in ("kty", "crv", "x", "y", "n", "e", "kid") if name in found}
    return canonicaljson.dumps(kept)
