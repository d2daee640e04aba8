"""How signing authorities come and go: prepared, active, old, and gone; every transition is in one table.

A new authority is published before it signs (prepared), signs alone (active), and is trusted until the last
certificate that it signed has ended (old). Tainted means: still trusted, but everything it signed is being replaced.
Revoked means: trusted no more, at once. The names are SPIRE's. Pure: what to do next is computed from the slots, the
time, and what agents reported; `ca.authority` does it, one transaction per step, so that a kill at any moment leaves
a state from which the next step follows.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
from collections.abc import Iterable, Sequence

from mesh.problems import Conflict


class Kind(enum.StrEnum):
    """What an authority signs with its key."""

    ROOT = "root"
    ISSUING = "issuing"
    JWT = "jwt"
    DOWNSTREAM = "downstream"
    """An issuing authority whose key another server of the trust domain has, one below this one."""


OWN = (Kind.ROOT, Kind.ISSUING, Kind.JWT)
"""What this server itself signs with: of each kind exactly one is active."""


class AuthorityState(enum.StrEnum):
    """Where a signing authority stands (SPIRE's words, and how it ended)."""

    PREPARED = "prepared"
    ACTIVE = "active"
    OLD = "old"
    TAINTED = "tainted"
    REVOKED = "revoked"
    ENDED = "ended"


class Event(enum.StrEnum):
    """What happens to an authority."""

    ACTIVATE = "activate"
    RETIRE = "retire"
    REINSTATE = "reinstate"
    WITHDRAW = "withdraw"
    TAINT = "taint"
    REVOKE = "revoke"
    END = "end"


_S, _E = AuthorityState, Event
TRANSITIONS: dict[tuple[AuthorityState, Event], AuthorityState] = {
    (_S.PREPARED, _E.ACTIVATE): _S.ACTIVE,
    (_S.PREPARED, _E.WITHDRAW): _S.ENDED,
    (_S.PREPARED, _E.REVOKE): _S.REVOKED,
    (_S.ACTIVE, _E.RETIRE): _S.OLD,
    (_S.OLD, _E.REINSTATE): _S.ACTIVE,
    (_S.OLD, _E.TAINT): _S.TAINTED,
    (_S.OLD, _E.REVOKE): _S.REVOKED,
    (_S.OLD, _E.END): _S.ENDED,
    (_S.TAINTED, _E.REVOKE): _S.REVOKED,
    (_S.TAINTED, _E.END): _S.ENDED,
}
TRUSTED = frozenset({_S.PREPARED, _S.ACTIVE, _S.OLD, _S.TAINTED})
"""In these states an authority is in the bundle: what it signed verifies."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """One authority. ``id`` names its key (hexadecimal); ``parent`` is the root of an issuing authority.

    ``certificates`` are DER: the authority's own first, then what leads from it to older roots (cross-signed) or to
    an upstream root. A JWT authority has its public JWK there instead. ``changed`` is when its state last changed.
    """

    id: str
    kind: Kind
    state: AuthorityState
    parent: str
    certificates: tuple[bytes, ...]
    created: dt.datetime
    changed: dt.datetime
    not_after: dt.datetime

    @property
    def is_trusted(self) -> bool:
        """Whether what it signed verifies."""
        return self.state in TRUSTED


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """What decides when an authority is replaced.

    ``longest_ttl`` is the longest life of what it signs; ``propagation`` is how long agents took to report the last
    new bundle; ``refresh_hint`` is how often others fetch it. Federation §4 wants new keys published 3 to 5 refreshes
    before they are used; ``attempts`` lets several tries fail before there is harm. What people have to see to
    (``by_hand``) is due ``notice`` before its time: they carry a request to a safe, and have holidays.
    """

    longest_ttl: dt.timedelta
    propagation: dt.timedelta
    refresh_hint: dt.timedelta
    attempts: int = 3
    by_hand: frozenset[Kind] = frozenset()
    notice: dt.timedelta = dt.timedelta(days=14)

    @property
    def lead(self) -> dt.timedelta:
        """How long before its use a new authority is published."""
        return max(5 * self.refresh_hint, 10 * self.propagation)

    def activate_at(self, slot: Slot) -> dt.datetime:
        """When the successor of a slot has to sign: what the slot signs must not be cut short by its end."""
        return self._not_too_early(slot, slot.not_after - self.attempts * self.longest_ttl, 2)

    def prepare_at(self, slot: Slot) -> dt.datetime:
        """When the successor of a slot is prepared."""
        before = self.attempts * self.lead
        before = max(before, self.notice) if slot.kind in self.by_hand else before
        return self._not_too_early(slot, self.activate_at(slot) - before, 3)

    def _not_too_early(self, slot: Slot, moment: dt.datetime, part: int) -> dt.datetime:
        """Not in the first part of a life that is short beside the times above."""
        return max(moment, slot.created + (slot.not_after - slot.created) / part)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What is due: prepare a successor of a kind, or let an event happen to a slot."""

    event: Event | None
    kind: Kind
    slot: str = ""


def apply(slot: Slot, event: Event, now: dt.datetime) -> Slot:
    """The slot after an event.

    Raises Conflict LM1301 for an event that the table does not have.
    """
    state = TRANSITIONS.get((slot.state, event))
    if state is None:
        raise Conflict("LM1301", authority=slot.id, state=str(slot.state), event=str(event))
    return dataclasses.replace(slot, state=state, changed=now)


def find(slots: Iterable[Slot], kind: Kind, state: AuthorityState) -> list[Slot]:
    """The slots of a kind in a state, newest first."""
    found = [slot for slot in slots if slot.kind is kind and slot.state is state]
    return sorted(found, key=lambda slot: slot.created, reverse=True)


def due(slots: Sequence[Slot], now: dt.datetime, timing: Timing, ends: dict[str, dt.datetime]) -> list[Step]:
    """What the passing of time asks for.

    1. An active authority whose successor is due and not prepared yet: prepare one.
    2. An old or tainted authority ends when everything that it signed has ended; a root when all its issuing
       authorities have, whatever time its own certificate has left. ``ends`` has the latest end by authority.
       One that a server below signs with ends with its certificate: who knows what else it signed.

    Activation is not here: it follows from what agents report (`may_activate`).
    """
    steps = []
    for kind in OWN:
        active = find(slots, kind, _S.ACTIVE)
        # (1)
        if active and not find(slots, kind, _S.PREPARED) and now >= timing.prepare_at(active[0]):
            steps.append(Step(event=None, kind=kind))
    for slot in slots:
        # (2)
        if slot.kind is Kind.DOWNSTREAM:
            if slot.is_trusted and now > slot.not_after:
                steps.append(Step(event=_E.END, kind=slot.kind, slot=slot.id))
            continue
        if slot.state not in {_S.OLD, _S.TAINTED}:
            continue
        children = [found for found in slots if found.parent == slot.id and found.is_trusted]
        if not children and now > max(ends.get(slot.id, slot.changed), slot.changed):
            steps.append(Step(event=_E.END, kind=slot.kind, slot=slot.id))
    return steps


def may_activate(
    slot: Slot, *, published: int, reported: dict[str, int], now: dt.datetime, settle: dt.timedelta
) -> list[str]:
    """The live agents that do not yet hold the bundle with a prepared slot; empty when it may sign.

    ``published`` is the sequence number that first had it; ``reported`` is what each live agent holds. A moment
    passes after the publication even when there is no agent: streams of the Workload API answer nobody.
    """
    behind = sorted(node for node, sequence in reported.items() if sequence < published)
    if not behind and now - slot.changed < settle:
        return [""]
    return behind


def cliff(slots: Iterable[Slot]) -> tuple[dt.datetime, Slot] | None:
    """The next moment at which something that signs today ends, and what: what people have to see coming."""
    active = [slot for slot in slots if slot.state is _S.ACTIVE and slot.kind in OWN]
    if not active:
        return None
    first = min(active, key=lambda slot: slot.not_after)
    return first.not_after, first
