"""The inbound side: mutual TLS from the callers, decided per connection or per request, on to the workload.

The listener's port, and nothing the caller says, names the service and port of a request. At L4 the decision
precedes the connection to the workload, so that a server that speaks first speaks to nobody who is not allowed.
"""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
import functools
import time
from collections.abc import Callable

from enforcer.native import answer, serial
from enforcer.native.exchange import HttpConnection
from enforcer.native.http1 import RequestHead
from enforcer.native.judge import Judgement, denied
from enforcer.native.l4 import Splice
from enforcer.native.limits import DEFAULT, SHED, Limits, Load
from enforcer.native.parting import Parting
from enforcer.native.ports import handles_of, serve
from enforcer.native.records import Contact, Waiting, end
from enforcer.native.spans import Span, Tracer, forwarded
from enforcer.native.stream import PlainStream, SecureStream
from enforcer.native.tokens import thumbprint
from enforcer.native.workload import Chain, Workload
from mesh.problems import Invalid
from mesh.x509svid import VerifiedSvid
from policyengine.tiers import PortTier

DIAL_SECONDS = 5
SILENT_SECONDS = 1
DRAIN = dt.timedelta(seconds=5)


@dataclasses.dataclass(slots=True)
class _Handshake:
    """A connection whose peer is not known yet."""

    stream: SecureStream
    ticks: int = 0


@dataclasses.dataclass(slots=True)
class _Live:
    """A connection whose peer is verified, until its SVID ``ends``."""

    stream: SecureStream
    chain: Chain
    contact: Contact
    ends: dt.datetime
    served: HttpConnection | Splice | None = None
    # while it is not known whether its requests are of one program or of many
    opening: _Opening | None = None
    # of a connection that was decided whole
    record: Waiting | None = None


class Inbound:
    """One inbound port of the workload."""

    def __init__(self, workload: Workload, *, port: int, app_port: int, limits: Limits = DEFAULT) -> None:
        self._workload, self.port, self._app_port = workload, port, app_port
        self.load = Load(limits)
        self._handshakes: dict[SecureStream, _Handshake] = {}
        self._live: dict[SecureStream, _Live] = {}
        self._server: asyncio.Server | None = None
        self._is_draining = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._turn: float | None = None
        self._now = workload.recent()
        self.handshakes = 0

    async def listen(self, address: str, handle: int | None = None) -> tuple[str, int]:
        """Open the port and return where it is; port 0 is any free one, and then is the port that policies name.

        Raises Invalid LM3014 when the address cannot be had.
        """
        self._loop = asyncio.get_running_loop()
        self._server = await serve(self._accept, address, self.port, handle)
        found = self._server.sockets[0].getsockname()
        self.port = self.port or found[1]
        return str(found[0]), int(found[1])

    def close(self) -> None:
        """Close the port and everything that came through it."""
        if self._server is not None:
            self._server.close()
        for stream in (*self._handshakes, *self._live):
            stream.abort()

    @property
    def handles(self) -> list[int]:
        """The socket that it listens on."""
        return handles_of([self._server] if self._server is not None else [])

    @property
    def is_idle(self) -> bool:
        """Whether nothing is left of what came through the port."""
        return not self._handshakes and not self._live

    @property
    def is_asked(self) -> bool:
        """Whether a caller waits for something: for its handshake, or for the answer to a request."""
        served = [live.served for live in self._live.values()]
        return bool(self._handshakes) or any(isinstance(one, HttpConnection) and one.is_busy for one in served)

    def drain(self) -> None:
        """Take nothing new; what is there goes on, and kept-alive connections are told to end with an answer."""
        self._is_draining = True
        if self._server is not None:
            self._server.close()
            self._server = None
        for live in self._live.values():
            if isinstance(live.served, HttpConnection):
                live.served.drain()

    def tick(self) -> None:
        """Let a second pass.

        1. A handshake that takes too long ends; what was shed is told.
        2. A connection ends with the SVID that its peer proved itself with; one that waits for its next request is
           closed a little before, so that none is cut off.
        """
        # (1)
        for handshake in list(self._handshakes.values()):
            handshake.ticks += 1
            if handshake.ticks > self.load.limits.handshake_s:
                handshake.stream.abort()
        for code, (count, peer_ip) in self.load.take_shed().items():
            self._workload.signals.shed(code, count)
            self._record_refusal(code, {"connections": count}, peer_ip)
        # (2)
        now = self._workload.now()
        for live in list(self._live.values()):
            if now > live.ends:
                live.stream.abort()
            elif isinstance(live.served, HttpConnection):
                live.served.tick(is_ending=live.ends - now <= DRAIN)
            elif live.opening is not None:
                live.opening.tick()

    def recheck_peers(self) -> None:
        """Close the connections of peers that the present bundles do not vouch for."""
        identity = self._workload.identity
        for live in list(self._live.values()):
            try:
                if identity is None or str(identity.verify(live.chain).spiffe_id) != live.contact.caller:
                    live.stream.abort()
            except Invalid:
                live.stream.abort()

    def recheck_decisions(self) -> None:
        """Close the connections, undecided since they began, that the present policies deny.

        1. A port whose requests are to be decided serves no connection that was let through whole.
        2. What is let through whole must be allowed now, a WebSocket by the request that asked for it.
        """
        tier = self._workload.judge.tier(self.port)
        for live in list(self._live.values()):
            if isinstance(live.served, HttpConnection):
                if tier is PortTier.ENVOY:
                    live.stream.abort()
                else:
                    live.served.recheck()
                continue
            if isinstance(live.stream.sink, Parting):
                continue  # it was denied, and is told so in a moment
            # (2)
            judgement = self._judge_connection(live.contact)
            if not judgement.decision.is_allowed:
                self._record(live.contact, judgement)
                live.stream.abort()
            # (1)
            elif tier is not PortTier.L4:
                live.stream.abort()

    # -- handshake

    def _accept(self) -> asyncio.Protocol:
        """Take a connection.

        1. One that not even the reserve has room for is closed, before it costs a handshake.
        2. Too many handshakes at once: the oldest gives way, since those that mean it take milliseconds.
        """
        identity = self._workload.identity
        # (1)
        if identity is None or self.load.is_full(len(self._handshakes)):
            return _Closer(self.load, "LM3012" if identity is None else "LM3303")
        # (2)
        if len(self._handshakes) >= self.load.limits.handshakes:
            oldest = next(iter(self._handshakes))
            del self._handshakes[oldest]
            self.load.shed("LM3306", oldest.peer[0])
            oldest.abort()
        stream = SecureStream(
            identity.server,
            server_side=True,
            verify=functools.partial(self._workload.admit, identity),
            recall=identity.recall,
            secured=self._secured,
            refused=self._refused,
            traffic=self._workload.signals.inbound,
        )
        self._handshakes[stream] = _Handshake(stream)
        return stream

    def _refused(self, stream: SecureStream, problem: Invalid) -> None:
        """Record a peer that has no identity here: not TLS, no certificate, or one that our verifier refused."""
        if self._handshakes.pop(stream, None) is None:
            return
        self._workload.signals.handshake("inbound", problem.code)
        facts: dict[str, object] = {key: str(value)[:256] for key, value in problem.facts.items()}
        self._record_refusal(problem.code, facts, stream.peer[0])

    def _secured(self, stream: SecureStream, peer: VerifiedSvid) -> None:
        """Serve a verified peer; one too many is told so where requests are read, and else closed.

        1. Where requests are decided, the connection is read as HTTP/1.1.
        2. Elsewhere the connection is decided now.
        3. One that is let through is joined with the workload, which is called only then. On a port that is declared to
           speak HTTP the caller's first bytes say whether it is one program's alone (`_Opening`).
        """
        self._handshakes.pop(stream, None)
        self.handshakes += 1
        self._workload.signals.handshake("inbound")
        contact = self._contact(stream, str(peer.spiffe_id), f"{peer.serial:x}")
        live = _Live(stream, stream.chain, contact, peer.not_after)
        self._live[stream] = live
        refusal = self.load.enter(str(peer.spiffe_id))
        # (1)
        if self._workload.judge.tier(self.port) is PortTier.HTTP1:
            self.read(live, refusal)
            return
        # (2)
        judgement = self._judge_connection(contact) if refusal is None else self._refusal(refusal.code)
        if not judgement.decision.is_allowed:
            self._record(contact, judgement)
            if refusal is not None:
                self._workload.signals.shed(refusal.code)
            outcome = "denied" if refusal is None else "refused"
            self._workload.signals.request(self.port, contact.caller or "", outcome, None, None)
            if self._workload.waits_for_disk(stream.close, "" if refusal is None else refusal.code):
                stream.sink = Parting(stream, functools.partial(self.forget, stream))
            else:
                self.forget(stream)
                stream.close()
        # (3)
        elif self._workload.judge.is_http(self.port):
            live.opening = _Opening(self, live, judgement)
            stream.sink = live.opening
        else:
            self.join(live, judgement)

    def read(self, live: _Live, refusal: Invalid | None = None) -> None:
        """Read a caller's connection as HTTP/1.1, and decide each request."""
        identity = serial.identity_fields(self._workload.name, live.contact.caller or "")
        live.served = HttpConnection(live.stream, _Caller(self, live, refusal), identity, self.load.limits)
        if self._is_draining:
            live.served.drain()

    def join(self, live: _Live, judgement: Judgement, early: tuple[bytes, ...] = ()) -> None:
        """Record that a connection is let through whole, and call the workload for it; ``early`` is what has come."""
        self._record(live.contact, judgement)
        live.record = self.recorded
        self._workload.signals.request(self.port, live.contact.caller or "", "allowed", None, None)
        waiting = _Waiting(self, live, early)
        live.stream.sink = waiting
        live.stream.pause()
        self.dial(waiting.dialled)

    def _contact(self, stream: SecureStream, caller: str, serial: str) -> Contact:
        return Contact(
            direction="inbound",
            port=self.port,
            peer_ip=stream.peer[0],
            caller=caller,
            destination=self._workload.name,
            certificate=thumbprint(stream.chain[0]) if stream.chain else "",
            serial=serial,
        )

    # -- the workload

    def dial(self, connected: Callable[[PlainStream | None], None]) -> None:
        """Connect to the workload; tell the stream, or None."""
        self._workload.start(self._dial(connected), lambda: connected(None))

    async def _dial(self, connected: Callable[[PlainStream | None], None]) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(DIAL_SECONDS):
                _, stream = await loop.create_connection(PlainStream, "127.0.0.1", self._app_port)
        except (OSError, TimeoutError):
            connected(None)
        else:
            connected(stream)

    def splice(self, live: _Live, app: PlainStream) -> None:
        """Join a caller that is allowed with the workload."""

        def done(splice: Splice) -> None:
            end(live.record, None, *splice.moved)
            self.forget(live.stream)

        live.served = Splice(live.stream, app, done)
        app.resume()

    def forget(self, stream: SecureStream) -> None:
        """Let go of a connection that is gone."""
        live = self._live.pop(stream, None)
        if live is not None:
            live.served = None  # it holds what holds the stream
            self.load.leave(live.contact.caller or "")

    # -- decisions

    def _judge_connection(self, contact: Contact) -> Judgement:
        return self._workload.judge.connection(
            source=contact.caller or "",
            port=self.port,
            peer_ip=contact.peer_ip,
            now=self._workload.decision_time(),
        )

    def judge_request(self, contact: Contact, head: RequestHead) -> tuple[Judgement, str]:
        """Decide about a request and record it."""
        now = self._moment()
        begin = time.perf_counter()
        judgement = self._judge_request(contact, head, now)
        took = int((time.perf_counter() - begin) * 1e6)
        return judgement, self._record_request(contact, judgement, head, now, took)

    def _moment(self) -> dt.datetime:
        """The present moment, one for all requests of the same turn of the event loop: its own time says which."""
        turn = self._loop.time() if self._loop is not None else None
        if turn is None or turn != self._turn:
            self._turn, self._now = turn, self._workload.now()
        return self._now

    def count(self, contact: Contact, outcome: str, status: int | None, seconds: float | None) -> None:
        """Count a request for Prometheus."""
        self._workload.signals.request(self.port, contact.caller or "", outcome, status, seconds)

    def shed(self, code: str) -> None:
        """Count a request that was not taken on for want of room."""
        self._workload.signals.shed(code)

    @property
    def tracer(self) -> Tracer | None:
        """What makes spans of requests; None where nobody asked for them."""
        return self._workload.tracer

    def takes_websocket(self) -> bool:
        """Whether requests on the port may become WebSockets."""
        return self._workload.judge.takes_websocket(self.port)

    def reads_field(self, name: str) -> bool:
        """Whether policies read a field of this lower-case name."""
        return self._workload.judge.reads_field(name)

    def judge_again(self, contact: Contact, head: RequestHead) -> bool:
        """Whether a request would be let through now; record it if not."""
        now = self._workload.now()
        judgement = self._judge_request(contact, head, now)
        if not judgement.decision.is_allowed:
            self._record_request(contact, judgement, head, now)
        return judgement.decision.is_allowed

    def _judge_request(self, contact: Contact, head: RequestHead, now: dt.datetime) -> Judgement:
        return self._workload.judge.request(
            head,
            source=contact.caller or "",
            port=self.port,
            peer_ip=contact.peer_ip,
            now=self._workload.decision_time(now),
            certificate=contact.certificate,
        )

    def _record_request(
        self, contact: Contact, judgement: Judgement, head: RequestHead, now: dt.datetime, took: int | None = None
    ) -> str:
        return self._workload.recorder.decision(
            contact,
            judgement,
            now=now,
            protocol="http",
            method=head.method,
            host=head.host_name,
            target=head.target,
            latency_us=took,
        )

    @property
    def recorded(self) -> Waiting | None:
        """The record that was made last, to be told how what it is about went."""
        return self._workload.recorder.last

    def refuse_request(self, contact: Contact, problem: Invalid) -> str:
        """Record a request that broke a rule of HTTP, or could not be served."""
        judgement = self._refusal(problem.code)
        return self._workload.recorder.decision(contact, judgement, now=self._workload.now(), protocol="http")

    def waits_for_disk(self, answer: Callable[[], None], code: str) -> bool:
        """Whether an answer has to wait until what was recorded last is on a disk; it is called then."""
        return self._workload.waits_for_disk(answer, code)

    def exchanged(self, contact: Contact, head: RequestHead, judgement: Judgement, status: int | None) -> None:
        """Count an exchange."""
        self._workload.recorder.flow(
            contact,
            judgement.decision,
            now=self._workload.recent(),
            protocol="http",
            method=head.method,
            path=judgement.path,
            status=status,
        )

    def _refusal(self, code: str) -> Judgement:
        return Judgement(denied(code, self._workload.judge.snapshot), None, "", "")

    def _record_refusal(self, code: str, facts: dict[str, object], peer_ip: str) -> None:
        """Record what happened to somebody who has no identity here."""
        contact = Contact(
            direction="inbound", port=self.port, peer_ip=peer_ip, destination=self._workload.name, facts=facts
        )
        self._record(contact, self._refusal(code))

    def _record(self, contact: Contact, judgement: Judgement) -> None:
        now = self._workload.now()
        self._workload.recorder.decision(contact, judgement, now=now, protocol="tcp")
        self._workload.recorder.flow(contact, judgement.decision, now=now, protocol="tcp")


class _Closer(asyncio.Protocol):
    """Takes a connection that cannot be served, and closes it."""

    def __init__(self, load: Load, code: str) -> None:
        self._load, self._code = load, code

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        peer = transport.get_extra_info("peername")
        self._load.shed(self._code, str(peer[0]) if isinstance(peer, tuple) else "")
        transport.close()


class _Caller:
    """What an HTTP connection needs of its listener, for one verified peer."""

    __slots__ = ("_inbound", "_live", "_load", "_record", "_refusal", "_span", "_started")

    def __init__(self, inbound: Inbound, live: _Live, refusal: Invalid | None) -> None:
        self._inbound, self._live, self._refusal = inbound, live, refusal
        # of the request that is being served: there is one at a time
        self._span: Span | None = None
        self._started: float | None = None
        self._record: Waiting | None = None
        self._load = inbound.load

    def refusal(self) -> Invalid | None:
        return self._refusal or self._load.refusal

    def judge(self, head: RequestHead) -> tuple[Judgement, str]:
        self._started = time.perf_counter()
        tracer = self._inbound.tracer
        self._span = None if tracer is None else tracer.begin(head)
        found = self._inbound.judge_request(self._live.contact, head)
        self._record = self._inbound.recorded
        return found

    def forwarded(self, head: RequestHead) -> RequestHead:
        return head if self._span is None else forwarded(self._span, head)

    def takes_websocket(self) -> bool:
        return self._inbound.takes_websocket()

    def reads_field(self, name: str) -> bool:
        return self._inbound.reads_field(name)

    def judge_again(self, head: RequestHead) -> bool:
        return self._inbound.judge_again(self._live.contact, head)

    def refuse(self, problem: Invalid) -> str:
        if self._started is None:
            status = answer.status_of(problem.code)[0]
            self._inbound.count(self._live.contact, "refused", status, None)
            if problem.code in SHED:
                self._inbound.shed(problem.code)
        return self._inbound.refuse_request(self._live.contact, problem)

    def waits_for_disk(self, answer: Callable[[], None], code: str = "") -> bool:
        return self._inbound.waits_for_disk(answer, code)

    def exchanged(self, head: RequestHead, judgement: Judgement, status: int | None, length: int | None = None) -> None:
        record, self._record = self._record, None
        end(record, status, head.declared_length, length)
        self._inbound.exchanged(self._live.contact, head, judgement, status)
        started, self._started = self._started, None
        seconds = None if started is None else time.perf_counter() - started
        outcome = "allowed" if judgement.decision.is_allowed else "denied"
        self._inbound.count(self._live.contact, outcome, status, seconds)
        span, self._span = self._span, None
        tracer = self._inbound.tracer
        if span is not None and tracer is not None:
            tracer.end(span, head, judgement, self._live.contact, status)

    def later(self, work: Callable[[], None]) -> None:
        asyncio.get_running_loop().call_soon(work)

    def dial(self, connected: Callable[[PlainStream | None], None]) -> None:
        self._inbound.dial(connected)

    def gone(self, connection: HttpConnection) -> None:  # noqa: ARG002  the protocol's name
        self._inbound.forget(self._live.stream)


class _Opening:
    """An allowed caller that has said nothing yet, on a port that speaks HTTP and is decided whole; a `Sink`.

    A calling side that carries many programs' requests over one connection says so in the first of them
    (`serial.is_marked`). Those are read one by one, each on a connection to the workload that its program alone uses.
    Whoever says anything else, or nothing for a second, is joined with the workload.
    """

    __slots__ = ("_inbound", "_judgement", "_live", "_ticks")

    def __init__(self, inbound: Inbound, live: _Live, judgement: Judgement) -> None:
        self._inbound, self._live, self._judgement = inbound, live, judgement
        self._ticks = 0

    def received(self, data: bytes) -> None:
        if serial.is_marked(data):
            self._live.opening = None
            self._inbound.read(self._live)
            sink = self._live.stream.sink
            assert sink is not None
            sink.received(data)
        else:
            self._join(data)

    def ended(self) -> None:
        self._join(b"")

    def lost(self) -> None:
        self._inbound.forget(self._live.stream)

    def writable(self, *, ready: bool) -> None:
        """Nothing is being sent."""

    def tick(self) -> None:
        """Let a second pass."""
        self._ticks += 1
        if self._ticks > SILENT_SECONDS:
            self._join()

    def _join(self, *early: bytes) -> None:
        self._live.opening = None
        self._inbound.join(self._live, self._judgement, early)


class _Waiting:
    """An allowed caller while the workload is being called; a `Sink` that takes nothing."""

    __slots__ = ("_early", "_inbound", "_is_lost", "_live")

    def __init__(self, inbound: Inbound, live: _Live, early: tuple[bytes, ...] = ()) -> None:
        self._inbound, self._live = inbound, live
        self._is_lost = False
        self._early = [*early]

    def received(self, data: bytes) -> None:
        self._early.append(data)

    def ended(self) -> None:
        self._early.append(b"")

    def lost(self) -> None:
        self._is_lost = True
        self._inbound.forget(self._live.stream)

    def writable(self, *, ready: bool) -> None:
        """Nothing is being sent."""

    def dialled(self, app: PlainStream | None) -> None:
        if self._is_lost or app is None:
            if app is not None:
                app.abort()
            self._live.stream.abort()
            return
        self._inbound.splice(self._live, app)
        sink = self._live.stream.sink
        for data in self._early:
            if sink is not None and data:
                sink.received(data)
            elif sink is not None:
                sink.ended()
        self._live.stream.resume()
