"""The agent: one per host. Attests and launches workloads, feeds their sidecars, serves the Workload API.

Everything is one asyncio loop. The server may come and go: what runs goes on with the last good release and renews
nothing; it is told everything again when the server is back. Doors and disks are in the modules that this one wires.
Longer than most: it is the one place that knows all parts of a running agent, and splitting it would hide the order.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import pathlib
import socket
from collections.abc import Mapping, Sequence
from typing import Any

import structlog
from cryptography import x509

from enforcer import agentmetrics, guard
from enforcer.callers import Callers
from enforcer.control import Conversation
from enforcer.control import listen as listen_control
from enforcer.delivery import open_delivery
from enforcer.egress import parse_exempt
from enforcer.federated import Federated
from enforcer.holders import is_complete
from enforcer.identity import Identity, new_ask, read_issued
from enforcer.issuerkeys import IssuerKeys
from enforcer.kept import KeptWorkloads
from enforcer.membership import Attest, Membership
from enforcer.node import Node, pause
from enforcer.nodestate import NodeState
from enforcer.order import Order, open_watch
from enforcer.redirect import Redirected
from enforcer.release import Releases
from enforcer.runtime.explaining import explained, runtimes_status
from enforcer.runtime.options import Options
from enforcer.sight import open_sight
from enforcer.signals import SidecarSignals
from enforcer.skew import ServerClock
from enforcer.tracing import Exporter, Tracing, sender
from enforcer.trusted import Trusted
from enforcer.workload import Feed, Workload
from enforcer.workloadapi import WorkloadApi
from enforcer.workloads import House, Workloads, listen_for_sidecars
from mesh.bundle import TrustBundle
from mesh.clock import Clock, format_time
from mesh.problems import Invalid, Problem, Unavailable, bug_report
from mesh.proto import node_pb2 as pb
from mesh.spiffe import TrustDomain
from mesh.wrapping import WrappingKey
from mesh.x509svid import verify_x509_svid

Message = dict[str, object]
TICK_S = 1.0
# how long a killed agent's guard stands before a successor without workloads removes it


class Agent:
    """One host's agent, joined to one trust domain."""

    def __init__(
        self,
        folder: pathlib.Path,
        node_state: NodeState,
        wrapping: WrappingKey,
        *,
        clock: Clock,
        advertise: str | None,
        attest: Attest | None = None,
        runtimes: Options | None = None,
        limits: Mapping[str, int] | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self._limits = dict(limits or {})
        self._tracing = tracing
        self._exporter = None if tracing is None else Exporter(sender(tracing.endpoint))
        self._folder, self._node_state, self._wrapping = folder, node_state, wrapping
        self._clock, self._advertise = clock, advertise
        self._log = structlog.get_logger()
        self._domain = TrustDomain.parse(node_state.trust_domain)
        self._trusted = Trusted(folder / "agent", self._domain, node_state)
        self._rejected: set[str] = set()
        self._releases = Releases(folder / "agent", node_state, wrapping)
        self._federated = Federated(folder / "agent", self._domain)
        # when to renew is decided by the server's time, as far as it is known
        self._time = ServerClock(clock)
        self._node = Node(node_state, self._time)
        self._membership = Membership(
            folder / "agent", node_state, wrapping, api=self._node, clock=self._time, attest=attest
        )
        self._delivery = open_delivery(folder, node_state, self._time)
        # why connections are not stamped; empty when they are
        self._unstamped = ""
        self._sight = open_sight(self._say_unstamped)
        self._endpoints: list[pb.Endpoint] = []
        self._listed: list[pb.Endpoint] = []
        # whether the server, once, named all endpoints that there are: one that has just come back does not know them
        self._is_settled = False
        # the server's numbers of rotations and rules that what workloads hold comes from
        self._issued_by: tuple[int, int] | None = None
        self._workloads = Workloads(
            KeptWorkloads(folder / "agent" / "workloads"),
            self._feed,
            self._sight,
            House(
                reissue=self._reissue,
                write_guard=self._write_guard,
                ended=self._workload_ended,
                unguarded=lambda: self._guard_reason,
                prefix=guard.table_name(folder),
            ),
        )
        self.signals = SidecarSignals(self._workloads.open_connections)
        self._issuers = IssuerKeys(clock, self._tell)
        self._issuers.want(self._releases.policies())
        self._stop = asyncio.Event()
        self._guard_reason = guard.left_out()
        self._guard_name = guard.table_name(folder)
        order = Order(open_watch(lambda reason: self._log.info("execs are not heard of", reason=reason)))
        self._containers = (runtimes or Options()).containers()
        self._callers = Callers(
            workloads=self._workloads.values,
            issue=self._node.issue,
            issue_jwts=self._node.issue_jwts,
            containers=self._containers,
            node_facts=self._node_facts,
            own_bundles=self.bundles,
            delivery=self._delivery,
            clock=self._time,
            source=f"agent:{node_state.name}",
            trust_domain=node_state.trust_domain,
            order=order,
        )
        self._api = WorkloadApi(self._callers, folder / "agent.sock", folder / "run" / "api", order)
        self.is_connected = False

    def _say_unstamped(self, reason: str) -> None:
        self._unstamped = reason
        self._log.info("the kernel runs no program of ours: connections are known by a scan", reason=reason)

    # -- life

    async def run(self, stop: asyncio.Event, ready: asyncio.Event) -> None:
        """Serve until ``stop``; ``ready`` is set when both sockets listen and the server was heard once."""
        for name, reason in self.left_out().items():
            self._log.warning("this host is not guarded", missing=name, reason=reason)
        if not self._workloads.awaited:
            # what a killed predecessor wrote guards nobody any more
            self._write_guard()
        control = listen_control(self._folder / "control.sock")
        sidecars = listen_for_sidecars(self._folder / "sidecars.sock")
        await self._api.start()
        try:
            async with asyncio.TaskGroup() as tasks:
                kept = [
                    tasks.create_task(found)
                    for found in (
                        self._accept_control(control, tasks),
                        self._workloads.accept_sidecars(sidecars),
                        self._workloads.forget_predecessors(),
                        self._watch(ready),
                        self._renew(),
                        self._deliver(),
                        *([self._exporter.run()] if self._exporter is not None else []),
                        self._report(),
                        self._issuers.run(),
                    )
                ]
                await stop.wait()
                self._stop.set()
                await self._workloads.stop()
                await self._flush()
                for task in kept:
                    task.cancel()
        finally:
            self._workloads.dismiss_returned()
            if not self._workloads.values():
                self._write_guard()
            await self._api.stop()
            for sock, name in ((control, "control.sock"), (sidecars, "sidecars.sock")):
                sock.close()
                (self._folder / name).unlink(missing_ok=True)
            await self._node.close()
            self._delivery.close()
            self._sight.close()

    async def _flush(self) -> None:
        """Bring what is left to the server, as far as it answers within two seconds; the rest is on the disk."""
        with contextlib.suppress(Problem, TimeoutError):
            async with asyncio.timeout(2.0):
                # nobody has to wait for this agent any more
                await self._node.report_status(self._standing())
                while await self._delivery.push_once(self._node):
                    continue

    # -- the server

    async def _watch(self, ready: asyncio.Event) -> None:
        failures = 0
        while not self._stop.is_set():
            try:
                async for update in self._node.watch(self._releases.epoch, self._trusted.signed):
                    failures = 0
                    self.is_connected = True
                    self._membership.trust()
                    await self._take(update)
                    ready.set()
            except Unavailable as problem:
                if failures == 0:
                    self._log.warning("server out of reach", reason=str(problem))
                self._membership.doubt()
            self.is_connected = False
            failures += 1
            await pause(failures, self._stop)

    async def _take(self, update: pb.Update) -> None:
        """Apply the server's state: releases in order, then everything that goes with the newest."""
        now = self._clock.now()
        before = self._releases.active
        for release in update.releases:
            taken = self._releases.take(
                bytes(release.activation), bytes(release.snapshot), tuple(bytes(item) for item in update.reviewers), now
            )
            if taken and self._releases.active is not None:
                self._log.info("release applied", epoch=self._releases.epoch, snapshot=self._releases.active.hash)
            elif self._releases.refusals:
                self._log.error("release refused", reason=self._releases.refusals[0][1])
        self._releases.heard(now)
        candidate = self._releases.candidate
        self._releases.take_candidate(bytes(update.candidate))
        if before is not self._releases.active or candidate != self._releases.candidate:
            self._issuers.want(self._releases.policies())
            self._tell(self._releases.message())
        await self._take_trust(bytes(update.trust))
        if self._federated.take({name: bytes(data) for name, data in update.federated.items()}) or (
            before is not self._releases.active and self._federated.every()
        ):
            self._reidentify()
        self._endpoints = self._known_endpoints(update)
        self._is_settled = self._is_settled or not update.settling
        self._tell(self._endpoints_message())
        numbers = (update.rotation, update.identity_rules)
        if numbers != self._issued_by:
            self._callers.forget()
            if self._issued_by is not None:
                # other rules may give launched workloads another identity, and those that wait one at last
                await self._reissue([*self._workloads.values()])
            self._issued_by = numbers
        self._membership.leave(frozenset(update.tainted))
        await self._callers.announce()
        await self._send_endpoints()

    def _known_endpoints(self, update: pb.Update) -> list[pb.Endpoint]:
        """What the server names; of one that began moments ago also what was known, since it may not know it yet."""
        found = list(update.endpoints)
        # what is not on the server's own list is reported to it
        self._listed = list(update.endpoints)
        if update.settling:
            named = {(item.spiffe_id, item.address, item.port) for item in found}
            found += [item for item in self._endpoints if (item.spiffe_id, item.address, item.port) not in named]
        return found

    async def _take_trust(self, data: bytes) -> None:
        try:
            is_new = self._trusted.take(data)
        except Problem as problem:
            self._log.error("trust state refused", code=problem.code, reason=str(problem))
            return
        if is_new:
            self._log.info("trust state applied", sequence=self._trusted.sequence)
            self._reidentify()
            await self._callers.announce()

    async def _take_bundle(self, data: bytes) -> None:
        if self._trusted.take_bundle(data):
            self._reidentify()
            await self._callers.announce()

    def _reidentify(self) -> None:
        """Tell every sidecar its bundles again: what they vouch for no longer, it closes."""
        for workload in self._workloads.values():
            if workload.identity is not None:
                workload.identify(workload.identity)

    def _tell(self, message: Message) -> None:
        for workload in self._workloads.values():
            workload.tell(message)

    def _endpoints_message(self) -> Message:
        return {
            "type": "endpoints",
            # sidecars that were there before this agent know some that it does not
            "is_partial": not self._is_settled,
            "endpoints": [
                {"spiffe_id": item.spiffe_id, "address": item.address, "port": item.port} for item in self._endpoints
            ],
        }

    async def _send_endpoints(self) -> None:
        mine = [
            pb.Endpoint(spiffe_id=found.spiffe_id, address=self._reachable(address), port=port)
            for found in self._workloads.values()
            if found.spiffe_id
            for address, port, _ in found.ports.inbound
        ]
        key = sorted((item.spiffe_id, item.address, item.port) for item in mine)
        ours = f"{self._domain.id}/"
        known = sorted(
            (item.spiffe_id, item.address, item.port) for item in self._listed if item.spiffe_id.startswith(ours)
        )
        if not set(key) <= set(known) or self._stale(known, key):
            with contextlib.suppress(Unavailable):
                await self._node.report_endpoints(mine)

    def _stale(self, known: Sequence[tuple[str, str, int]], mine: Sequence[tuple[str, str, int]]) -> bool:
        """Whether the server still lists an address of this host that is no longer listened on."""
        here = {self._reachable(address) for found in self._workloads.values() for address, _, _ in found.ports.inbound}
        return any(item not in mine and item[1] in here for item in known)

    def _reachable(self, address: str) -> str:
        return self._advertise or "127.0.0.1" if address in {"0.0.0.0", "::"} else address  # noqa: S104  compared, not bound

    async def _renew(self) -> None:
        """Renew what is at half its life, the node's own SVID first."""
        while not self._stop.is_set():
            if await self._membership.keep():
                await self._take_bundle(self._node_state.bundle)
            now = self._time.now()
            with contextlib.suppress(Problem):
                due = [found for found in self._workloads.values() if found.is_due(now)]
                if due:
                    await self._reissue(due)
                    await self._callers.announce()
                if self._callers.forget_due():
                    await self._callers.announce()
            self._measure()
            await self._nap(TICK_S)

    def _measure(self) -> None:
        agentmetrics.CLOCK_SKEW.set(self._time.skew.total_seconds())
        ends = [found.identity.svid.not_after for found in self._workloads.values() if found.identity is not None]
        agentmetrics.SVID_EXPIRY.set(min(ends).timestamp() if ends else agentmetrics.NONE)

    async def _reissue(self, workloads: Sequence[Workload]) -> None:
        """Ask for SVIDs of launched workloads in one batch, and hand them to their sidecars."""
        asks, keys = [], {}
        for workload in workloads:
            if workload.launch is not None:
                facts = [*workload.launch.facts, *self._node_facts()]
                ask, key = new_ask(str(workload.launch.pid), facts)
                asks.append(ask)
                keys[ask.ref] = (workload, key, facts)
        if not asks:
            return
        for found in await self._node.issue(asks):
            asked = keys.pop(found.ref, None)
            if asked is None:
                # an answer to what was not asked, or a second one, is nobody's
                continue
            workload, key, facts = asked
            try:
                workload.identify(self._verified(read_issued(found, key, self._time.now(), facts)))
                self._check_clock(workload)
            except Problem as problem:
                workload.refuse(problem, self._time.now())
        await self._send_endpoints()

    def _verified(self, identity: Identity) -> Identity:
        """An identity that peers will accept, as far as this host can tell; the server is told of any other.

        Raises what the verifier raises: the workload keeps the SVID that it has.
        """
        chain = identity.svid.chain_der
        signer = hashlib.sha256(chain[1]).hexdigest() if len(chain) > 1 else ""
        try:
            verify_x509_svid(chain, {self._domain: self._trusted.bundle}, self._time.now())
        except Problem:
            self._rejected.add(signer)
            raise
        self._rejected.discard(signer)
        return identity

    def _check_clock(self, workload: Workload) -> None:
        """Say both times when a new SVID does not hold by this host's clock: its sidecar will refuse it."""
        assert workload.identity is not None
        leaf = x509.load_der_x509_certificate(workload.identity.svid.chain_der[0])
        problem = self._time.misfit(leaf.not_valid_before_utc, leaf.not_valid_after_utc)
        if problem is not None:
            self._log.error("this host's clock is wrong", workload=workload.name, reason=str(problem))

    def _node_facts(self) -> tuple[tuple[str, str], ...]:
        # for who asks here; the server puts in what it knows itself
        return self._node_state.facts or (("node:id", self._node_state.name),)

    async def _deliver(self) -> None:
        failures = 0
        while not self._stop.is_set():
            try:
                if await self._delivery.push_once(self._node):
                    failures = 0
                    continue
            except Problem as problem:
                if failures == 0:
                    self._log.warning("records wait on this host", reason=str(problem))
                failures += 1
                await pause(failures, self._stop)
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(5.0):
                    await self._delivery.news()

    async def _report(self) -> None:
        """Tell the server what is applied here, after every change and every few seconds."""
        newer = b""
        while not self._stop.is_set():
            with contextlib.suppress(Problem):
                newer = self._trusted.signed if await self._node.report_status(self._standing(newer)) else b""
            await self._nap(TICK_S / 4)

    def _standing(self, newer_trust: bytes = b"") -> pb.StatusRequest:
        """What is applied here: what every sidecar applies is what this agent applies."""
        epochs = [
            found.applied[0]
            for found in self._workloads.values()
            # a program that enforces by itself decides nothing before one of its processes is here
            if found.identity is not None and (found.is_told or not found.ports.sdk)
        ]
        active = self._releases.active
        return pb.StatusRequest(
            epoch=min([self._releases.epoch, *epochs]),
            snapshot=active.hash if active is not None else "",
            sidecars=len(self._workloads.values()) + self._workloads.awaited,
            handshakes=self._workloads.handshakes,
            refusals=[pb.Refusal(code=code, detail=detail) for code, detail in self._releases.refusals],
            trust=self._trusts(),
            rejected=sorted(self._rejected),
            newer_trust=newer_trust,
        )

    def _trusts(self) -> int:
        """The trust state that this agent and every sidecar that serves holds; 0 while some were not heard yet."""
        if self._workloads.awaited:
            return 0
        held = [found.trusts for found in self._workloads.values() if found.is_serving]
        return min([self._trusted.sequence, *held])

    async def _nap(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stop.wait()

    # -- control.sock

    async def _accept_control(self, sock: socket.socket, tasks: asyncio.TaskGroup) -> None:
        while True:
            conversation, _ = await asyncio.get_running_loop().sock_accept(sock)
            tasks.create_task(self._converse(Conversation(conversation)))

    async def _converse(self, talk: Conversation) -> None:
        try:
            message = await talk.receive()
            if message is None:
                return
            match message["type"]:
                case "launch":
                    await self._workloads.launch(talk, message)
                case "resume":
                    await self._workloads.resume(talk, message)
                case "upgrade":
                    await talk.send(await self._workloads.upgrade(message.get("name")))
                case "explain":
                    await talk.send(await self._explain(message))
                case "status":
                    await talk.send({**self._status(), **await runtimes_status(self._containers)})
                case other:
                    raise Invalid("LM3002", reason=f"`{other}` is not spoken here")
        except Problem as problem:
            facts = {name: str(value) for name, value in problem.facts.items()}
            await talk.send({"type": "failed", "code": problem.code, "facts": facts})
        except Exception as err:  # noqa: BLE001  the edge of one conversation: the others go on
            report, trace = bug_report(err)
            self._log.error("a bug ended a conversation", report=report, trace=trace)
            await talk.send({"type": "failed", "code": "LM0002", "facts": {"report": report}})
        finally:
            talk.close()

    async def _explain(self, message: Mapping[str, object]) -> Message:
        launched = [found.launch for found in self._workloads.values() if found.launch is not None]
        return await explained(message.get("pid"), launched, self._containers, self._node_facts())

    def _status(self) -> Message:
        return {
            "type": "status",
            "node": self._node_state.spiffe_id,
            "connected": self.is_connected,
            "not_after": format_time(self._membership.ends),
            "clock_skew_s": self._time.skew.total_seconds() if self._time.is_known else None,
            "problem": str(self._membership.problem) if self._membership.problem is not None else None,
            "epoch": self._releases.epoch,
            "snapshot": self._releases.active.hash if self._releases.active is not None else None,
            "left_out": self.left_out(),
            "attested_by": {"way": "scan", "reason": self._unstamped} if self._unstamped else {"way": "ebpf"},
            "workloads": [
                {
                    "name": found.name,
                    "pid": found.launch.pid if found.launch is not None else None,
                    "spiffe_id": str(found.identity.svid.spiffe_id) if found.identity is not None else None,
                    "not_after": format_time(found.identity.svid.not_after) if found.identity is not None else None,
                    "epoch": found.applied[0],
                    "sidecars": found.sidecar_rows(),
                }
                for found in self._workloads.values()
            ],
        }

    def left_out(self) -> dict[str, str]:
        """What this host cannot guard, with the reason."""
        found: dict[str, str] = {}
        if self._guard_reason:
            found["nft"] = self._guard_reason
        if not is_complete():
            found["root"] = "without root one uid is one security domain, and other users' descriptors are not seen"
        return found

    async def _workload_ended(self) -> None:
        await self._callers.announce()
        await self._send_endpoints()

    def _write_guard(self) -> None:
        if self._guard_reason:
            return
        standing = self._workloads.standing()
        guarded = [
            guard.Guarded(app_port=app, sidecar_uid=found.sidecar_uid, listener=(address, port))
            for found in standing
            if found.sidecar_uid is not None
            for address, port, app in found.ports.inbound
        ]
        redirected = [
            Redirected(
                group=found.group,
                port=found.redirect_port,
                exempt=tuple(parse_exempt(text) for text in found.ports.egress),
            )
            for found in standing
            if found.group and found.redirect_port
        ]
        try:
            if guarded or redirected:
                guard.apply(self._guard_name, guarded, redirected)
            else:
                guard.remove(self._guard_name)
        except Unavailable as problem:
            self._guard_reason = str(problem.facts.get("reason", ""))
            self._log.error("application ports are not guarded", reason=str(problem))

    def bundles(self) -> dict[str, TrustBundle]:
        """All bundles by trust domain name."""
        return {**self._federated.every(), self._domain.name: self._trusted.bundle}

    def _given(self, identity: Identity) -> dict[str, TrustBundle]:
        """The bundles that the sidecar of an identity is given."""
        active = self._releases.active
        policies = active.policies if active is not None else None
        return {**self._federated.given(identity, policies), self._domain.name: self._trusted.bundle}

    def _feed(self) -> Feed:
        return Feed(
            policy=self._releases.message,
            endpoints=self._endpoints_message,
            bundles=self._given,
            trust=lambda: self._trusted.sequence,
            records=self._delivery.take,
            flows=self._delivery.take_flows,
            keys=self._issuers.message,
            missed=self._issuers.missed,
            back=str(self._folder / "sidecars.sock"),
            limits={**self._delivery.limits, **self._limits},
            keeps_denials=self._delivery.keeps_denials,
            emit=self._delivery.emit,
            signals=self.signals.add,
            **self._traced(),
        )

    def _traced(self) -> dict[str, Any]:
        """What a feed says of spans, where somebody asked for them."""
        if self._tracing is None or self._exporter is None:
            return {}
        told = {"type": "tracing", "per_million": self._tracing.per_million}
        return {"tracing": told, "spans": self._exporter.take}
