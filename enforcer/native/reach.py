"""How a called service is reached: which endpoint, by a connection that waits or a new one, and what ends both.

A new connection is mutual TLS to an endpoint that the registry gives to the service, and counts only if its verified
identity is one of that service's. It resumes a session where one is held, which saves the certificates on the wire
and two signatures, and is verified like any other. A change of SVID, bundles or of the rules about the service begins
a new era: no connection and no session of the one before is used again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable

from enforcer.native.endpoints import Endpoint, Endpoints
from enforcer.native.judge import Judge
from enforcer.native.pool import Connection, Pool
from enforcer.native.stream import SecureStream
from enforcer.native.workload import Identity, Session, Workload
from mesh.problems import Invalid
from mesh.x509svid import VerifiedSvid

CONNECT_SECONDS = 3


class Reach:
    """One called service, as the workload's sidecar reaches it."""

    def __init__(self, workload: Workload, endpoints: Endpoints, service: str, port: int | None) -> None:
        self._workload, self._endpoints = workload, endpoints
        self.service, self.port = service, port
        self._pool = Pool()
        self._era = 0
        self._identity: Identity | None = None
        self._judge: Judge | None = None
        self.handshakes = self.resumed = self.reused = 0

    @property
    def waiting(self) -> int:
        """How many connections wait for an exchange."""
        return len(self._pool)

    def renew(self) -> None:
        """Begin a new era if the workload is known by something else now, or other rules speak of the service."""
        identity, judge = self._workload.identity, self._workload.judge
        before = self._identity
        is_same = identity is before or (identity is not None and before is not None and identity.is_same(before))
        if not is_same or self._judge is None or not judge.says_the_same(self._judge, self.service):
            self._era += 1
            self._pool.clear()
        self._identity, self._judge = identity, judge

    def speaks_http(self) -> bool:
        """Whether whatever is reached here is declared to speak HTTP/1.1."""
        return self._workload.judge.speaks_http(self.service, self.port)

    def take(self) -> Connection | None:
        """A connection that waits, to the endpoint whose turn it is; None when there is none."""
        now = time.monotonic()
        for endpoint in self._endpoints.order(self._is_member, self.port, now)[:1]:
            found = self._pool.take(endpoint, era=self._era, now=now, moment=self._workload.now())
            if found is not None:
                self.reused += 1
                return found
        return None

    def give(self, found: Connection) -> None:
        """Take a connection back after a clean exchange."""
        self._pool.give(found, era=self._era, now=time.monotonic(), moment=self._workload.now())

    async def connect(self, is_wanted: Callable[[], bool]) -> Connection:
        """A new connection.

        1. Only endpoints that the registry gives to an identity of the service are tried.
        2. The identity that counts is the one in the endpoint's verified certificate.
        3. The next endpoint is tried only because nothing has been sent to the last one.

        Raises Invalid LM3221, LM3222, LM3223 or the code of what was wrong with the last endpoint.
        """
        problem = Invalid("LM3221", service=self.service)
        # (1)
        for endpoint in self._endpoints.order(self._is_member, self.port, time.monotonic()):
            try:
                async with asyncio.timeout(CONNECT_SECONDS):
                    return await self._secure(endpoint)
            except Invalid as err:
                problem = err
            except (OSError, TimeoutError):
                problem = Invalid("LM3223", service=self.service)
            # (3)
            self._endpoints.failed(endpoint, time.monotonic())
            if not is_wanted():
                break
        raise problem

    def finished(self, found: Connection) -> None:
        """Keep what a later connection to the same endpoint can resume: of the context that it will be made with."""
        identity = self._workload.identity
        if identity is None or identity is not found.identity or found.era != self._era:
            return
        if identity.wants_session(found.endpoint, time.monotonic()) and (tls := found.stream.session) is not None:
            identity.keep_session(found.endpoint, Session(tls, found.stream.chain))

    def tick(self) -> None:
        """Let a second pass."""
        self._pool.tick(era=self._era, now=time.monotonic(), moment=self._workload.now())

    def close(self) -> None:
        """End the connections that wait."""
        self._pool.clear()

    def recheck(self, used: Iterable[Connection]) -> None:
        """Cut the connections whose other end is, by now, not vouched for or not of the called service."""
        for found in (*self._pool, *used):
            try:
                self._verify(self._workload.require_identity(), found.stream.chain)
            except Invalid:
                found.stream.abort()

    async def _secure(self, endpoint: Endpoint) -> Connection:
        """Connect to an endpoint and know who it is.

        Raises Invalid (LM3020, LM3222, or the verifier's code), OSError.
        """
        loop = asyncio.get_running_loop()
        identity, era = self._workload.require_identity(), self._era
        verified: asyncio.Future[tuple[SecureStream, VerifiedSvid]] = loop.create_future()
        session = identity.session_for(endpoint)

        def secured(stream: SecureStream, peer: VerifiedSvid) -> None:
            stream.pause()
            if not verified.done():
                verified.set_result((stream, peer))

        def refused(_: SecureStream, problem: Invalid) -> None:
            self._workload.signals.handshake("outbound", problem.code)
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
                recall=None if session is None else lambda _: session.chain,
                session=None if session is None else session.tls,
                traffic=self._workload.signals.outbound,
            ),
            endpoint.address,
            endpoint.port,
        )
        try:
            _, peer = await verified
            if era != self._era:  # what vouched for it when the handshake began may not now
                peer = self._verify(self._workload.require_identity(), stream.chain)
        except BaseException:
            stream.abort()
            raise
        if session is not None and not stream.is_resumed:
            identity.drop_session(endpoint)
        self.handshakes += 1
        self._workload.signals.handshake("outbound")
        self.resumed += stream.is_resumed
        return Connection(
            endpoint=endpoint,
            stream=stream,
            era=era,
            peer_ends=peer.not_after,
            ends=min(peer.not_after, identity.svid.not_after),
            born=time.monotonic(),
            identity=identity,
        )

    def _verify(self, identity: Identity, chain: tuple[bytes, ...]) -> VerifiedSvid:
        """Say who is at the other end, and that it is of the called service."""
        peer = identity.verify(chain)
        if not self._is_member(str(peer.spiffe_id)):
            raise Invalid("LM3222", service=self.service, spiffe_id=str(peer.spiffe_id))
        return peer

    def _is_member(self, identity: str) -> bool:
        return self._workload.judge.is_member(identity, self.service)
