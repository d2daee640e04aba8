"""A server below follows the one above: what comes from there is done at once, and what is said to it is kept fresh.

`Follower` works on the server's one worker thread; `keep_following` is its rim on the event loop. What following means
is in `ca.following`.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Protocol

import structlog

from ca.authority import Authority
from ca.rotation import AuthorityState, Kind, Slot, find
from ca.trustmaking import fingerprint
from enforcer.membership import Membership
from enforcer.node import pause
from limen.above import Above, AboveNode
from limen.agents import Agents
from limen.authorities import Authorities
from limen.downstreamwords import request_of
from mesh.clock import Clock
from mesh.problems import Problem, Unavailable
from mesh.proto import node_pb2 as pb

LOOK_S = 0.2
AGAIN = dt.timedelta(seconds=10)
RETRY = dt.timedelta(seconds=5)


class Changes(Protocol):
    """What of `limen.app.App` says that something changed."""

    def on_change(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call a listener after every change."""


class Follower:
    """Follows one server above. ``reissue`` has agents renew every SVID."""

    def __init__(
        self,
        *,
        above: Above,
        authority: Authority,
        authorities: Authorities,
        agents: Agents,
        clock: Clock,
        reissue: Callable[[], None],
    ) -> None:
        self.above = above
        self._authority, self._authorities, self._agents = authority, authorities, agents
        self._clock, self._reissue = clock, reissue
        self._standing: pb.Standing | None = None
        self._retry_at: dt.datetime | None = None
        # numbers of the server above, with the own number from which on it is held here
        self._seen: list[tuple[int, int]] = []
        self._held = 0
        # for each own authority, the number of the server above that named it first
        self._named: dict[str, int] = {}
        authorities.is_held_above = self.is_held

    def lost(self, reason: str) -> None:
        """The server above is not heard; from any thread."""
        self._authorities.silence = reason

    def take(self, standing: pb.Standing) -> None:
        """Do what the server above says; what fails is tried again by `step`."""
        self._authorities.silence = ""
        self._standing = standing
        self._follow(standing)

    def step(self) -> None:
        """Try again what failed; taint what was to be replaced as soon as another one signs."""
        if self._standing is None:
            return
        old = find(self._authority.slots, Kind.ISSUING, AuthorityState.OLD)
        is_ready = any(fingerprint(slot.certificates[0]) in self._standing.tainted for slot in old)
        if self._clock.now() >= self._retry_at if self._retry_at is not None else is_ready:
            self._follow(self._standing)

    def _follow(self, standing: pb.Standing) -> None:
        """Follow what the server above says.

        1. What it trusts is written, and own authorities that it trusts no more are replaced and revoked.
        2. From which own number on that is held here is remembered.
        3. An authority that it wants replaced gets a successor, which signs once everybody can follow.
        """
        now = self._clock.now()
        self._retry_at = None
        try:
            state = self.above.read(standing.trust)
            # (1)
            found = self._authority.following.follow(state, standing.trust, tainted=set(standing.tainted), now=now)
            # (2)
            self._note(state.sequence)
            if found.reissue:
                self._reissue()
            # (3)
            if standing.renew and not find(self._authority.slots, Kind.ISSUING, AuthorityState.PREPARED):
                if not found.has_successor:
                    self._authorities.rotate(Kind.ISSUING, actor="upstream", is_forced=False)
                # done: the next word of the server above knows of it
                standing.renew = False
        except Problem as problem:
            self._retry_at = now + RETRY
            structlog.get_logger().error(
                "the server above cannot be followed yet", code=problem.code, reason=str(problem)
            )
        self._authorities.step()

    def _note(self, sequence: int) -> None:
        own = self._authority.trust.sequence
        if not self._seen or self._seen[-1][0] != sequence:
            self._seen = [*self._seen[-63:], (sequence, own)]

    def held(self) -> int:
        """The number of the server above that this server and all its live agents hold."""
        live = [agent.trust for agent in self._agents.live()]
        least = min(live, default=self._authority.trust.sequence)
        reached = [sequence for sequence, own in self._seen if own <= least]
        self._held = max([self._held, *reached])
        return self._held

    def is_held(self, slot: Slot) -> bool:
        """Whether every agent of the server above can follow an issuing authority of ours."""
        if slot.kind is not Kind.ISSUING:
            return True
        kept = self._authority.following.kept()
        if kept is None or self._standing is None or not self._authority.following.is_pinned(slot):
            return False
        named = self._named.setdefault(slot.id, kept[0].sequence)
        return self._standing.held >= named

    def holds(self) -> bytes:
        """The trust state of the server above that is held, as it signed it; empty before the first one."""
        kept = self._authority.following.kept()
        return b"" if kept is None else kept[1]

    def now(self) -> dt.datetime:
        """The time here; from any thread."""
        return self._clock.now()

    def signs_of_change(self) -> tuple[int, int]:
        """What makes it worth to say something at once."""
        return self.held(), self._authority.trust.sequence

    def says(self, *, is_asked: bool) -> pb.PublishRequest:
        """What this server says of itself; the newer trust state too when it was asked for."""
        kept = self._authority.following.kept()
        newer = kept[1] if is_asked and kept is not None else b""
        trust = kept[0].sequence if newer and kept is not None else self.held()
        return request_of(self._authority.following.words(self._clock.now()), trust=trust, newer=newer)


async def keep_following(app: Changes, follower: Follower, worker: Executor, stop: asyncio.Event) -> None:
    """Follow the server above until ``stop``: keep our SVID there, take what it says, say what we are."""
    node, membership = follower.above.connect()
    woken = asyncio.Event()
    loop = asyncio.get_running_loop()
    forget = app.on_change(lambda: _wake(loop, woken))
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(_keep_member(membership, stop)),
                group.create_task(_take(follower, node, membership, worker, stop)),
                group.create_task(_say(follower, node, worker, woken, stop)),
            ]
            await stop.wait()
            for task in tasks:
                task.cancel()
    finally:
        forget()
        await node.close()


def _wake(loop: asyncio.AbstractEventLoop, woken: asyncio.Event) -> None:
    loop.call_soon_threadsafe(woken.set)


async def _keep_member(membership: Membership, stop: asyncio.Event) -> None:
    while not stop.is_set():
        await membership.keep()
        await asyncio.sleep(1.0)


async def _take(
    follower: Follower, node: AboveNode, membership: Membership, worker: Executor, stop: asyncio.Event
) -> None:
    loop, failures = asyncio.get_running_loop(), 0
    while not stop.is_set():
        try:
            # every standing is a new one, and from then on the follower's
            async for standing in node.follow(await loop.run_in_executor(worker, follower.holds)):
                failures = 0
                membership.trust()
                await loop.run_in_executor(worker, follower.take, standing)
        except Unavailable as problem:
            membership.doubt()
            # what keeps us from coming back says more than that nobody answers
            follower.lost(str(membership.problem or problem))
            if not failures:
                structlog.get_logger().warning("the server above does not answer", reason=str(problem))
        await pause(failures, stop)
        failures += 1


async def _say(
    follower: Follower, node: AboveNode, worker: Executor, woken: asyncio.Event, stop: asyncio.Event
) -> None:
    """Say what this server is: after every change that the other one waits for, and every ten seconds."""
    loop = asyncio.get_running_loop()
    said: tuple[int, int] | None = None
    said_at, is_asked, failures = follower.now(), False, 0
    while not stop.is_set():
        woken.clear()
        await loop.run_in_executor(worker, follower.step)
        signs = await loop.run_in_executor(worker, follower.signs_of_change)
        if signs != said or is_asked or follower.now() - said_at >= AGAIN:
            request = await loop.run_in_executor(worker, lambda asked=is_asked: follower.says(is_asked=asked))  # type: ignore[misc]  # mypy cannot infer lambdas with defaults
            try:
                is_asked = await node.publish(request)
                said, said_at, failures = signs, follower.now(), 0
            except Unavailable as problem:
                if not failures:
                    structlog.get_logger().warning("the server above does not hear us", reason=str(problem))
                await pause(failures, stop)
                failures += 1
        try:
            async with asyncio.timeout(LOOK_S):
                await woken.wait()
        except TimeoutError:
            continue
