"""A server below another one follows it: what that trusts, and what it trusts no more, holds here at once.

The word of the server above is written first, and the trust state with it: from then on a root or an issuing
certificate that it dropped opens nothing, whatever comes next. Then the slots follow, each step in its own
transaction; a kill in between repeats the steps, from what is written.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Callable, Collection

from cryptography import x509

from ca import neighbours, slotstore
from ca.neighbours import Words, Work
from ca.rotation import AuthorityState, Kind, Slot, find
from ca.slotbook import SlotBook, Stand
from ca.succession import Succession
from ca.trustmaking import fingerprint
from mesh import crl
from mesh.database import transaction
from mesh.truststate import TrustState, parse_payload

_S = AuthorityState
_ACTOR = "upstream"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Followed:
    """What changed: ``reissue`` when what was signed is to be replaced, ``has_successor`` when another signs now."""

    is_new: bool
    reissue: bool
    has_successor: bool


class Following:
    """Follows the server above. ``changed`` is called after each change, outside the transaction."""

    def __init__(self, stand: Stand, succession: Succession, changed: Callable[[], None]) -> None:
        self._at, self._do, self._changed = stand, succession, changed
        self._book = SlotBook(stand)

    def kept(self) -> tuple[TrustState, bytes] | None:
        """The newest trust state of the server above, and as it signed it; None when none is above."""
        with transaction(self._at.engine) as connection:
            return neighbours.get_above(connection, self._at.trust_domain)

    def is_pinned(self, slot: Slot) -> bool:
        """Whether the server above trusts an issuing authority of ours; True when none is above."""
        kept = self.kept()
        pins = None if kept is None else kept[0].bundle.intermediates
        return pins is None or fingerprint(slot.certificates[0]) in pins

    def follow(self, state: TrustState, token: bytes, *, tainted: Collection[str], now: dt.datetime) -> Followed:
        """Follow a trust state of the server above; ``tainted`` are own certificates (SHA-256) it wants replaced.

        1. An older one changes nothing.
        2. It is written with its new roots, and what agents hold follows, in one transaction.
        3. An own issuing authority that it trusts no more is revoked; one that signs gets a successor first. Without
           one, everything stays as it is, and nothing verifies: the next call tries again.
        4. A root that it trusts no more is revoked.
        5. An own issuing authority that it wants replaced is tainted once another one signs.

        Raises what asking for a successor raises.
        """
        self._book.warm(now)
        with transaction(self._at.engine) as connection:
            # (1)
            is_new = neighbours.put_above(connection, state, token)
            # (2)
            if is_new:
                known = {slot.id for slot in slotstore.slots(connection)}
                for der in state.bundle.x509_authorities:
                    root = root_slot(der, now)
                    if root.id not in known:
                        self._book.put(
                            connection, root, "the server above trusts it", _ACTOR, sequence=self._book.next(connection)
                        )
                self._book.publish(connection, now)
        if is_new:
            self._changed()
        kept = self.kept()
        assert kept is not None
        gone, has_successor = self._drop(kept[0], now)
        return Followed(is_new=is_new, reissue=self._taint(tainted, now) or gone, has_successor=has_successor)

    def _drop(self, state: TrustState, now: dt.datetime) -> tuple[bool, bool]:
        """Steps 3 and 4; whether something went, and whether another one signs in its place."""
        listed = {fingerprint(der) for der in state.bundle.x509_authorities}
        pins = state.bundle.intermediates
        gone = has_successor = False
        for slot in self._do.slots():
            digest = fingerprint(slot.certificates[0]) if slot.kind is not Kind.JWT else ""
            lost = (slot.kind is Kind.ISSUING and pins is not None and digest not in pins) or (
                slot.kind is Kind.ROOT and digest not in listed
            )
            if not lost or not slot.is_trusted:
                continue
            reason = "the server above trusts it no more"
            has_successor = self._succeed(slot, now, reason) or has_successor
            if self._do.find(slot.id).is_trusted:
                self._do.revoke(slot.id, now, actor=_ACTOR, reason=reason)
                gone = True
        return gone, has_successor

    def _succeed(self, slot: Slot, now: dt.datetime, reason: str) -> bool:
        """Have another authority sign in the place of one that is lost, or of one below a root that is; whether so."""
        lost = {slot.id, *(found.id for found in self._do.slots() if found.parent == slot.id)}
        (active,) = find(self._do.slots(), Kind.ISSUING, _S.ACTIVE)
        if active.id not in lost:
            return False
        for waiting in find(self._do.slots(), Kind.ISSUING, _S.PREPARED):
            if waiting.id in lost:
                self._do.withdraw(waiting.id, now, actor=_ACTOR, reason=reason)
        made = self._do.prepare(Kind.ISSUING, now, actor=_ACTOR, reason=reason)
        self._do.activate(made.id, now, actor=_ACTOR, reason=reason)
        return True

    def _taint(self, tainted: Collection[str], now: dt.datetime) -> bool:
        """Step 5."""
        found = [
            slot
            for slot in find(self._do.slots(), Kind.ISSUING, _S.OLD)
            if fingerprint(slot.certificates[0]) in tainted
        ]
        for slot in found:
            self._do.taint(slot.id, now, actor=_ACTOR, reason="the server above wants it replaced")
        return bool(found)

    def words(self, now: dt.datetime) -> Words:
        """What this server says of itself to the one above: token keys, revocation lists, what of its work is valid."""
        with transaction(self._at.engine) as connection:
            slots = [slot for slot in slotstore.slots(connection) if slot.is_trusted]
            issuing = [slot for slot in slots if slot.kind is Kind.ISSUING]
            trust = slotstore.get_trust(connection)
            left = {AuthorityState.OLD, AuthorityState.TAINTED}
            lives = [(slot, slotstore.live(connection, slot.id, now, is_left=slot.state in left)) for slot in issuing]
        assert trust is not None
        crls = parse_payload(trust[1], self._at.trust_domain).bundle.crls
        own = [x509.load_der_x509_certificate(slot.certificates[0]) for slot in issuing]
        return Words(
            jwks=tuple(slot.certificates[0] for slot in slots if slot.kind is Kind.JWT),
            crls=tuple(der for der in crls if any(crl.is_signed(der, item) for item in own)),
            works=tuple(Work(certificate=fingerprint(slot.certificates[0]), live=live) for slot, live in lives),
        )


def root_slot(der: bytes, now: dt.datetime) -> Slot:
    """The slot of a root of somebody above: known, and signing nothing of ours yet."""
    end = x509.load_der_x509_certificate(der).not_valid_after_utc
    return Slot(
        id=fingerprint(der)[:16],
        kind=Kind.ROOT,
        state=_S.PREPARED,
        parent="",
        certificates=(der,),
        created=now,
        changed=now,
        not_after=end,
    )
