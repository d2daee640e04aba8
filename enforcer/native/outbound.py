"""The outbound side: loopback ports on which the workload reaches the services it calls.

Every new connection is held until the agent has said who is behind it; without an answer it is refused. Then it is
served over a mutual TLS connection to an endpoint of the called service (`enforcer.native.reach`): joined with one of
its own, or, where the service is declared to speak HTTP, exchange by exchange over kept ones (`enforcer.native.relay`).
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from typing import Protocol

from enforcer.native import answer
from enforcer.native.judge import Judgement, denied
from enforcer.native.l4 import Splice
from enforcer.native.limits import DEFAULT, RESERVE, Limits
from enforcer.native.pool import Connection
from enforcer.native.ports import handles_of, serve
from enforcer.native.reach import Reach
from enforcer.native.records import KEPT_WITHIN_S, Contact
from enforcer.native.relay import Relay
from enforcer.native.stream import PlainStream
from enforcer.native.workload import Workload
from mesh.problems import Invalid

ATTEST_SECONDS = 5
# how long a connection is held while the agent is being started again
AWAY_SECONDS = 30
REPLY_SECONDS = 1

_LOOKS_LIKE_HTTP = re.compile(rb"[A-Z]{3,16} [^\s]")


class Outbound:
    """One local port that stands for a called service."""

    def __init__(
        self,
        workload: Workload,
        reach: Reach,
        ask: Callable[[Held], None],
        is_away: Callable[[], bool],
        *,
        local_port: int,
        pools: bool = True,
        limits: Limits = DEFAULT,
    ) -> None:
        self._workload, self._reach, self._ask, self.is_away = workload, reach, ask, is_away
        self.local_port, self._pools = local_port, pools
        self._limit = limits.connections
        self._held: set[Held] = set()
        # those that are being told why they are refused
        self._refused: set[Held] = set()
        self._joined: dict[Splice, Connection] = {}
        self._relays: set[Relay] = set()
        self._server: asyncio.Server | None = None
        self._is_draining = False

    async def listen(self, handle: int | None = None) -> int:
        """Open the port on loopback and return it; port 0 is any free one.

        Raises Invalid LM3014 when the port cannot be had.
        """
        self._server = await serve(self._accept, "127.0.0.1", self.local_port, handle)
        self.local_port = int(self._server.sockets[0].getsockname()[1])
        return self.local_port

    def close(self) -> None:
        """Close the port and everything that came through it."""
        if self._server is not None:
            self._server.close()
        for held in (*self._held, *self._refused):
            held.stream.abort()
        for splice in list(self._joined):
            splice.abort()
        for relay in list(self._relays):
            relay.abort()
        self._reach.close()

    @property
    def handles(self) -> list[int]:
        """The socket that it listens on."""
        return handles_of([self._server] if self._server is not None else [])

    @property
    def is_idle(self) -> bool:
        """Whether nothing is left of what came through the port."""
        return not (self._held or self._refused or self._joined or self._relays)

    def drain(self) -> None:
        """Take nothing new; what is there goes on, and kept-alive connections are told to end with an answer."""
        self._is_draining = True
        if self._server is not None:
            self._server.close()
            self._server = None
        for relay in self._relays:
            relay.drain()

    def tick(self) -> None:
        """Let a second pass: a connection ends with the SVID that its other end proved itself with."""
        now = self._workload.now()
        for splice, found in list(self._joined.items()):
            if now > found.peer_ends:
                splice.abort()
        for relay in list(self._relays):
            if relay.connection is not None and now > relay.connection.peer_ends:
                relay.connection.stream.abort()
            relay.tick()
        self._reach.tick()

    def renew(self) -> None:
        """Take notice of another SVID, other bundles or other policies."""
        self._reach.renew()
        self.recheck()

    def recheck(self) -> None:
        """Close the connections whose other end is, by now, not vouched for or not of the called service."""
        carrying = (relay.connection for relay in self._relays if relay.connection is not None)
        self._reach.recheck([*self._joined.values(), *carrying])

    def _accept(self) -> asyncio.Protocol:
        return PlainStream(self.hold)

    def hold(self, stream: PlainStream) -> None:
        """Hold a new connection and ask who is behind it; one too many is told so, and far too many are closed."""
        open_now = len(self._held) + len(self._joined) + len(self._relays)
        if open_now >= self._limit:
            if len(self._refused) < RESERVE:
                over = Held(self, stream, time.monotonic_ns())
                over.refuse("LM3303", {"limit": self._limit})
                self._refused.add(over)
            else:
                stream.abort()
            return
        stream.pause()
        held = Held(self, stream, time.monotonic_ns())
        self._held.add(held)
        self._ask(held)

    # -- what a held connection asks for

    def connect(self, held: Held) -> None:
        """Serve a connection whose process is the workload's: request by request where the service speaks HTTP."""
        if not self._pools or not self._reach.speaks_http():
            self._workload.start(self._connect(held), held.stream.abort)
            return
        self._held.discard(held)
        held.is_over = True
        relay = Relay(held.stream, self)
        self._relays.add(relay)
        if self._is_draining:
            relay.drain()
        held.stream.resume()

    def forget(self, held: Held) -> None:
        """Let go of a held connection."""
        self._held.discard(held)
        self._refused.discard(held)

    def refuse(self, stream: PlainStream, code: str, facts: dict[str, object]) -> str:
        """Record a refusal; return the record's id."""
        contact = Contact(
            direction="outbound",
            port=self._reach.port or 0,
            peer_ip=stream.peer[0],
            caller=self._workload.name,
            destination=self._reach.service,
            facts={**facts, "source_port": stream.peer[1], "local_port": self.local_port},
        )
        judgement = Judgement(denied(code, self._workload.judge.snapshot), None, "", "")
        return self._workload.recorder.decision(contact, judgement, now=self._workload.now(), protocol="tcp")

    def waits_for_disk(self, answer: Callable[[], None], code: str) -> bool:
        """Whether an answer has to wait until what was recorded last is on a disk; it is called then."""
        return self._workload.waits_for_disk(answer, code)

    async def _connect(self, held: Held) -> None:
        try:
            found = await self._reach.connect(lambda: not held.is_over)
        except Invalid as problem:
            held.refuse(problem.code, problem.facts)
            return
        self._held.discard(held)
        if held.is_over:
            found.stream.abort()
            return
        held.is_over = True
        self._splice(held.stream, found)
        held.stream.resume()
        found.stream.resume()

    def _splice(self, stream: PlainStream, found: Connection) -> None:
        self._joined[Splice(stream, found.stream, self._parted)] = found

    def _parted(self, splice: Splice) -> None:
        found = self._joined.pop(splice, None)
        if found is not None:
            self._reach.finished(found)

    # -- what a relay asks for

    def take(self) -> Connection | None:
        """A connection that waits for an exchange."""
        return self._reach.take()

    def give(self, found: Connection) -> None:
        """Take a connection back after a clean exchange."""
        self._reach.give(found)

    def reach(self, relay: Relay, done: Callable[[Connection | Invalid], None]) -> None:
        """Make a new connection, or say why there is none."""
        self._workload.start(self._new(relay, done), relay.abort)

    async def _new(self, relay: Relay, done: Callable[[Connection | Invalid], None]) -> None:
        try:
            found = await self._reach.connect(lambda: relay in self._relays)
        except Invalid as problem:
            done(problem)
        else:
            done(found)

    def join(self, relay: Relay, found: Connection) -> None:
        """Join an application's stream with a connection, for good."""
        self._relays.discard(relay)
        self._splice(relay.stream, found)

    def refused(self, relay: Relay, problem: Invalid) -> str:
        """Record that a request could not be carried; return the record's id."""
        return self.refuse(relay.stream, problem.code, dict(problem.facts))

    def gone(self, relay: Relay) -> None:
        """Forget a relay."""
        self._relays.discard(relay)


class Way(Protocol):
    """Where a held connection leads, once its process is known."""

    is_away: Callable[[], bool]

    def connect(self, held: Held) -> None:
        """Go on with a connection whose process is the workload's."""
        ...

    def forget(self, held: Held) -> None:
        """Let go of a connection."""
        ...

    def refuse(self, stream: PlainStream, code: str, facts: dict[str, object]) -> str:
        """Record a refusal; return the record's id."""
        ...

    def waits_for_disk(self, answer: Callable[[], None], code: str) -> bool:
        """Whether an answer has to wait until what was recorded last is on a disk; it is called then."""
        ...


class Held:
    """A connection that waits for the agent's word, then for the service; a `Sink` that takes nothing yet."""

    def __init__(self, outbound: Way, stream: PlainStream, accepted_ns: int) -> None:
        self._outbound, self.stream, self.accepted_ns = outbound, stream, accepted_ns
        self.is_over = False
        self._reply = b""
        self._timer = asyncio.get_running_loop().call_later(ATTEST_SECONDS, self._late)
        stream.sink = self

    def attested(self, *, ok: bool, code: str, facts: dict[str, object]) -> None:
        """Take the agent's word; what comes after a time-out counts for nothing."""
        if self.is_over:
            return
        self._timer.cancel()
        if ok:
            self._outbound.connect(self)
        else:
            self.refuse(code or "LM3210", facts)

    def asked(self) -> None:
        """Give an agent that has just come back as much time for its word as any has."""
        self._timer.cancel()
        if not self.is_over:
            self._timer = asyncio.get_running_loop().call_later(ATTEST_SECONDS, self._late)

    def _late(self) -> None:
        waited = (time.monotonic_ns() - self.accepted_ns) / 1e9
        if self._outbound.is_away() and waited < AWAY_SECONDS:
            self._timer = asyncio.get_running_loop().call_later(ATTEST_SECONDS, self._late)
        else:
            self.refuse("LM3211", {"seconds": round(waited)})

    def refuse(self, code: str, facts: dict[str, object]) -> None:
        """Close the connection; a program that speaks HTTP is told why."""
        if self.is_over:
            return
        self.is_over = True
        self._timer.cancel()
        self._outbound.forget(self)
        record = self._outbound.refuse(self.stream, code, facts)
        self._reply = answer.problem(code, facts, record=record)
        self.stream.pause()
        if self._outbound.waits_for_disk(self._answer, code):
            self._timer = asyncio.get_running_loop().call_later(KEPT_WITHIN_S, self.stream.abort)
        else:
            self._answer()

    def _answer(self) -> None:
        self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(REPLY_SECONDS, self.stream.abort)
        self.stream.resume()

    def received(self, data: bytes) -> None:
        """See what the refused program speaks."""
        reply, self._reply = self._reply, b""
        if not self.is_over:
            self.stream.abort()  # held connections are not read
        elif reply and _LOOKS_LIKE_HTTP.match(data):
            self.stream.write(reply)
            self.stream.write_eof()
        elif reply:
            self.stream.abort()

    def ended(self) -> None:
        """A refused program that is done is let go; one that is held may half-close."""
        if self.is_over:
            self.stream.close()

    def lost(self) -> None:
        """The program is gone."""
        self.is_over = True
        self._timer.cancel()
        self._outbound.forget(self)

    def writable(self, *, ready: bool) -> None:
        """Nothing is being sent."""
