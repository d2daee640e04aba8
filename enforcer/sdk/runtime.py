"""The enforcer inside a program: identity, decisions and records, kept current by a thread that talks to the agent.

It begins when `connect` is called and belongs to the process that called it: workers that are forked call it
themselves, and what a parent had decides nothing in a child. All of it may be used from any thread and event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import logging
import os
import threading
import weakref
from collections.abc import Callable

from enforcer.native.endpoints import Endpoint
from enforcer.native.http1 import RequestHead
from enforcer.native.judge import Judge, Judgement, denied
from enforcer.native.records import Contact
from enforcer.native.sentences import sentence
from enforcer.native.tokens import thumbprint
from enforcer.native.workload import Workload
from enforcer.sdk.channel import Channel
from enforcer.sdk.context import Chain, CheckedObject, CheckedSocket, Gate, RenewingContext
from mesh.clock import Clock, SystemClock
from mesh.flow import FlowProtocol
from mesh.problems import Forbidden, Invalid, Problem, Unavailable
from mesh.x509svid import VerifiedSvid
from policyengine.tiers import PortTier

SOCKET = "LIMEN_SDK_SOCKET"
WAIT_S = 30.0
# nothing is begun on a connection that has no longer than this
DRAIN = dt.timedelta(seconds=15)
log = logging.getLogger("limen.sdk")
_everybody: weakref.WeakSet[Limen] = weakref.WeakSet()


class Limen:
    """The enforcer inside this program."""

    def __init__(self, path: str, clock: Clock) -> None:
        self._path, self._clock = path, clock
        self._told = threading.Event()
        self._channel: Channel | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._gates: weakref.WeakSet[Gate] = weakref.WeakSet()
        self._watchers: list[Callable[[], None]] = []
        self._thread = threading.Thread(target=self._run, name="limen-sdk", daemon=True)
        _everybody.add(self)

    # -- life

    def start(self, timeout_s: float) -> None:
        """Be told identity and policies. Raises Forbidden with the agent's code, Unavailable LM3464."""
        self._thread.start()
        is_told = self._told.wait(timeout_s)
        channel = self._channel
        if channel is not None and channel.problem is not None and not channel.is_told:
            problem = channel.problem
            self.close()
            raise problem
        if not is_told:
            self.close()
            raise Unavailable("LM3464", seconds=f"{timeout_s:g}")

    def close(self) -> None:
        """Hand over what is left to tell, and stop. Contexts make no further connection."""
        channel, loop = self._channel, self._loop
        if channel is None or loop is None or not self._thread.is_alive():
            return
        with contextlib.suppress(RuntimeError):
            asyncio.run_coroutine_threadsafe(channel.leave(), loop)
        self._thread.join()
        channel.workload.identity = None

    def _run(self) -> None:
        with asyncio.Runner() as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as tasks:
            self._channel = channel = Channel(self._clock, tasks, self._path, self._changed)
            kept = [tasks.create_task(channel.stay()), tasks.create_task(channel.run_ticks())]
            await channel.over
            for task in kept:
                task.cancel()

    def _changed(self) -> None:
        channel = self._channel
        if channel is None:
            return
        if channel.is_told or channel.problem is not None:
            self._told.set()
        if not channel.is_told:
            return
        for gate in [*self._gates]:
            gate.recheck()
        for watcher in [*self._watchers]:
            watcher()

    def abandon(self) -> None:
        """What a forked process does with its parent's: deny."""
        if self._channel is not None:
            self._channel.abandon()

    def watch(self, watcher: Callable[[], None]) -> None:
        """Call something, on a thread of ours, whenever identity, bundles, policies or time may have changed."""
        self._watchers.append(watcher)

    def unwatch(self, watcher: Callable[[], None]) -> None:
        """Do not call it any more."""
        self._watchers.remove(watcher)

    # -- what is known

    def _known(self) -> Channel:
        assert self._channel is not None
        return self._channel

    @property
    def workload(self) -> Workload:
        """The identity and the rules of this moment."""
        return self._known().workload

    @property
    def spiffe_id(self) -> str:
        """Who this program is."""
        return self.workload.name

    @property
    def snapshot(self) -> str:
        """The hash of the policies that decide; empty without any."""
        return self.workload.judge.snapshot

    @property
    def serves(self) -> tuple[tuple[str, int], ...]:
        """The addresses and ports of `limen run --sdk --inbound`, at which others look for this program."""
        return self._known().serves

    def places(self, service: str, port: int | None, now: float) -> tuple[Endpoint, ...]:
        """Where a called service is, in the order to try; ``now`` is in monotonic seconds."""
        judge = self.workload.judge
        return self._known().endpoints.order(lambda found: judge.is_member(found, service), port, now)

    def failed(self, endpoint: Endpoint, now: float) -> None:
        """Let a place rest that could not be reached."""
        self._known().endpoints.failed(endpoint, now)

    def staleness(self, service: str) -> Callable[[CheckedObject | CheckedSocket | None], bool]:
        """Says of a connection that is made now, whenever it is asked, that nothing new is to begin on it.

        It was made with another SVID or other bundles, other rules speak of the service by now, or one of the two SVIDs
        is about to end.
        """
        workload = self.workload
        identity, judge = workload.identity, workload.judge

        def is_stale(tls: CheckedObject | CheckedSocket | None) -> bool:
            if tls is None or tls.is_cut or tls.peer is None or identity is None or workload.identity is not identity:
                return True
            ends = min(tls.peer.not_after, identity.svid.not_after)
            return workload.now() > ends - DRAIN or not workload.judge.says_the_same(judge, service)

        return is_stale

    # -- TLS

    def server_context(self, *, port: int | None = None) -> RenewingContext:
        """The context of the side that accepts: any verified peer of our bundles.

        With ``port``, the port that policies name, connections are decided and recorded too, at their beginning and
        while they last: for servers whose protocol nothing here reads. Servers of requests decide those instead.
        """
        return self._context(_Caller(self, port), is_server=True)

    def client_context(self, service: str) -> RenewingContext:
        """The context of the side that connects to a called service, a name of the policies or a SPIFFE ID.

        A peer that is not of that service completes no handshake.
        """
        return self._context(_Called(self, service), is_server=False)

    def _context(self, door: _Caller | _Called, *, is_server: bool) -> RenewingContext:
        gate = Gate(self.workload, door.admit, door.refused)
        self._gates.add(gate)
        return RenewingContext(self.workload, gate, is_server=is_server)

    def verify(self, chain: Chain) -> VerifiedSvid:
        """Say who presented a chain. Raises Invalid with the rule that it breaks, LM3012 without an identity."""
        return self.workload.require_identity().verify(chain)

    # -- decisions

    def contact(self, peer: str | None, port: int, peer_ip: str, chain: Chain = ()) -> Contact:
        """Who spoke to which port of this program."""
        return Contact(
            direction="inbound",
            port=port,
            peer_ip=peer_ip,
            caller=peer,
            destination=self.spiffe_id,
            certificate=thumbprint(chain[0]) if chain else "",
        )

    def judge_request(self, contact: Contact, head: RequestHead, *, is_grpc: bool = False) -> tuple[Judgement, str]:
        """Decide about a request and record it; where no rule reads requests, about its connection."""
        workload, channel = self.workload, self._known()
        now = workload.now()
        with channel.lock:
            judgement = _request(workload.judge, contact, head, workload.decision_time(now), is_grpc=is_grpc)
            protocol: FlowProtocol = "grpc" if is_grpc else "http"
            name = channel.recorder.decision(
                contact, judgement, now=now, protocol=protocol, method=head.method, host=head.host_name,
                target=head.target,
            )  # fmt: skip
        self._say(judgement, contact, name)
        return judgement, name

    def still_allows_request(self, contact: Contact, head: RequestHead, *, is_grpc: bool = False) -> bool:
        """Whether a request that was let through would be now; recorded if not."""
        workload, channel = self.workload, self._known()
        with channel.lock:
            judgement = _request(workload.judge, contact, head, workload.decision_time(), is_grpc=is_grpc)
        if judgement.decision.is_allowed:
            return True
        return self.judge_request(contact, head, is_grpc=is_grpc)[0].decision.is_allowed

    def judge_connection(self, contact: Contact) -> tuple[Judgement, str]:
        """Decide about a connection and record it; a port whose requests are decided lets none through whole."""
        workload = self.workload
        now = workload.now()
        judge = workload.judge
        if judge.tier(contact.port) is PortTier.HTTP1:
            judgement = Judgement(denied("LM3202", judge.snapshot), None, "", "")
        else:
            judgement = _connection(judge, contact, workload.decision_time(now))
        self.count(contact, outcome_of(judgement))
        return judgement, self._record(contact, judgement, now)

    def still_allows(self, contact: Contact) -> bool:
        """Whether a connection that was let through whole would be now; recorded if not."""
        workload = self.workload
        judge, now = workload.judge, workload.now()
        if judge.tier(contact.port) is PortTier.HTTP1:
            return False
        judgement = _connection(judge, contact, workload.decision_time(now))
        if not judgement.decision.is_allowed:
            self._record(contact, judgement, now)
        return judgement.decision.is_allowed

    def refuse(self, contact: Contact, problem: Invalid, protocol: FlowProtocol = "tcp") -> str:
        """Record what was refused before any rule was asked; return the record's id."""
        judgement = Judgement(denied(problem.code, self.snapshot), None, "", "")
        return self._record(contact, judgement, self.workload.now(), protocol)

    def count(self, contact: Contact, outcome: str, status: int | None = None, seconds: float | None = None) -> None:
        """Count a request, or a connection that is decided whole, for Prometheus: the agent serves what it is told.

        ``outcome`` is allowed, denied, or refused before anybody decided; ``seconds`` is how long its answer took.
        """
        channel = self._known()
        with channel.lock:
            channel.workload.signals.request(contact.port, contact.caller or "", outcome, status, seconds)

    def count_handshake(self, direction: str, code: str = "") -> None:
        """Count a handshake that succeeded, or failed with a code."""
        channel = self._known()
        with channel.lock:
            channel.workload.signals.handshake(direction, code)

    def _record(self, contact: Contact, judgement: Judgement, now: dt.datetime, protocol: FlowProtocol = "tcp") -> str:
        channel = self._known()
        with channel.lock:
            name = channel.recorder.decision(contact, judgement, now=now, protocol=protocol)
            if protocol == "tcp":
                channel.recorder.flow(contact, judgement.decision, now=now, protocol=protocol)
        self._say(judgement, contact, name)
        return name

    def exchanged(
        self,
        contact: Contact,
        judgement: Judgement,
        *,
        protocol: FlowProtocol = "http",
        method: str | None = None,
        status: int | None = None,
    ) -> None:
        """Count an exchange."""
        channel = self._known()
        with channel.lock:
            channel.recorder.flow(
                contact,
                judgement.decision,
                now=self.workload.recent(),
                protocol=protocol,
                method=method,
                path=judgement.path,
                status=status,
            )

    def _say(self, judgement: Judgement, contact: Contact, record: str) -> None:
        """Log a denial: the code, who and where, and how to ask why. No path and no header, which may be secrets."""
        decision = judgement.decision
        if not decision.is_allowed:
            facts: dict[str, object] = {"policy": decision.policy, "rule": decision.rule, "tier": decision.tier}
            log.warning(
                "%s denied: %s; caller %s, port %d, decision %s: limen audit show %s",
                decision.code, sentence(decision.code, "message", facts) or "denied",
                contact.caller, contact.port, record, record,
            )  # fmt: skip


class _Caller:
    """Peers that come: all that are verified, or those that may connect to a port."""

    def __init__(self, limen: Limen, port: int | None) -> None:
        self._limen, self._port = limen, port

    def admit(self, peer: VerifiedSvid, chain: Chain, *, is_new: bool) -> None:
        """Decide where a port is given."""
        if is_new:
            self._limen.count_handshake("inbound")
        if self._port is None:
            return
        contact = self._limen.contact(str(peer.spiffe_id), self._port, "", chain)
        if is_new:
            judgement, _ = self._limen.judge_connection(contact)
            if not judgement.decision.is_allowed:
                raise _Decided(judgement.decision.code)
        elif not self._limen.still_allows(contact):
            raise Invalid("LM3465")

    def refused(self, problem: Invalid) -> None:
        """Record a peer that has no identity here."""
        if isinstance(problem, _Decided):
            return
        self._limen.count_handshake("inbound", problem.code)
        serves = self._limen.serves
        port = self._port or (serves[0][1] if len(serves) == 1 else 0)
        self._limen.refuse(self._limen.contact(None, port, ""), problem)


class _Called:
    """Peers that are called: those of one service."""

    def __init__(self, limen: Limen, service: str) -> None:
        self._limen, self._service = limen, service

    def admit(self, peer: VerifiedSvid, chain: Chain, *, is_new: bool) -> None:
        """Check the peer's name against the called service."""
        del chain
        if not self._limen.workload.judge.is_member(str(peer.spiffe_id), self._service):
            raise Invalid("LM3222", service=self._service, spiffe_id=str(peer.spiffe_id))
        if is_new:
            self._limen.count_handshake("outbound")

    def refused(self, problem: Invalid) -> None:
        """Record who was there instead."""
        self._limen.count_handshake("outbound", problem.code)
        facts: dict[str, object] = {key: str(value)[:256] for key, value in problem.facts.items()}
        contact = Contact(
            direction="outbound",
            port=0,
            peer_ip="",
            caller=self._limen.spiffe_id,
            destination=self._service,
            facts=facts,
        )
        self._limen.refuse(contact, problem)


class _Decided(Invalid):
    """A denial that is recorded already."""


def _request(judge: Judge, contact: Contact, head: RequestHead, now: dt.datetime | None, *, is_grpc: bool) -> Judgement:
    """Decide as the tier of the port says; gRPC, of which a sidecar reads nothing, is read here."""
    tier = judge.tier(contact.port)
    if tier is PortTier.L4 or (tier is PortTier.ENVOY and not is_grpc):
        return _connection(judge, contact, now)
    return judge.request(
        head,
        source=contact.caller or "",
        port=contact.port,
        peer_ip=contact.peer_ip,
        now=now,
        certificate=contact.certificate,
        is_grpc=is_grpc,
    )


def outcome_of(judgement: Judgement) -> str:
    """How a decision is counted."""
    return "allowed" if judgement.decision.is_allowed else "denied"


def _connection(judge: Judge, contact: Contact, now: dt.datetime | None) -> Judgement:
    return judge.connection(source=contact.caller or "", port=contact.port, peer_ip=contact.peer_ip, now=now)


def connect(*, path: str | None = None, timeout_s: float = WAIT_S, clock: Clock | None = None) -> Limen:
    """Begin to enforce inside this process; return when its SVID and its policies are there.

    ``path`` is the agent's socket, which `limen run --sdk` tells the program in LIMEN_SDK_SOCKET.
    Raises Forbidden LM3463 for a process that was not launched so, Unavailable LM3464 when nothing comes.
    """
    found = path or os.environ.get(SOCKET, "")
    if not found:
        raise Forbidden("LM3463")
    limen = Limen(found, clock or SystemClock())
    limen.start(timeout_s)
    return limen


def _forked() -> None:
    for limen in [*_everybody]:
        with contextlib.suppress(Problem, OSError):
            limen.abandon()


os.register_at_fork(after_in_child=_forked)
