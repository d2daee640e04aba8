"""Joins records of one direction into conversations, and finds who began each from evidence: cloud logs and NetFlow.

Memory is bounded: beyond ``limit`` conversations the oldest are given out with what is known by then. It does no I/O.

1. What the records say decides: a SYN that was never followed by an ACK of the same side, a SYN with ACK, a refusal.
2. Else the socket that several others talk to while its peer talks to it alone is the callee.
3. Else, or where the evidence disagrees, nobody knows: the conversation is counted as ambiguous, and is no flow.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Iterable, Iterator
from typing import Literal

from learner.sources.ledger import Ledger
from mesh.flow import Flow, Verdict

Socket = tuple[str, int]
MAX_CONVERSATIONS = 200_000
MAX_SOCKETS = 400_000
# an ephemeral port that comes again after that long is another conversation
PAUSE = dt.timedelta(hours=1)
_ENOUGH_PEERS = 2


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Half:
    """What one side sent. ``is_initiator`` is what the record proves, None when it proves nothing."""

    start: dt.datetime
    end: dt.datetime
    source: Socket
    destination: Socket
    protocol: Literal["tcp", "udp"]
    is_initiator: bool | None = None
    is_refusal: bool = False
    is_denied: bool = False
    replica: str | None = None


@dataclasses.dataclass(slots=True)
class _Conversation:
    first: Half
    end: dt.datetime
    start: dt.datetime
    initiators: set[Socket]
    accepted: set[Socket]
    denied: set[Socket]
    refused: bool = False
    replicas: dict[Socket, str] = dataclasses.field(default_factory=dict)


class Pairs:
    """The conversations that are not given out yet."""

    def __init__(self, ledger: Ledger, sensor: str, limit: int = MAX_CONVERSATIONS) -> None:
        self._ledger = ledger
        self._sensor = sensor
        self._limit = limit
        self._open: dict[tuple[Socket, Socket, str], _Conversation] = {}
        self._peers: dict[tuple[Socket, str], set[Socket]] = {}

    def add(self, half: Half) -> Iterator[Flow]:
        """Take a record in; what has to make room for it is given out."""
        key = (min(half.source, half.destination), max(half.source, half.destination), half.protocol)
        found = self._open.get(key)
        if found is not None and half.start > found.end + PAUSE:
            del self._open[key]
            yield from self._give(found)
            found = None
        if found is None:
            while len(self._open) >= self._limit:
                yield from self._give(self._open.pop(next(iter(self._open))))
            found = self._open[key] = _Conversation(half, half.end, half.start, set(), set(), set())
        self._fold(found, half)

    def outcomes(self, half: Half | str) -> Iterable[Flow | str]:
        """What `Input.take` counts of a record: what `add` gives out, or why the record was left out."""
        return [half] if isinstance(half, str) else self.add(half)

    def finish(self) -> Iterator[Flow]:
        """Give out what is left."""
        while self._open:
            yield from self._give(self._open.pop(next(iter(self._open))))

    def _fold(self, found: _Conversation, half: Half) -> None:
        found.start, found.end = min(found.start, half.start), max(found.end, half.end)
        if half.is_initiator is not None:
            found.initiators.add(half.source if half.is_initiator else half.destination)
        (found.denied if half.is_denied else found.accepted).add(half.source)
        found.refused |= half.is_refusal
        if half.replica is not None:
            found.replicas[half.source] = half.replica
        self._meet(half.source, half.destination, half.protocol)
        self._meet(half.destination, half.source, half.protocol)

    def _meet(self, socket: Socket, other: Socket, protocol: str) -> None:
        peers = self._peers.get((socket, protocol))
        if peers is None:
            if len(self._peers) < MAX_SOCKETS:
                self._peers[(socket, protocol)] = {other}
        elif len(peers) < _ENOUGH_PEERS:
            peers.add(other)

    def _give(self, found: _Conversation) -> Iterator[Flow]:
        a, b, protocol = found.first.source, found.first.destination, found.first.protocol
        initiator = self._initiator(found, a, b)
        if initiator is None:
            self._ledger.mark_ambiguous(f"{a[0]}:{a[1]} - {b[0]}:{b[1]} {protocol}")
            return
        callee = b if initiator == a else a
        is_denied = initiator in found.denied and initiator not in found.accepted
        yield Flow(
            start=found.start,
            end=found.end,
            source_ip=initiator[0],
            destination_ip=callee[0],
            destination_port=callee[1],
            protocol=protocol,
            established=callee in found.accepted and initiator in found.accepted and not found.refused,
            replica=found.replicas.get(initiator),
            sensor=self._sensor,
            verdict=Verdict.DENIED if is_denied else None,
        )

    def _initiator(self, found: _Conversation, a: Socket, b: Socket) -> Socket | None:
        """Steps 1 to 3 of the module."""
        # (1)
        if found.initiators:
            return next(iter(found.initiators)) if len(found.initiators) == 1 else None
        if found.denied and not found.accepted and len(found.denied) == 1:
            return next(iter(found.denied))
        # (2)
        protocol = found.first.protocol
        many_a, many_b = (len(self._peers.get((item, protocol), ())) >= _ENOUGH_PEERS for item in (a, b))
        known = (a, protocol) in self._peers and (b, protocol) in self._peers
        if known and many_a != many_b:
            return b if many_a else a
        # (3)
        return None
