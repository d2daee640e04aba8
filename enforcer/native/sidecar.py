"""The sidecar: does what the agent says, one message after the other.

Messages and their forms are the table below. A message that cannot be applied is answered with `failed` and changes
nothing: the last good identity and the last good policy stay. A stream that is malformed ends the process; with it
every connection closes (fail closed). When the agent is gone the sidecar goes on with what it was told, holds new
outbound connections, and comes back to the agent's successor (`enforcer.native.comeback`).
"""

from __future__ import annotations

import asyncio
import os
import resource
from collections.abc import Callable, Mapping
from typing import cast

from enforcer.egress import parse_exempt
from enforcer.health import parse_check
from enforcer.native import told, wire
from enforcer.native.comeback import Comeback
from enforcer.native.custom import CustomEngines
from enforcer.native.endpoints import Endpoint, Endpoints
from enforcer.native.healthdoor import HealthDoor
from enforcer.native.intercept import Intercept
from enforcer.native.judge import Judge, Rules
from enforcer.native.limits import Limits
from enforcer.native.listener import Inbound
from enforcer.native.memory import give_back_memory, resident_bytes
from enforcer.native.outbound import Held, Outbound
from enforcer.native.reach import Reach
from enforcer.native.records import Recorder
from enforcer.native.spans import Tracer
from enforcer.native.tokens import Tokens
from enforcer.native.workload import Identity, Workload
from mesh.clock import Clock, parse_time
from mesh.problems import Invalid, Problem
from mesh.spiffe import SpiffeId, SpiffeIdError, TrustDomain
from mesh.x509svid import X509Svid
from policyengine.model import PolicySet
from policyengine.wire import Kept, read_policy_set

TICK_SECONDS = 0.25
TICKS_PER_SECOND = 4
RECHECK_SECONDS = 2
FAREWELL_SECONDS = 2
MAX_UNSENT_BYTES = 8 * 1024 * 1024
MAX_IN_FLIGHT = 16
# how long a sidecar that is asked to end, and has no agent to name a bound, lets streams go on
DRAIN_SECONDS = 600


class Sidecar(asyncio.Protocol):
    """The sidecar's end of the conversation with its agent, and everything that hangs on it."""

    # what its records say that it is
    kind = "sidecar"

    def __init__(self, clock: Clock, tasks: asyncio.TaskGroup, back: str = "") -> None:
        self._comeback = Comeback(back)
        self._ready: wire.Message | None = None
        self._is_stopping = False
        # until when what is there may go on, in the loop's seconds, once nothing new is taken
        self._drains_until: float | None = None
        self._is_quieting = False
        self._trust = 0
        self._recorder = Recorder(self.kind, os.urandom)
        self._recorder.wake = self._wake
        self._is_waking = False
        self._workload = Workload(clock, self._recorder, tasks)
        self._decoder = wire.Decoder()
        self._endpoints = Endpoints()
        self._custom = CustomEngines()
        self._tokens = Tokens()
        self._released: tuple[tuple[str, PolicySet] | None, tuple[str, PolicySet] | None] = (None, None)
        self._rules: tuple[Rules | None, Rules | None] = (None, None)
        self._kept = Kept()
        self._limits = Limits()
        self._inbound: list[Inbound] = []
        self._outbound: list[Outbound] = []
        self._health: list[HealthDoor] = []
        self._intercept: Intercept | None = None
        self._held: dict[int, Held] = {}
        self._conn = 0
        self._epoch = -1
        self._counted = 0
        self._has_listeners = False
        self._transport: asyncio.Transport | None = None
        self.over = asyncio.get_running_loop().create_future()
        self._handlers: Mapping[str, Callable[[wire.Message], None]] = {
            "listeners": self._take_listeners,
            "identity": self._take_identity,
            "keys": self._take_keys,
            "policy": self._take_policy,
            "endpoints": self._take_endpoints,
            "tracing": self._take_tracing,
            "attested": self._take_attested,
            "ack": self._take_ack,
            "program": self._take_program,
            "drain": self._take_drain,
            "quiet": self._take_quiet,
            "stop": self._take_stop,
        }

    # -- the conversation

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, with the first agent or with its successor, who is told everything again; asyncio calls this."""
        self._transport = cast("asyncio.Transport", transport)  # a socket's transport writes too
        self._decoder = wire.Decoder()
        if self._ready is not None:
            self._introduce(self._ready)

    def _introduce(self, ready: wire.Message) -> None:
        self.send(ready)
        self.send({"type": "trusts", "trust": self._trust})
        if self._epoch >= 0:
            self.send({"type": "applied", "epoch": self._epoch, "snapshot": self._workload.judge.snapshot})
        self._counted = -1
        self._workload.signals.tell_again()
        for sequence, batch in self._recorder.unanswered():
            self._send_records(sequence, batch)
        for conn, held in self._held.items():
            if not held.is_over:
                held.asked()
                self._ask_about(conn, held)

    def data_received(self, data: bytes) -> None:
        """Take messages; asyncio calls this. A malformed stream ends the process."""
        try:
            messages = self._decoder.feed(data)
        except Invalid as err:
            self._fail(err)
            self._finish()
            return
        for message in messages:
            handler = self._handlers.get(str(message["type"]))
            try:
                if handler is None:
                    raise Invalid("LM3002", reason=f"`{message['type']}` is not spoken here")
                handler(message)
            except Problem as err:
                self._fail(err)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  asyncio's name
        """The agent is gone; asyncio calls this.

        Without ports or a program there is nothing to go on with, and at the end nobody to come back to.
        """
        self._transport = None
        if self._is_stopping or self._ready is None or not self._comeback.has_program or self.over.done():
            self._finish()
        else:
            self._workload.start(self._come_back())

    async def _come_back(self) -> None:
        if not await self._comeback.find_agent(self, self._is_of_use, self._handles):
            self._finish()

    def _is_of_use(self) -> bool:
        """Whether there is an SVID that has not ended: without one nothing can be served."""
        identity = self._workload.identity
        return identity is None or self._workload.now() < identity.svid.not_after

    def send(self, message: wire.Message) -> None:
        """Tell the agent something."""
        if self._transport is not None:
            self._transport.write(wire.encode(message))

    def _send_records(self, sequence: int, batch: list[str]) -> None:
        if self._transport is not None:
            message: wire.Message = {"type": "records", "sequence": sequence}
            self._transport.write(wire.encode_with(message, "records", batch))

    def _fail(self, problem: Problem) -> None:
        facts = {name: str(value)[:1024] for name, value in problem.facts.items()}
        self.send({"type": "failed", "code": problem.code, "facts": facts})

    def _finish(self) -> None:
        if not self.over.done():
            self.over.set_result(None)

    def close(self) -> None:
        """Close every port and connection."""
        self._close_ports()
        self._custom.close()
        if self._transport is not None:
            self._transport.close()

    def _handles(self) -> list[int]:
        """The sockets that it listens on, in the order in which the agent names ports; none while it drains."""
        return [handle for port in self._ports() for handle in port.handles]

    def _ports(self) -> list[Inbound | HealthDoor | Outbound | Intercept]:
        return [*self._inbound, *self._health, *self._ways_out()]

    def _close_ports(self) -> None:
        for port in self._ports():
            port.close()

    # -- what the agent says

    def _take_listeners(self, message: wire.Message) -> None:
        """Open the ports; once."""
        if self._has_listeners:
            raise Invalid("LM3013")
        self._has_listeners = True
        self._recorder.keeps_denials = message.get("keeps_denials") is True
        limits = Limits.from_json(told.mapping(message, "limits") if "limits" in message else {})
        self._limits = limits = limits.fitted(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        for row in told.rows(message, "inbound"):
            named, app_port = told.number(row, "port"), told.number(row, "app_port")
            inbound = Inbound(self._workload, port=named, app_port=app_port, limits=limits)
            self._inbound.append(inbound)
        for check in map(parse_check, map(str, told.items(message.get("health", [])))):
            self._health.append(HealthDoor(self._workload, check))
        for row in told.rows(message, "outbound"):
            port = None if row.get("port") is None else told.number(row, "port")
            way = self._way(
                told.text(row, "service"), port, told.number(row, "local_port"), pools=row.get("pools") is not False
            )
            self._outbound.append(way)
        if message.get("intercept") is not None:
            self._intercept = Intercept(
                self._workload,
                self._endpoints,
                self._ask,
                lambda: self._transport is None,
                port=told.number(message, "intercept"),
                exempt=[parse_exempt(str(text)) for text in told.items(message.get("egress"))],
                outbound=self._way,
            )
        self._workload.start(self._listen(message))

    def _way(self, service: str, port: int | None, local_port: int = 0, *, pools: bool = True) -> Outbound:
        return Outbound(
            self._workload,
            Reach(self._workload, self._endpoints, service, port),
            self._ask,
            lambda: self._transport is None,
            local_port=local_port,
            pools=pools,
            limits=self._limits,
        )

    def _ways_out(self) -> list[Outbound | Intercept]:
        return [*self._outbound, *([self._intercept] if self._intercept is not None else [])]

    async def _listen(self, message: wire.Message) -> None:
        """Open the ports, on the sockets that came with the process where the agent names them."""
        inbound: list[dict[str, object]] = []
        outbound: list[dict[str, object]] = []
        try:
            for port, row in zip(self._inbound, told.rows(message, "inbound"), strict=True):
                found = await port.listen(told.text(row, "address"), told.handle(row))
                inbound.append({"address": found[0], "port": found[1]})
            found_handles = [item for item in told.items(message.get("health_handles", [])) if isinstance(item, int)]
            for number, door in enumerate(self._health):
                await door.listen(found_handles[number] if number < len(found_handles) else None)
            for local, row in zip(self._outbound, told.rows(message, "outbound"), strict=True):
                outbound.append({"local_port": await local.listen(told.handle(row))})
            handles = [found for found in told.items(message.get("intercept_handles", [])) if isinstance(found, int)]
            intercept = None if self._intercept is None else await self._intercept.listen(handles)
        except Invalid as err:
            self._fail(err)
            self._finish()
            return
        if self._drains_until is not None:
            # told before it listened
            for open_port in self._ports():
                open_port.drain()
        self._ready = {"type": "ready", "inbound": inbound, "outbound": outbound, "intercept": intercept}
        self.send(self._ready)

    def _take_identity(self, message: wire.Message) -> None:
        """Use a new SVID and new bundles from the next handshake on.

        Live connections stay, but for those whose peer the new bundles do not vouch for.
        """
        try:
            spiffe_id = SpiffeId.parse(told.text(message, "spiffe_id"))
            not_after = parse_time(told.text(message, "not_after"))
            domains = {TrustDomain.parse(name): row for name, row in told.mapping(message, "bundles").items()}
        except (SpiffeIdError, ValueError) as err:
            raise Invalid("LM3002", reason="an identity has a SPIFFE ID, an end and bundles") from err
        svid = X509Svid(
            spiffe_id=spiffe_id,
            chain_der=tuple(wire.text_to_bytes(item) for item in told.items(message.get("chain"))),
            key_pkcs8_der=wire.text_to_bytes(message.get("key")),
            not_after=not_after,
        )
        bundles = {domain: told.bundle(domain, row) for domain, row in domains.items()}
        identity = Identity(svid, bundles, self._workload.clock)
        renamed = self._workload.name != str(spiffe_id)
        before = self._workload.identity
        if before is not None and identity.is_same(before):
            identity = before  # what hangs on its contexts goes on: sessions, and tickets that others hold
        self._workload.identity = identity
        if renamed:
            self._recorder.rename(f"{self.kind}:{spiffe_id}")
            self._judge_anew()
        for way in self._ways_out():
            way.renew()
        if before is not None and (renamed or before.bundles != bundles):
            for inbound in self._inbound:
                inbound.recheck_peers()
            self._recheck()
        self._trust = told.number(message, "trust")
        self.send({"type": "trusts", "trust": self._trust})

    def _take_keys(self, message: wire.Message) -> None:
        """Verify tokens by other keys from the next request on."""
        try:
            found = [
                (told.text(row, "source"), told.text(row, "jwks").encode(), parse_time(told.text(row, "until")))
                for row in told.rows(message, "sets")
            ]
        except ValueError as err:
            raise Invalid("LM3002", reason="a key set has a source, keys and an end") from err
        self._tokens.learn(found)

    def _take_tracing(self, message: wire.Message) -> None:
        """Make spans from the next request on; of so many in a million that belong to no trace."""
        self._workload.tracer = Tracer(told.number(message, "per_million"))

    def _take_policy(self, message: wire.Message) -> None:
        """Decide by another snapshot from the next request on; live connections that it denies are closed.

        1. An epoch below the highest seen is refused.
        2. Both snapshots are read before either is used.
        """
        # (1)
        epoch = told.number(message, "epoch")
        if epoch < self._epoch:
            raise Invalid("LM3015", epoch=epoch, highest=self._epoch)
        # (2)
        self._released = (self._read(message.get("active")), self._read(message.get("candidate")))
        before = self._workload.judge.snapshot
        self._judge_anew()
        self._epoch = epoch
        if self._workload.identity is not None and self._workload.judge.snapshot != before:
            self._workload.identity.forget_sessions()
        for way in self._ways_out():
            way.renew()
        self._recheck()
        self.send({"type": "applied", "epoch": epoch, "snapshot": self._workload.judge.snapshot})

    def _judge_anew(self) -> None:
        """Decide by what was released, for the workload as it is called now."""
        active, candidate = (
            None if found is None else self._ready_to_decide(*found, before)
            for found, before in zip(self._released, self._rules, strict=True)
        )
        self._rules = active, candidate
        self._workload.judge = Judge(self._workload.name, active, candidate, self._tokens)
        self._custom.settle()

    def _ready_to_decide(self, snapshot: str, policies: PolicySet, before: Rules | None) -> Rules:
        """A snapshot's rules, made anew where they changed.

        Custom ones that cannot be used are told of, and are unknown.
        """
        try:
            policies = self._custom.bind(policies, self._workload.name)
        except Invalid as err:
            self._fail(err)
        return Rules.of(snapshot, policies, before)

    def _read(self, found: object) -> tuple[str, PolicySet] | None:
        """A snapshot's hash and its policies, as the agent sends them; what was read before is kept."""
        if found is None:
            return None
        if not isinstance(found, dict):
            raise Invalid("LM3002", reason="a snapshot has a hash and policies")
        return told.text(found, "hash"), read_policy_set(found.get("policies"), self._kept)

    def _take_endpoints(self, message: wire.Message) -> None:
        found = [
            Endpoint(told.text(row, "spiffe_id"), told.text(row, "address"), told.number(row, "port"))
            for row in told.rows(message, "endpoints")
        ]
        self._endpoints.replace(found, keeps=message.get("is_partial") is True)

    def _take_attested(self, message: wire.Message) -> None:
        held = self._held.pop(told.number(message, "conn"), None)
        if held is not None:
            code = message.get("code")
            held.attested(
                ok=message.get("ok") is True,
                code=code if isinstance(code, str) else "",
                facts=dict(told.mapping(message, "facts")) if message.get("facts") is not None else {},
            )

    def _take_ack(self, message: wire.Message) -> None:
        self._recorder.acknowledge(told.number(message, "sequence"))
        if self._recorder.is_waited_for:
            self._wake()

    def _take_program(self, message: wire.Message) -> None:
        """Know the program beside which it stands: without an agent the sidecar ends with it."""
        self._comeback.watch(told.number(message, "pid"))

    def _take_drain(self, message: wire.Message) -> None:
        """Take nothing new, and end when nothing is left of what is there, or after so many seconds."""
        self._drain(told.number(message, "seconds"))

    def _drain(self, seconds: int) -> None:
        self._drains_until = asyncio.get_running_loop().time() + seconds
        for port in self._ports():
            port.drain()

    def _take_quiet(self, _: wire.Message) -> None:
        """Take no new callers, and say when none waits for an answer: the program is going to end."""
        self._is_quieting = True
        for inbound in self._inbound:
            inbound.drain()
        for door in self._health:
            door.drain()
        self._watch_drain()

    def _watch_drain(self) -> None:
        if self._is_quieting and not any(inbound.is_asked for inbound in self._inbound):
            self._is_quieting = False
            self.send({"type": "quiet"})
        if self._drains_until is not None and not self._is_stopping:
            is_over = asyncio.get_running_loop().time() >= self._drains_until
            if is_over or all(port.is_idle for port in self._ports()):
                self._take_stop({})

    def retire(self) -> None:
        """Somebody sent SIGTERM: ask the agent for a successor; without an agent, drain at once."""
        if self._drains_until is not None or self._is_stopping:
            return
        if self._transport is not None and self._ready is not None:
            self.send({"type": "retire"})
        else:
            self._drain(DRAIN_SECONDS)

    def _take_stop(self, _: wire.Message) -> None:
        """Close everything, hand over what is left to tell, and end."""
        if self._is_stopping:
            return
        self._is_stopping = True
        self._close_ports()
        self._workload.start(self._farewell())

    async def _farewell(self) -> None:
        for _ in range(FAREWELL_SECONDS * TICKS_PER_SECOND):
            self._report()
            if not self._recorder.unacknowledged:
                break
            await asyncio.sleep(TICK_SECONDS)
        self._finish()

    # -- what the sidecar says by itself

    def _ask(self, held: Held) -> None:
        """Ask the agent who is behind a held connection; one that is away is asked when it is back."""
        self._conn += 1
        self._held[self._conn] = held
        self._ask_about(self._conn, held)

    def _ask_about(self, conn: int, held: Held) -> None:
        self.send(
            {
                "type": "attest",
                "conn": conn,
                "source": list(held.stream.peer),
                "destination": list(held.stream.local),
                "accepted_ns": held.accepted_ns,
            }
        )

    async def run_ticks(self) -> None:
        """Let time pass until the conversation is over."""
        count = 0
        while not self.over.done():
            await asyncio.sleep(TICK_SECONDS)
            count += 1
            self._watch_drain()
            self._report(flows=count % TICKS_PER_SECOND == 0)
            if count % TICKS_PER_SECOND == 0:
                resident = resident_bytes()
                for inbound in self._inbound:
                    inbound.load.measure(resident, self._recorder.unacknowledged)
                    inbound.tick()
                if any(inbound.load.refusal is not None for inbound in self._inbound):
                    give_back_memory()
                for port in (*self._health, *self._ways_out()):
                    port.tick()
                self._held = {conn: held for conn, held in self._held.items() if not held.is_over}
            if count % (RECHECK_SECONDS * TICKS_PER_SECOND) == 0:
                self._recheck()

    def _recheck(self) -> None:
        """Close what the present policies and bundles deny: rules end with time as well as with a new snapshot."""
        for inbound in self._inbound:
            inbound.recheck_decisions()
        for way in self._ways_out():
            way.recheck()

    def _wake(self) -> None:
        """Send records soon, those of this turn together: an answer waits for one of them."""
        if not self._is_waking:
            self._is_waking = True
            asyncio.get_running_loop().call_soon(self._report_waited_for)

    def _report_waited_for(self) -> None:
        self._is_waking = False
        if self._keeps_up:
            self._report_records()

    @property
    def _keeps_up(self) -> bool:
        """Whether there is an agent, and it reads what it is told."""
        return self._transport is not None and self._transport.get_write_buffer_size() <= MAX_UNSENT_BYTES

    def _report_records(self) -> None:
        while self._recorder.in_flight < MAX_IN_FLIGHT:
            batch = self._recorder.take_records(self._workload.now())
            if batch is None:
                break
            self._send_records(*batch)

    def _report(self, *, flows: bool = True) -> None:
        """Send records and flows, as far as the agent keeps up."""
        if self._transport is None or not self._keeps_up:
            return
        self._report_records()
        if missed := self._tokens.take_missed():
            self.send({"type": "keys_missed", "sources": missed})
        while flows and (found := self._recorder.take_flows()):
            self._transport.write(wire.encode_with({"type": "flows"}, "flows", found))
        self._report_spans()
        if flows and (counts := self._workload.signals.take()) is not None:
            self.send({"type": "signals", **counts})
        handshakes = sum(inbound.handshakes for inbound in self._inbound)
        if handshakes != self._counted:
            self._counted = handshakes
            self.send({"type": "counts", "handshakes": handshakes})

    def _report_spans(self) -> None:
        """Send the spans that are over: a portion, and how many did not fit."""
        tracer = self._workload.tracer
        if tracer is None:
            return
        while (spans := tracer.take()) or tracer.dropped:
            dropped, tracer.dropped = tracer.dropped, 0
            self.send({"type": "spans", "spans": spans, "dropped": dropped})
