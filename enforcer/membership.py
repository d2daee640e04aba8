"""The node's own SVID, kept for ever: renewed at half its life, and asked for anew after any time off.

The way is always the same, and no person is in it:
1. While the SVID lives, it is renewed over the node API.
2. When it has ended, or the node API refuses it or does not answer, the node comes back by the public door with the
   key of its last SVID. The server proves itself there with its pinned key, whatever became of every CA.
3. When the server does not know that key, the node attests itself again, if it has a way to (`attest`).
Every step first saves the new key, then asks, then saves the answer: a kill at any point repeats a step, no more.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
import pathlib
import secrets
from collections.abc import Callable
from typing import Protocol

import structlog
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from enforcer import agentmetrics, join, nodestate
from enforcer.identity import half_life, read_leaf
from enforcer.nodestate import NodeState
from enforcer.skew import ServerClock
from mesh.clock import format_time
from mesh.problems import Forbidden, Problem, Unavailable
from mesh.wrapping import WrappingKey

BACKOFF_S = (1.0, 2.0, 5.0, 10.0, 20.0, 30.0)
# so many failed calls make the public door worth a try although the SVID still lives
DOUBTS = 3
Attest = Callable[[NodeState, ec.EllipticCurvePrivateKey], join.Admission]


class NodeApi(Protocol):
    """What of the node API this module uses (`enforcer.node.Node`)."""

    refused: bool

    async def renew(self, key: ec.EllipticCurvePrivateKey) -> tuple[tuple[bytes, ...], bytes]:
        """Have a key certified."""

    async def adopt(self) -> None:
        """Go on with the state's SVID."""


class Membership:
    """Keeps a node's SVID alive. ``attest`` attests the node again, None when it has only its keys."""

    def __init__(
        self,
        folder: pathlib.Path,
        state: NodeState,
        wrapping: WrappingKey,
        *,
        api: NodeApi,
        clock: ServerClock,
        attest: Attest | None = None,
    ) -> None:
        self._folder, self._state, self._wrapping = folder, state, wrapping
        self._api, self._clock, self._attest = api, clock, attest
        self._log = structlog.get_logger()
        self._failures = self._doubts = 0
        self._retry_at: dt.datetime | None = None
        self.renew_at = half_life(clock.now(), self.ends)
        self.problem: Problem | None = None
        self._measure()

    @property
    def ends(self) -> dt.datetime:
        """When the node's SVID ends."""
        return x509.load_der_x509_certificate(self._state.chain[0]).not_valid_after_utc

    @property
    def begins(self) -> dt.datetime:
        """When the node's SVID begins."""
        return x509.load_der_x509_certificate(self._state.chain[0]).not_valid_before_utc

    def doubt(self) -> None:
        """The node API did not answer once more."""
        self._doubts += 1

    def leave(self, tainted: frozenset[str]) -> None:
        """Renew at once what one of these authorities signed, by the SHA-256 of their certificates."""
        if any(hashlib.sha256(der).hexdigest() in tainted for der in self._state.chain[1:]):
            self.renew_at = min(self.renew_at, self._clock.now())

    def trust(self) -> None:
        """The node API answered: nothing keeps from trying at once."""
        self._doubts = 0
        if not self._api.refused:
            self._retry_at = None

    async def keep(self) -> bool:
        """Do what is due now; True when the node has a new SVID.

        Raises nothing: what went wrong is in ``problem`` and in the log, and is tried again, later each time.
        """
        now = self._clock.now()
        must_return = self._api.refused or now >= self.ends or self._doubts >= DOUBTS
        if not must_return and now < self.renew_at:
            return False
        if self._is_waiting():
            return False
        try:
            await (self._come_back() if must_return else self._renew())
        except Problem as problem:
            self._failed(problem)
            return False
        self._failures = self._doubts = 0
        self._retry_at = self.problem = None
        self._api.refused = False
        self._check_clock()
        return True

    async def _renew(self) -> None:
        key = nodestate.pending_key(self._folder, self._wrapping, other_than=self._state.key)
        try:
            chain, bundle = await self._api.renew(key)
        except Unavailable:
            agentmetrics.ADMISSIONS.labels("renew", "failed").inc()
            self.doubt()
            raise
        # nothing that cannot be read takes the place of an SVID that works
        read_leaf(chain, join.key_der(key))
        self._state.chain, self._state.key, self._state.bundle = chain, join.key_der(key), bundle
        await self._save("renew")

    async def _come_back(self) -> None:
        key = nodestate.pending_key(self._folder, self._wrapping, other_than=self._state.key)
        way = "readmit"
        before = self._clock.local()
        try:
            try:
                admission = await asyncio.to_thread(join.readmit, self._state, key)
            except Forbidden as problem:
                if self._attest is None or problem.code != "LM1242":
                    raise
                way = "attest"
                before = self._clock.local()
                admission = await asyncio.to_thread(self._attest, self._state, key)
        except Problem:
            agentmetrics.ADMISSIONS.labels(way, "failed").inc()
            raise
        if admission.time is not None:
            self._clock.heard(admission.time, before, self._clock.local())
        admission.into(self._state)
        await self._save(way)
        self._log.info("the node is back", way=way, spiffe_id=self._state.spiffe_id, not_after=format_time(self.ends))

    async def _save(self, way: str) -> None:
        nodestate.save(self._folder, self._state, self._wrapping)
        self.renew_at = half_life(self._clock.now(), self.ends)
        agentmetrics.ADMISSIONS.labels(way, "done").inc()
        self._measure()
        await self._api.adopt()

    def _measure(self) -> None:
        agentmetrics.NODE_SVID_EXPIRY.set(self.ends.timestamp())

    def _check_clock(self) -> None:
        """Say both times when the new SVID does not hold by this host's clock."""
        self.problem = self._clock.misfit(self.begins, self.ends)
        if self.problem is not None:
            self._log.error("this host's clock is wrong", code=self.problem.code, reason=str(self.problem))

    def _is_waiting(self) -> bool:
        """Whether the pause after a failure still lasts; a clock that went back ends it."""
        if self._retry_at is None:
            return False
        left = self._retry_at - self._clock.local()
        return dt.timedelta() < left <= dt.timedelta(seconds=2 * BACKOFF_S[-1])

    def _failed(self, problem: Problem) -> None:
        if self.problem is None or self.problem.code != problem.code:
            self._log.warning("the node's SVID was not renewed", code=problem.code, reason=str(problem))
        self.problem = problem
        base = BACKOFF_S[min(self._failures, len(BACKOFF_S) - 1)]
        life = (self.ends - self.begins).total_seconds()
        # a short life leaves no time for long pauses
        base = min(base, max(1.0, life / 20)) * (1 + secrets.randbelow(500) / 1000)
        self._failures += 1
        self._retry_at = self._clock.local() + dt.timedelta(seconds=base)
