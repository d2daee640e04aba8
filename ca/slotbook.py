"""How authorities are written: slots, journal, keys, and the trust state that follows, in the caller's transaction.

Whoever changes an authority (`ca.succession`, `ca.downstreams`, `ca.following`) writes through this: a transition, its
journal entry and what agents are to hold are written together or not at all. What may follow what is in `ca.rotation`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
from collections.abc import Callable, Sequence

import sqlalchemy as sa
from cryptography import x509

from ca import neighbours, revocation, slotstore, store
from ca.keys import KeyAlgorithm, PrivateKey
from ca.keysource import KeySource
from ca.mint import Issuer
from ca.rotation import AuthorityState, Event, Kind, Slot, apply
from ca.slotstore import Entry, Revocation
from ca.trustmaking import make_state
from ca.upstream.request import UpstreamRequests
from mesh.database import transaction
from mesh.problems import NotFound
from mesh.spiffe import TrustDomain
from mesh.truststate import parse_payload

LATEST = dt.timedelta(hours=1)
"""So long at most nobody looks: another server of the same database may have revoked something meanwhile."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Stand:
    """What an authority stands on: the trust domain, the database, where keys are, and who is above it.

    ``root_keys`` outlive a restart; ``keys`` may be in memory. ``upstream`` is None for a root of our own.
    """

    trust_domain: TrustDomain
    engine: sa.Engine
    keys: KeySource
    root_keys: KeySource
    random: Callable[[int], bytes]
    algorithm: KeyAlgorithm = KeyAlgorithm.P256
    upstream: UpstreamRequests | None = None


class SlotBook:
    """Writes the authorities of one trust domain. Where a method takes a connection, the caller commits."""

    def __init__(self, stand: Stand) -> None:
        self._at = stand
        # what signs lists, loaded before a transaction begins: key sources open transactions of their own
        self._listers: dict[str, Issuer] = {}

    # -- keys

    def private_key(self, slot: Slot) -> PrivateKey:
        """The key of a slot. Raises NotFound LM1600."""
        source = self._at.root_keys if slot.kind is Kind.ROOT else self._at.keys
        return source.load(slot.id).key

    def issuer(self, slot: Slot) -> Issuer:
        """The certificate of a slot with its key. Raises NotFound LM1600."""
        return Issuer(certificate=x509.load_der_x509_certificate(slot.certificates[0]), key=self.private_key(slot))

    def serial(self) -> int:
        """A fresh serial number of 127 random bits."""
        return int.from_bytes(self._at.random(16), "big") >> 1 or 1

    def forget(self, gone: Sequence[Slot]) -> None:
        """Delete the keys of authorities that ended; a downstream's key was never here."""
        for slot in gone:
            if slot.kind is not Kind.DOWNSTREAM:
                (self._at.root_keys if slot.kind is Kind.ROOT else self._at.keys).delete(slot.id)

    def warm(self, now: dt.datetime, more: Sequence[str] = ()) -> None:
        """Load the keys of the authorities whose lists may have to be signed; before the transaction."""
        with transaction(self._at.engine) as connection:
            wanted = {item.authority for item in slotstore.revocations(connection, now)} | set(more)
            slots = slotstore.slots(connection)
        kept = {}
        for slot in slots:
            if slot.id in wanted and slot.is_trusted and slot.kind not in {Kind.JWT, Kind.DOWNSTREAM}:
                # a key that was in the memory of a process that ended signs no more lists
                with contextlib.suppress(NotFound):
                    kept[slot.id] = self._listers.get(slot.id) or self.issuer(slot)
        self._listers = kept

    # -- writing

    def put(
        self, connection: sa.Connection, slot: Slot, reason: str, actor: str, *, sequence: int, node: str = ""
    ) -> None:
        """Write a new slot, its journal entry, and its certificate among what was issued; ``node`` is whose it is."""
        slotstore.put_slot(connection, slot, published=sequence)
        entry = Entry(
            at=slot.created, slot=slot.id, kind=slot.kind, before="", after=str(slot.state), reason=reason, actor=actor
        )
        slotstore.add_entry(connection, entry)
        if slot.kind is not Kind.JWT:
            self._record_certificate(connection, slot, node)

    def _record_certificate(self, connection: sa.Connection, slot: Slot, node: str) -> None:
        certificate = x509.load_der_x509_certificate(slot.certificates[0])
        if store.find_issuances(connection, f"{certificate.serial_number:x}", slot.created):
            # a root of an upstream that was trusted before
            return
        store.record_issuance(
            connection,
            store.Issuance(
                serial=f"{certificate.serial_number:x}",
                spiffe_id=str(self._at.trust_domain.id),
                node=node,
                rule="",
                issued=slot.created,
                not_after=slot.not_after,
                kind="ca",
                # what is given to others is in the blast radius of the root that signed it
                authority=slot.parent if node else "",
            ),
        )

    def change(
        self, connection: sa.Connection, slot: Slot, event: Event, now: dt.datetime, reason: str, actor: str
    ) -> Slot:
        """Write a transition and its journal entry; return the slot after it. Raises Conflict LM1301."""
        after = apply(slot, event, now)
        slotstore.change_slot(connection, after)
        entry = Entry(
            at=now,
            slot=slot.id,
            kind=slot.kind,
            before=str(slot.state),
            after=str(after.state),
            reason=reason,
            actor=actor,
        )
        slotstore.add_entry(connection, entry)
        return after

    def leave(
        self, connection: sa.Connection, slot: Slot, event: Event, now: dt.datetime, reason: str, actor: str
    ) -> None:
        """Taint, revoke or end an authority; a downstream's, which signs at somebody else's, retires on the way."""
        if slot.kind is Kind.DOWNSTREAM and slot.state is AuthorityState.ACTIVE:
            slot = self.change(connection, slot, Event.RETIRE, now, reason, actor)
        self.change(connection, slot, event, now, reason, actor)
        if event is Event.REVOKE and slot.kind in {Kind.ISSUING, Kind.DOWNSTREAM}:
            self._list_certificate(connection, slot, now, reason)

    def _list_certificate(self, connection: sa.Connection, slot: Slot, now: dt.datetime, reason: str) -> None:
        """A revoked issuing certificate is on its root's list, for those who look there."""
        serial = x509.load_der_x509_certificate(slot.certificates[0]).serial_number
        slotstore.revoke(
            connection,
            Revocation(
                serial=f"{serial:x}",
                authority=slot.parent,
                spiffe_id=str(self._at.trust_domain.id),
                revoked=now,
                not_after=slot.not_after,
                reason=reason,
            ),
        )

    def settle(self, connection: sa.Connection, made: Sequence[Slot]) -> None:
        """Forget the requests to an upstream whose authorities are written in the same transaction."""
        if self._at.upstream is not None:
            for slot in made:
                self._at.upstream.settle(connection, slot.id)

    @staticmethod
    def next(connection: sa.Connection) -> int:
        """The number of the next trust state."""
        found = slotstore.get_trust(connection)
        return 1 if found is None else found[0] + 1

    def due(self, connection: sa.Connection, now: dt.datetime) -> dt.datetime:
        """When time alone changes the trust state next: a revocation ends, or a list is half its life old."""
        trust = slotstore.get_trust(connection)
        lists = () if trust is None else parse_payload(trust[1], self._at.trust_domain).bundle.crls
        ends = [slotstore.first_end(connection, now), *(revocation.stale_at(der) for der in lists)]
        return min([now + LATEST, *(end for end in ends if end is not None)])

    def publish(self, connection: sa.Connection, now: dt.datetime, *, above: int = 0) -> bool:
        """Write the trust state that follows from the tables, under the next number, if it says anything new.

        ``above`` is a number that was seen elsewhere: the new one is higher in any case.
        """
        before = slotstore.get_trust(connection)
        current = None if before is None else parse_payload(before[1], self._at.trust_domain)
        number = max(self.next(connection), above + 1)
        made = make_state(
            self._at.trust_domain,
            slotstore.slots(connection),
            slotstore.revocations(connection, now),
            known=current.bundle.crls if current is not None else (),
            listers=self._listers,
            others=neighbours.others(connection, self._at.trust_domain),
            number=number,
            now=now,
        )
        if current is not None and made.is_like(current) and not above:
            return False
        slotstore.put_trust(connection, number, made.payload(), now)
        return True
