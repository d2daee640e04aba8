"""The outbound side: loopback ports on which the workload reaches the services it calls.

Every new connection is held until the agent has said who is behind it; without an answer it is refused. Then the
sidecar connects, by mutual TLS, to an endpoint of the called service, and only if the endpoint's verified
identity is one of that service's are the two joined. Another endpoint is tried only before a byte has moved.
"""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
import re
import time
from collections.abc import Callable, Sequence

from enforcer.native import answer
from enforcer.native.judge import Judgement, denied
from enforcer.native.l4 import Splice
from enforcer.native.records import Contact
from enforcer.native.stream import PlainStream, SecureStream
from enforcer.native.workload import Identity, Workload
from mesh.problems import Invalid
from mesh.x509svid import VerifiedSvid

ATTEST_SECONDS = 5
# how long a connection is held while the agent is being started again
AWAY_SECONDS = 30
CONNECT_SECONDS = 3
RETRY_SECONDS = 5
REPLY_SECONDS = 1
MAX_CONNECTIONS = 4096

_LOOKS_LIKE_HTTP = re.compile(rb"[A-Z]{3,16} [^\s]")


@dataclasses.dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a workload's inbound port can be reached."""

    spiffe_id: str
    address: str
    port: int


class Endpoints:
    """The reachable endpoints, in turns; one that failed rests for a while."""

    def __init__(self) -> None:
        self._all: tuple[Endpoint, ...] = ()
        self._turn = 0
        self._failed: dict[Endpoint, float] = {}

    def replace(self, found: Sequence[Endpoint], *, keeps: bool = False) -> None:
        """Take the present list, or with ``keeps`` a part of it, beside what is known."""
        self._all = tuple(dict.fromkeys([*(self._all if keeps else ()), *found]))
        self._failed = {endpoint: at for endpoint, at in self._failed.items() if endpoint in self._all}

    def failed(self, endpoint: Endpoint, now: float) -> None:
        """Let an endpoint rest."""
        self._failed[endpoint] = now

    def order(self, is_member: Callable[[str], bool], port: int | None, now: float) -> tuple[Endpoint, ...]:
        """The endpoints of a service in the order in which to try them: rested ones in turns, then the others."""
        found = [e for e in self._all if (port is None or e.port == port) and is_member(e.spiffe_id)]
        if not found:
            return ()
        self._turn += 1
        start = self._turn % len(found)
        turned = found[start:] + found[:start]
        tired = {e for e in turned if now - self._failed.get(e, -RETRY_SECONDS) < RETRY_SECONDS}
        return (*(e for e in turned if e not in tired), *(e for e in turned if e in tired))


class Outbound:
    """One local port that stands for a called service."""

    def __init__(
        self,
        workload: Workload,
        endpoints: Endpoints,
        ask: Callable[[Held], None],
        is_away: Callable[[], bool],
        *,
        local_port: int,
        service: str,
        port: int | None,
    ) -> None:
        self._workload, self._endpoints, self._ask, self.is_away = workload, endpoints, ask, is_away
        self.local_port, self.service, self.port = local_port, service, port
        self._held: set[Held] = set()
        # with the end of the SVID that the other side proved itself with
        self._joined: dict[Splice, tuple[SecureStream, dt.datetime]] = {}
        self._server: asyncio.Server | None = None

    async def listen(self) -> int:
        """Open the port on loopback and return it; port 0 is any free one.

        Raises Invalid LM3014 when the port cannot be had.
        """
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(self._accept, "127.0.0.1", self.local_port, backlog=1024)
        except OSError as err:
            where = f"127.0.0.1:{self.local_port}"
            raise Invalid("LM3014", address=where, reason=err.strerror or "in use") from err
        self.local_port = int(self._server.sockets[0].getsockname()[1])
        return self.local_port

    def close(self) -> None:
        """Close the port and everything that came through it."""
        if self._server is not None:
            self._server.close()
        for held in list(self._held):
            held.stream.abort()
        for splice in list(self._joined):
            splice.abort()

    def tick(self) -> None:
        """Let a second pass: a connection ends with the SVID that its other end proved itself with."""
        now = self._workload.now()
        for splice, (_, ends) in list(self._joined.items()):
            if now > ends:
                splice.abort()

    def recheck(self) -> None:
        """Close the connections whose other end is, by now, not vouched for or not of the called service."""
        for splice, (stream, _) in list(self._joined.items()):
            try:
                self._verify(self._workload.require_identity(), stream.chain)
            except Invalid:
                splice.abort()

    def _accept(self) -> asyncio.Protocol:
        return PlainStream(self._connected)

    def _connected(self, stream: PlainStream) -> None:
        """Hold a new connection and ask who is behind it."""
        if len(self._held) + len(self._joined) >= MAX_CONNECTIONS:
            stream.abort()
            return
        stream.pause()
        held = Held(self, stream, time.monotonic_ns())
        self._held.add(held)
        self._ask(held)

    # -- what a held connection asks for

    def connect(self, held: Held) -> None:
        """Reach the service for a connection whose process is the workload's."""
        self._workload.start(self._connect(held))

    def forget(self, held: Held) -> None:
        """Let go of a held connection."""
        self._held.discard(held)

    def refused(self, held: Held, code: str, facts: dict[str, object]) -> str:
        """Record a refusal; return the record's id."""
        contact = Contact(
            direction="outbound",
            port=self.port or 0,
            peer_ip=held.stream.peer[0],
            caller=self._workload.name,
            destination=self.service,
            facts={**facts, "source_port": held.stream.peer[1], "local_port": self.local_port},
        )
        judgement = Judgement(denied(code, self._workload.judge.snapshot), None, "", "")
        return self._workload.recorder.decision(contact, judgement, now=self._workload.now(), protocol="tcp")

    async def _connect(self, held: Held) -> None:
        """Try the service's endpoints.

        1. Only endpoints that the registry gives to an identity of the service are tried.
        2. The identity that counts is the one in the endpoint's verified certificate.
        3. The next endpoint is tried only because nothing has been sent to the last one.
        """
        problem = Invalid("LM3221", service=self.service)
        # (1)
        for endpoint in self._endpoints.order(self._is_member, self.port, time.monotonic()):
            try:
                async with asyncio.timeout(CONNECT_SECONDS):
                    secure, peer = await self._secure(endpoint)
            except Invalid as err:
                problem = err
            except (OSError, TimeoutError):
                problem = Invalid("LM3223", service=self.service)
            else:
                self._join(held, secure, peer.not_after)
                return
            # (3)
            self._endpoints.failed(endpoint, time.monotonic())
            if held.is_over:
                return
        held.refuse(problem.code, problem.facts)

    async def _secure(self, endpoint: Endpoint) -> tuple[SecureStream, VerifiedSvid]:
        """Connect to an endpoint and know who it is.

        Raises Invalid (LM3020, LM3222, or the verifier's code), OSError.
        """
        loop = asyncio.get_running_loop()
        identity = self._workload.require_identity()
        verified: asyncio.Future[tuple[SecureStream, VerifiedSvid]] = loop.create_future()

        def secured(stream: SecureStream, peer: VerifiedSvid) -> None:
            stream.pause()
            if not verified.done():
                verified.set_result((stream, peer))

        def refused(_: SecureStream, problem: Invalid) -> None:
            if not verified.done():
                verified.set_exception(problem)

        _, stream = await loop.create_connection(
            # (2)
            lambda: SecureStream(
                identity.client,
                server_side=False,
                verify=lambda chain: self._verify(identity, chain),
                secured=secured,
                refused=refused,
            ),
            endpoint.address,
            endpoint.port,
        )
        try:
            return await verified
        except BaseException:
            stream.abort()
            raise

    def _verify(self, identity: Identity, chain: tuple[bytes, ...]) -> VerifiedSvid:
        """Say who is at the other end, and that it is of the called service."""
        peer = identity.verify(chain)
        if not self._is_member(str(peer.spiffe_id)):
            raise Invalid("LM3222", service=self.service, spiffe_id=str(peer.spiffe_id))
        return peer

    def _is_member(self, identity: str) -> bool:
        return self._workload.judge.is_member(identity, self.service)

    def _join(self, held: Held, secure: SecureStream, ends: dt.datetime) -> None:
        self._held.discard(held)
        if held.is_over:
            secure.abort()
            return
        held.is_over = True
        splice = Splice(held.stream, secure, self._parted)
        self._joined[splice] = (secure, ends)
        held.stream.resume()
        secure.resume()

    def _parted(self, splice: Splice) -> None:
        self._joined.pop(splice, None)


class Held:
    """A connection that waits for the agent's word, then for the service; a `Sink` that takes nothing yet."""

    def __init__(self, outbound: Outbound, stream: PlainStream, accepted_ns: int) -> None:
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
        record = self._outbound.refused(self, code, facts)
        self._reply = answer.problem(code, facts, record=record)
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
