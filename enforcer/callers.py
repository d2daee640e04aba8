"""Which identities a process that asks at `agent.sock` has: attested now, or remembered while it stays what it was."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import os
import weakref
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from audit.record import record
from enforcer.attest import check_member
from enforcer.delivery import Delivery
from enforcer.identity import Facts, Identity, new_ask, read_issued
from enforcer.jwtsvids import HeldJwt, JwtSvids
from enforcer.order import Order
from enforcer.process import Executable, read_process, read_stat, runs, tracer_of
from enforcer.runtime.containers import Containers
from enforcer.workload import Workload
from enforcer.workloadfront import Caller
from mesh.bundle import TrustBundle
from mesh.clock import Clock
from mesh.problems import Forbidden, Invalid, NotFound, Problem, Unavailable
from mesh.proto import node_pb2 as pb
from mesh.spiffe import TrustDomain

CACHE_SIZE = 4096
# pid, start time and layout: a process that executes something else is another caller
_Key = tuple[int, int, tuple[int, ...]]


class Callers:
    """The Workload API's view of the agent (`enforcer.admission.Identities`)."""

    def __init__(
        self,
        *,
        workloads: Callable[[], Iterable[Workload]],
        issue: Callable[[list[pb.Ask]], Awaitable[list[pb.IssuedSvid]]],
        issue_jwts: Callable[[list[pb.JwtAsk]], Awaitable[list[pb.IssuedJwt]]],
        containers: Containers,
        node_facts: Callable[[], Facts],
        own_bundles: Callable[[], dict[str, TrustBundle]],
        delivery: Delivery,
        clock: Clock,
        source: str,
        trust_domain: str,
        order: Order,
    ) -> None:
        self._workloads, self._issue, self._node_facts = workloads, issue, node_facts
        self._containers = containers
        self._own_bundles, self._delivery, self._clock, self._source = own_bundles, delivery, clock, source
        self._known: dict[_Key, tuple[Identity, Executable]] = {}
        # when the first of them is to be renewed: until then nobody looks at them
        self._due: dt.datetime | None = None
        self._order = order
        self._asking: weakref.WeakValueDictionary[_Key, asyncio.Lock] = weakref.WeakValueDictionary()
        domain = TrustDomain.parse(trust_domain)
        self._jwts = JwtSvids(issue_jwts, lambda: own_bundles()[domain.name], clock)
        self._news = asyncio.Condition()
        self.version = 0

    def bundles(self) -> dict[str, TrustBundle]:
        """The bundles by trust domain name."""
        return self._own_bundles()

    def now(self) -> dt.datetime:
        """The time, by the server's clock as far as it is known."""
        return self._clock.now()

    async def changed(self, since: int) -> None:
        """Wait until an identity, a bundle or a rule may have changed since a version that was seen."""
        async with self._news:
            await self._news.wait_for(lambda: self.version != since)

    async def jwt_svid(self, identity: Identity, audiences: Sequence[str]) -> HeldJwt:
        """A JWT-SVID of an identity that a caller has. Raises Forbidden, Unavailable."""
        return await self._jwts.fetch(identity, audiences)

    async def announce(self) -> None:
        """Say that something may have changed."""
        async with self._news:
            self.version += 1
            self._news.notify_all()

    def forget(self) -> None:
        """Attest every caller again when it asks next."""
        self._known.clear()
        self._jwts.forget()

    def forget_due(self) -> bool:
        """Forget what is to be renewed now; return whether there was any."""
        now = self._clock.now()
        if self._due is None or now < self._due:
            return False
        due = [key for key, (identity, _) in self._known.items() if now >= identity.renew_at]
        for key in due:
            del self._known[key]
        self._due = min((identity.renew_at for identity, _ in self._known.values()), default=None)
        return bool(due)

    async def identities_of(self, caller: Caller) -> list[Identity]:
        """The identities of a process.

        1. A launched workload gets the SVID that its sidecar has, if its rule says `direct` (design D8).
        2. Any other process is attested now, if it executed nothing since it connected: descriptors outlive an
           exec, and another process may hold them too. The server applies the rules to the facts.
        3. An identity that a sidecar serves is not given to anybody else, unless its rule says `direct`.

        Raises Forbidden, Invalid or NotFound (each recorded as a denial), or Unavailable.
        """
        try:
            # (1)
            for workload in self._workloads():
                if workload.launch is not None and check_member(workload.launch, caller.pid) is None:
                    return [_direct(workload)]
            # (2)
            identity = await self._attest(caller)
            # (3)
            served = {found.identity.svid.spiffe_id for found in self._workloads() if found.identity is not None}
            if identity.svid.spiffe_id in served and not identity.direct:
                raise Forbidden("LM3503", spiffe_id=str(identity.svid.spiffe_id))
        except (Forbidden, Invalid, NotFound) as problem:
            await self._record_refusal(caller, problem)
            raise
        return [identity]

    async def _attest(self, caller: Caller) -> Identity:
        """The identity of a process that is no launched workload.

        1. Its image is the one that was accepted, as far as its layout tells: without a launch, it may write it itself.
        2. One that is known is the same while it runs the same file.
        3. Otherwise it is read anew, once for all its connections that ask meanwhile; the runtime of its container
           is asked then.
        4. What was read is what connected (`enforcer.order`), then and when the answer is there.
        """
        # (1)
        stat = read_stat(caller.pid)
        if stat.layout != caller.layout:
            raise Forbidden("LM3404", pid=caller.pid)
        key = (caller.pid, caller.start, stat.layout)
        lock = self._asking.setdefault(key, asyncio.Lock())
        async with lock:
            # (2)
            known = self._known.get(key)
            if known is not None and runs(caller.pid, known[1]):
                _check_tracer(caller.pid, known[1])
                await self._order.check(caller)
                return known[0]
            # (3)
            process = await asyncio.to_thread(read_process, caller.pid)
            if (process.start, process.layout) != (caller.start, stat.layout):
                raise NotFound("LM3401", pid=caller.pid)
            # (4)
            await self._order.check(caller)
            found = await self._containers.facts_of(process)
            facts = [*process.facts(), *found.settle(), *self._node_facts()]
            ask, private = new_ask("caller", facts)
            issued = await self._issue([ask])
            if len(issued) != 1:
                raise Unavailable("LM3453", reason=f"one identity was asked for, and {len(issued)} came")
            try:
                identity = read_issued(issued[0], private, self._clock.now(), facts)
            except Forbidden as problem:
                # what a container did not give may be why no rule fits: the record says so
                more: dict[str, Any] = {"container": str(found.problem)} if found.problem is not None else {}
                if process.foreign:
                    more["no_digest"] = (
                        f"it executes {process.foreign}, which is neither root's nor its own file's owner's"
                    )
                raise Forbidden(problem.code, **{**problem.facts, **more}) from problem
            await self._order.check(caller)
            if len(self._known) >= CACHE_SIZE:
                self._known.pop(next(iter(self._known)))
            self._known[key] = identity, process.executable
            self._due = identity.renew_at if self._due is None else min(self._due, identity.renew_at)
            return identity

    async def _record_refusal(self, caller: Caller, problem: Problem) -> None:
        facts = {name: str(value) for name, value in problem.facts.items()}
        made = record(
            "decision",
            now=self._clock.now(),
            random=os.urandom(10),
            source=self._source,
            direction="workload-api",
            decision="deny",
            policy_decision="deny",
            code=problem.code,
            facts={**facts, "pid": caller.pid, "uid": caller.uid},
        )
        with contextlib.suppress(Unavailable):
            await self._delivery.take([made])


def _check_tracer(pid: int, executable: Executable) -> None:
    """Refuse a process that is known, and traced by now. Raises Invalid LM3427."""
    tracer = tracer_of(pid)
    if tracer:
        raise Invalid("LM3427", pid=pid, program=executable.path, tracer=tracer)


def _direct(workload: Workload) -> Identity:
    """The identity of a launched workload, for the workload itself.

    Raises Unavailable LM3460 while it has none, Forbidden LM3503 when its rule does not say `direct`.
    """
    if workload.identity is None:
        raise Unavailable("LM3460", workload=workload.name)
    if not workload.identity.direct:
        raise Forbidden("LM3503", spiffe_id=str(workload.identity.svid.spiffe_id))
    return workload.identity
