"""Lets authorities come and go: prepare, activate, roll back, taint, revoke, end. One transaction each, journaled.

`ca.rotation` has the table of what may follow what; here it is done. A transition, its journal entry and the trust
state that follows from it are written together (`ca.slotbook`), so that a kill at any moment leaves either all of it
or nothing. Keys are made before the transaction that records their authority, and deleted after the one that ends it:
`ca.keyledger` sweeps what falls between.
Longer than most: the steps share how they write, and reading them apart would hide the order.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Callable, Sequence

from cryptography import x509

from ca import mint, neighbours, revocation, slotstore, store
from ca.keys import KeyAlgorithm, PrivateKey, new_key
from ca.mint import Issuer
from ca.rotation import AuthorityState, Event, Kind, Slot, find
from ca.slotbook import SlotBook, Stand
from ca.slotstore import Live, Revocation
from ca.trustmaking import chain_above, fingerprint, key_id, names_key, public_jwk
from mesh.bundle import TrustBundle
from mesh.database import transaction
from mesh.problems import Conflict, NotFound, Problem, Refused
from mesh.spiffe import SpiffeId
from mesh.truststate import TrustState
from mesh.x509svid import verify_x509_svid

__all__ = ["Blast", "Stand", "Succession"]

ROOT_LIFE = dt.timedelta(days=3650)
ISSUING_LIFE = dt.timedelta(days=90)
JWT_LIFE = dt.timedelta(days=30)
SOONEST = dt.timedelta(seconds=1)
"""What time has changed is published at most once in so long."""
MAX_CROSSED = 2
_S = AuthorityState


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Blast:
    """What ends when an authority is revoked now. Times are None when it signed nothing that lives.

    ``downstreams`` counts the issuing certificates of servers below; what those signed is in the other numbers.
    ``replaced`` are SVIDs that are valid still and have a successor: they are in none of the others.
    """

    downstreams: int
    certificates: int
    identities: int
    nodes: int
    last_issued: dt.datetime | None
    safe_at: dt.datetime | None
    replaced: int = 0


class Succession:
    """Changes to the authorities of one trust domain. ``changed`` is called after each, outside the transaction."""

    def __init__(self, stand: Stand, changed: Callable[[], None]) -> None:
        self._at, self._changed = stand, changed
        self._book = SlotBook(stand)
        # when time was looked at last, and when it has to be again
        self._looked_at = self._due = dt.datetime.min.replace(tzinfo=dt.UTC)

    # -- beginning

    def begin(self, now: dt.datetime) -> None:
        """Make the first authorities, active at once: nobody trusts anything yet. One transaction records all.

        With an upstream its root is trusted, and its answer may have to be waited for: then nothing is recorded.

        Raises what the upstream and the key source raise.
        """
        if self.slots():
            return
        made = [*self._new_issuing(now, self._new_root(now, above=None)), self._new_jwt(now)]
        with transaction(self._at.engine) as connection:
            if slotstore.slots(connection):
                return
            for slot in made:
                # an upstream may have more roots: those are known, and sign nothing of ours
                signs = slot.kind is not Kind.ROOT or slot.id == made[-2].parent
                first = dataclasses.replace(slot, state=_S.ACTIVE if signs else _S.PREPARED)
                self._book.put(connection, first, "the first", "server", sequence=1)
            self._book.settle(connection, made)
            self._book.publish(connection, now)
        self._changed()

    def take_over(self, root: bytes, issuing: bytes, now: dt.datetime) -> None:
        """Put the authorities of a state of the first version into slots: their keys are under the same names."""
        ends = {
            name: x509.load_der_x509_certificate(der).not_valid_after_utc
            for name, der in (("root", root), ("issuing", issuing))
        }
        jwt = self._new_jwt(now)
        with transaction(self._at.engine) as connection:
            if slotstore.slots(connection):
                return
            for slot in (
                _slot("root", Kind.ROOT, "", (root,), now, ends["root"]),
                _slot("issuing", Kind.ISSUING, "root", (issuing,), now, ends["issuing"]),
                jwt,
            ):
                active = dataclasses.replace(slot, state=_S.ACTIVE)
                self._book.put(connection, active, "of the first version", "server", sequence=1)
            store.adopt_issuances(connection, "issuing")
            # a bundle of the first version has the number 1
            self._book.publish(connection, now, above=1)

    # -- preparing

    def prepare(self, kind: Kind, now: dt.datetime, *, actor: str, reason: str) -> Slot:
        """Prepare a successor: a new key, published, signing nothing yet; the one that is prepared already, if any.

        A new root is crossed by the active one, and has an issuing authority of its own. Returns the slot that will
        sign. Raises what the upstream and the key source raise.
        """
        signs = Kind.ISSUING if kind is Kind.ROOT else kind
        slots = self.slots()
        waiting = find(slots, signs, _S.PREPARED)
        if waiting and (kind is not Kind.ROOT or self._parent(slots, waiting[0]).state is _S.PREPARED):
            return waiting[0]
        if kind is Kind.JWT:
            made = [self._new_jwt(now)]
        elif kind is Kind.ISSUING or self._at.upstream is not None:
            made = self._new_issuing(now, find(slots, Kind.ROOT, _S.ACTIVE)[:1])
        else:
            made = self._new_issuing(now, self._new_root(now, above=find(slots, Kind.ROOT, _S.ACTIVE)[0]))
        self._book.warm(now)
        with transaction(self._at.engine) as connection:
            known = {slot.id for slot in slotstore.slots(connection)}
            for slot in made:
                if slot.id not in known:
                    self._book.put(connection, slot, reason, actor, sequence=self._book.next(connection))
            self._book.settle(connection, made)
            self._book.publish(connection, now)
        self._changed()
        return made[-1]

    def _new_root(self, now: dt.datetime, *, above: Slot | None) -> list[Slot]:
        """A root of our own; with an upstream there is none to make."""
        if self._at.upstream is not None:
            return []
        name = self._at.random(8).hex()
        key = self._at.root_keys.new(name, self._at.algorithm)
        der = mint.mint_root(self._at.trust_domain, key.key, serial=self._book.serial(), now=now, life=ROOT_LIFE)
        certificate = x509.load_der_x509_certificate(der)
        crossed: tuple[bytes, ...] = ()
        if above is not None:
            issuer = self.issuer(above)
            cross = mint.mint_cross(self._at.trust_domain, certificate, issuer, serial=self._book.serial(), now=now)
            crossed = (cross, *above.certificates[1:])[:MAX_CROSSED]
        return [_slot(name, Kind.ROOT, "", (der, *crossed), now, certificate.not_valid_after_utc)]

    def _new_issuing(self, now: dt.datetime, roots: Sequence[Slot]) -> list[Slot]:
        """An issuing authority below a root; the root stands before it in the answer."""
        if self._at.upstream is not None:
            found = self._at.upstream.prepare(now)
            tops = [
                _slot(
                    fingerprint(der)[:16],
                    Kind.ROOT,
                    "",
                    (der,),
                    now,
                    x509.load_der_x509_certificate(der).not_valid_after_utc,
                )
                for der in found.roots
            ]
            return [*tops, _slot(found.name, Kind.ISSUING, tops[0].id, found.chain, now, found.not_after)]
        (root,) = roots
        name = self._at.random(8).hex()
        key = self._at.keys.new(name, self._at.algorithm)
        der = mint.mint_intermediate(
            self._at.trust_domain,
            key.public_key,
            self.issuer(root),
            serial=self._book.serial(),
            now=now,
            life=ISSUING_LIFE,
        )
        end = x509.load_der_x509_certificate(der).not_valid_after_utc
        return [root, _slot(name, Kind.ISSUING, root.id, (der,), now, end)]

    def _new_jwt(self, now: dt.datetime) -> Slot:
        name = self._at.random(8).hex()
        # a JWT-SVID has no ML-DSA yet (JWT-SVID §2)
        algorithm = self._at.algorithm if self._at.algorithm is not KeyAlgorithm.ML_DSA_65 else KeyAlgorithm.P256
        key = self._at.keys.new(name, algorithm)
        return _slot(name, Kind.JWT, "", (public_jwk(name, key.public_key),), now, now + JWT_LIFE)

    # -- activating

    def activate(self, slot_id: str, now: dt.datetime, *, actor: str, reason: str) -> Slot:
        """Let a prepared authority sign, and the active one retire; of a new root, both levels.

        1. A probe that the new one signs verifies with the new trust state, and, as long as an older root is trusted,
           with that root alone: who has not heard of the new root yet can follow.
        2. Both transitions are written together: there is exactly one active authority of a kind at any moment.

        Raises NotFound LM1310, Conflict LM1301, and Refused LM1312 for a probe that does not verify.
        """
        slots = self.slots()
        slot = self.find(slot_id)
        if slot.kind is Kind.ISSUING:
            # (1)
            self._probe(slots, slot, now)
        self._book.warm(now)
        with transaction(self._at.engine) as connection:
            # (2)
            pairs = [(slot, Event.ACTIVATE)]
            if slot.kind is Kind.ISSUING:
                parent = self._parent(slots, slot)
                # an upstream that was rolled back signs with its former root again
                event = {_S.PREPARED: Event.ACTIVATE, _S.OLD: Event.REINSTATE}.get(parent.state)
                pairs.extend([(parent, event)] if event is not None else [])
            for found, event in pairs:
                for former in find(slots, found.kind, _S.ACTIVE):
                    self._book.change(connection, former, Event.RETIRE, now, f"{found.id} signs now", actor)
                self._book.change(connection, found, event, now, reason, actor)
            self._book.publish(connection, now)
        self._changed()
        return self.find(slot_id)

    def _probe(self, slots: Sequence[Slot], slot: Slot, now: dt.datetime) -> None:
        probe = SpiffeId(trust_domain=self._at.trust_domain, path="/limen/probe")
        issuer = self.issuer(slot)
        leaf = mint.mint_svid(probe, new_key().public_key(), issuer, serial=1, now=now, life=dt.timedelta(minutes=1))
        chain = (leaf, *chain_above(slots, slot))
        own = self._parent(slots, slot)
        roots = [found for found in slots if found.kind is Kind.ROOT and found.is_trusted]
        older = [found for found in roots if found.state is _S.ACTIVE and len(own.certificates) > 1]
        for trusted in (roots, *([found] for found in older)):
            bundle = TrustBundle(
                trust_domain=self._at.trust_domain, x509_authorities=tuple(found.certificates[0] for found in trusted)
            )
            try:
                verify_x509_svid(chain, {self._at.trust_domain: bundle}, now)
            except Problem as err:
                raise Refused("LM1312", kind=slot.kind, reason=f"{err.code}: {err.message}") from err

    def roll_back(self, now: dt.datetime, kind: Kind, *, actor: str, reason: str) -> Slot:
        """Let the authority that signed before sign again; the new one stays trusted until what it signed has ended.

        Raises NotFound LM1310 when there is none to go back to.
        """
        slots = self.slots()
        (current,) = find(slots, kind, _S.ACTIVE)
        former = sorted(find(slots, kind, _S.OLD), key=lambda slot: slot.changed, reverse=True)
        if not former:
            raise NotFound("LM1310", given=f"old {kind}")
        self._book.warm(now)
        with transaction(self._at.engine) as connection:
            self._book.change(connection, current, Event.RETIRE, now, reason, actor)
            self._book.change(connection, former[0], Event.REINSTATE, now, reason, actor)
            if kind is Kind.ISSUING and former[0].parent != current.parent:
                parent = self._parent(slots, former[0])
                self._book.change(connection, self._parent(slots, current), Event.RETIRE, now, reason, actor)
                self._book.change(connection, parent, Event.REINSTATE, now, reason, actor)
            self._book.publish(connection, now)
        self._changed()
        return self.find(former[0].id)

    def withdraw(self, slot_id: str, now: dt.datetime, *, actor: str, reason: str) -> None:
        """Take a prepared authority back; of a new root of our own, both levels. It never signed anything."""
        slots, slot = self.slots(), self.find(slot_id)
        gone = [slot]
        is_ours = self._at.upstream is None
        if is_ours and slot.kind is Kind.ISSUING and self._parent(slots, slot).state is _S.PREPARED:
            gone.append(self._parent(slots, slot))
        self._book.warm(now)
        with transaction(self._at.engine) as connection:
            for found in gone:
                self._book.change(connection, found, Event.WITHDRAW, now, reason, actor)
            self._book.publish(connection, now)
        self._book.forget(gone)
        self._changed()

    # -- ending

    def taint(self, slot_id: str, now: dt.datetime, *, actor: str, reason: str) -> Slot:
        """Mark an old authority, and those below it: what they signed is to be replaced. It is trusted until revoked.

        Raises Refused LM1302 for one that signs now, LM1301 for one that is gone.
        """
        return self._leave(slot_id, Event.TAINT, now, actor=actor, reason=reason)

    def revoke(self, slot_id: str, now: dt.datetime, *, actor: str, reason: str) -> Slot:
        """Trust an authority, and those below it, no more. Raises as `taint` does."""
        return self._leave(slot_id, Event.REVOKE, now, actor=actor, reason=reason)

    def _leave(self, slot_id: str, event: Event, now: dt.datetime, *, actor: str, reason: str) -> Slot:
        slots, slot = self.slots(), self.find(slot_id)
        below = [found for found in slots if found.parent == slot.id and found.is_trusted]
        for found in (slot, *below):
            if found.state is _S.ACTIVE and found.kind is not Kind.DOWNSTREAM:
                raise Refused("LM1302", authority=slot.id, kind=slot.kind)
        gone = [slot, *(found for found in below if (found.state, event) != (_S.TAINTED, Event.TAINT))]
        self._book.warm(now, [found.parent for found in gone])
        with transaction(self._at.engine) as connection:
            for found in gone:
                self._book.leave(connection, found, event, now, reason, actor)
            self._book.publish(connection, now)
        if event is Event.REVOKE:
            self._book.forget(gone)
        self._changed()
        return self.find(slot_id)

    def end(self, slot_id: str, now: dt.datetime) -> None:
        """Forget an authority all of whose work has ended.

        Raises Conflict LM1301 for a root that has authorities below it.
        """
        slot = self.find(slot_id)
        if any(found.parent == slot.id and found.is_trusted for found in self.slots()):
            raise Conflict("LM1301", authority=slot.id, state=str(slot.state), event=str(Event.END))
        self._book.warm(now)
        with transaction(self._at.engine) as connection:
            self._book.leave(connection, slot, Event.END, now, "all that it signed has ended", "server")
            self._book.publish(connection, now)
        self._book.forget([slot])
        self._changed()

    def revoke_svids(self, found: Sequence[store.Issuance], now: dt.datetime, reason: str) -> list[store.Issuance]:
        """Revoke SVIDs for good; return those that were not revoked before."""
        self._book.warm(now, [item.authority for item in found])
        with transaction(self._at.engine) as connection:
            fresh = [
                item
                for item in found
                if slotstore.revoke(
                    connection,
                    Revocation(
                        serial=item.serial,
                        authority=item.authority,
                        spiffe_id=item.spiffe_id,
                        revoked=now,
                        not_after=item.not_after,
                        reason=reason,
                    ),
                )
            ]
            self._book.publish(connection, now)
        self._changed()
        return fresh

    def refresh(self, now: dt.datetime) -> bool:
        """Publish again what time has changed: lists that grow old, revocations that ended. Whether it did.

        Between two moments at which time can have changed anything nothing is looked at; what else changes, publishes.
        """
        if self._looked_at <= now < self._due:
            return False
        self._book.warm(now)
        with transaction(self._at.engine) as connection:
            is_new = self._book.publish(connection, now)
            self._looked_at, self._due = now, max(now + SOONEST, self._book.due(connection, now))
        if is_new:
            self._changed()
        return is_new

    # -- looking

    @property
    def has_upstream(self) -> bool:
        """Whether roots are somebody else's."""
        return self._at.upstream is not None

    @property
    def upstream(self) -> str | None:
        """Who is above, for people (`offline` for a root in a safe); None for a root of our own."""
        return None if self._at.upstream is None else self._at.upstream.name

    def slots(self) -> list[Slot]:
        """Every authority that is not gone for good."""
        with transaction(self._at.engine) as connection:
            return slotstore.slots(connection)

    def find(self, slot_id: str) -> Slot:
        """One authority, by its id or an unambiguous beginning of it. Raises NotFound LM1310."""
        found = [slot for slot in self.slots() if slot.id == slot_id]
        found = found or [slot for slot in self.slots() if len(slot_id) >= 4 and slot.id.startswith(slot_id)]
        if len(found) != 1:
            raise NotFound("LM1310", given=slot_id[:80])
        return found[0]

    def published(self, slot_id: str) -> int:
        """The sequence number of the first trust state that had an authority."""
        with transaction(self._at.engine) as connection:
            return slotstore.published(connection, slot_id)

    def blast(self, slot_id: str, now: dt.datetime) -> Blast:
        """What ends when an authority, and those below it, are revoked now."""
        slots, slot = self.slots(), self.find(slot_id)
        hit = [slot, *(found for found in slots if found.parent == slot.id and found.is_trusted)]
        with transaction(self._at.engine) as connection:
            rows = [
                neighbours.live(connection, found.id, fingerprint(found.certificates[0]), found.not_after, now)
                if found.kind is Kind.DOWNSTREAM
                else slotstore.live(connection, found.id, now, is_left=found.state in {_S.OLD, _S.TAINTED})
                for found in hit
            ]
        return _blast(rows, downstreams=sum(found.kind is Kind.DOWNSTREAM for found in hit))

    def ends(self) -> dict[str, dt.datetime]:
        """When the last work of each retired authority ends."""
        with transaction(self._at.engine) as connection:
            rows = {
                slot.id: slotstore.last_end(connection, slot.id)
                for slot in slotstore.slots(connection)
                if slot.state in {_S.OLD, _S.TAINTED} and slot.kind is not Kind.DOWNSTREAM
            }
        return {name: end for name, end in rows.items() if end is not None}

    def private_key(self, slot: Slot) -> PrivateKey:
        """The key of a slot. Raises NotFound LM1600."""
        return self._book.private_key(slot)

    def issuer(self, slot: Slot) -> Issuer:
        """The certificate of a slot with its key. Raises NotFound LM1600."""
        return self._book.issuer(slot)

    @staticmethod
    def _parent(slots: Sequence[Slot], slot: Slot) -> Slot:
        return next(found for found in slots if found.id == slot.parent)

    def crl(self, slot: Slot, number: int, now: dt.datetime) -> bytes:
        """The list of an authority as anybody may fetch it, empty ones too. Raises NotFound LM1600."""
        with transaction(self._at.engine) as connection:
            mine = [item for item in slotstore.revocations(connection, now) if item.authority == slot.id]
        return revocation.build_crl(self.issuer(slot), mine, number=number, now=now)

    def adopt(self, newer: TrustState, now: dt.datetime) -> int:
        """Take over what a newer trust state revoked: this server was restored from a backup that did not know it.

        1. SVIDs on its lists are revoked for good.
        2. Authorities that it revoked are revoked; one that signs here again gets a successor first, at once.
        3. The next trust state has a higher number than any that was seen.

        Returns how many revocations were new. ``newer`` was signed by this server's own key: the caller checked it.
        """
        count = 0
        self._book.warm(now, [slot.id for slot in self.slots()])
        by_key = {key_id(slot): slot for slot in self.slots() if slot.kind is not Kind.JWT}
        with transaction(self._at.engine) as connection:
            for der in newer.bundle.crls:
                found = x509.load_der_x509_crl(der)
                issuer = next((slot for key, slot in by_key.items() if names_key(found, key)), None)
                for item in found:
                    # (1)
                    count += slotstore.revoke(
                        connection,
                        Revocation(
                            serial=f"{item.serial_number:x}",
                            authority=issuer.id if issuer is not None else "",
                            spiffe_id="",
                            revoked=item.revocation_date_utc,
                            not_after=issuer.not_after if issuer is not None else now + ISSUING_LIFE,
                            reason="taken over from an agent after a restore",
                        ),
                    )
            # (3)
            self._book.publish(connection, now, above=newer.sequence)
        self._changed()
        # (2)
        for slot in self.slots():
            if slot.id in newer.revoked and slot.is_trusted:
                self._revoke_again(slot.id, now)
                count += 1
        return count

    def _revoke_again(self, slot_id: str, now: dt.datetime) -> None:
        reason = "it was revoked before the restore"
        slot = self.find(slot_id)
        below = [found for found in self.slots() if found.parent == slot.id]
        if any(found.state is _S.ACTIVE and found.kind is not Kind.DOWNSTREAM for found in (slot, *below)):
            made = self.prepare(slot.kind, now, actor="server", reason=reason)
            self.activate(made.id, now, actor="server", reason=reason)
        if self.find(slot_id).is_trusted:
            self.revoke(slot_id, now, actor="server", reason=reason)


def _slot(
    name: str, kind: Kind, parent: str, certificates: tuple[bytes, ...], now: dt.datetime, end: dt.datetime
) -> Slot:
    return Slot(
        id=name,
        kind=kind,
        state=_S.PREPARED,
        parent=parent,
        certificates=certificates,
        created=now,
        changed=now,
        not_after=end,
    )


def _blast(rows: Sequence[Live], *, downstreams: int) -> Blast:
    ends = [row.last_end for row in rows if row.last_end is not None]
    begun = [row.last_issued for row in rows if row.last_issued is not None]
    return Blast(
        downstreams=downstreams,
        certificates=sum(row.certificates for row in rows),
        identities=sum(row.identities for row in rows),
        nodes=sum(row.nodes for row in rows),
        last_issued=max(begun, default=None),
        safe_at=max(ends, default=None),
        replaced=sum(row.replaced for row in rows),
    )
