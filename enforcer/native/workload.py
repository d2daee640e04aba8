"""The one workload that a sidecar stands beside: its identity, its rules, its clock, and what it has to tell.

Listeners share it and ask it again for every connection and request, so that a rotation or a new policy holds from
the next one on. Who a peer is, only the verifier says; its answers are kept for a short while, per exact chain.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import ssl
import sys
from collections.abc import Callable, Coroutine, Mapping
from typing import NamedTuple

from enforcer.native.judge import Judge
from enforcer.native.limits import SHED
from enforcer.native.records import Recorder
from enforcer.native.signals import Signals
from enforcer.native.spans import Tracer
from mesh.bundle import TrustBundle
from mesh.clock import Clock
from mesh.problems import Invalid
from mesh.spiffe import TrustDomain
from mesh.tls import client_context, server_context
from mesh.x509svid import VerifiedSvid, X509Svid, verify_x509_svid

REVERIFY = dt.timedelta(seconds=60)
CLOCK_TOLERANCE = dt.timedelta(seconds=60)
_MAX_KNOWN_CHAINS = 1024
SESSION_SECONDS = 600
_MAX_RESUMABLE = 1024

Chain = tuple[bytes, ...]


class Session(NamedTuple):
    """What a later connection to the same place resumes, and the chain that the peer had shown."""

    tls: ssl.SSLSession
    chain: Chain


class Identity:
    """An SVID with the bundles that came with it, the TLS contexts made of them, and what may be resumed under them.

    Whatever is resumed is verified again, by the chain that the peer showed when it was not resumed. Tickets hang on
    the server's context, so that one made anew forgets all of them at once.
    """

    def __init__(self, svid: X509Svid, bundles: Mapping[TrustDomain, TrustBundle], clock: Clock) -> None:
        self.svid, self.bundles, self._clock = svid, bundles, clock
        self.server: ssl.SSLContext = server_context(svid, bundles, tickets=True)
        self.client: ssl.SSLContext = client_context(svid, bundles)
        self._known: dict[Chain, tuple[VerifiedSvid, dt.datetime]] = {}
        self._admitted: dict[bytes, Chain] = {}
        self._sessions: dict[object, Session] = {}
        self._asked: dict[object, float] = {}

    def is_same(self, other: Identity) -> bool:
        """Whether the other is the same SVID with the same bundles."""
        return self.svid.chain_der == other.svid.chain_der and self.bundles == other.bundles

    def forget_sessions(self) -> None:
        """Resume nothing from before: neither our tickets that others hold nor those that we hold."""
        self.server = server_context(self.svid, self.bundles, tickets=True)
        self._admitted = {}  # a handshake under way goes by the one before
        self._sessions.clear()
        self._asked.clear()

    def admit(self, chain: Chain) -> VerifiedSvid:
        """Say who presented a chain to the server's context, and remember it for when it resumes.

        Raises Invalid (SvidError) with the rule that the chain breaks.
        """
        peer = self.verify(chain)
        if chain[0] not in self._admitted:
            if len(self._admitted) >= _MAX_RESUMABLE:
                self.forget_sessions()  # nobody shall hold a ticket whose chain is forgotten
            self._admitted[chain[0]] = chain
        return peer

    @property
    def recall(self) -> Callable[[bytes], Chain]:
        """By a leaf, the chain that a caller showed who now resumes under the present context; empty for none."""
        admitted = self._admitted
        return lambda leaf: admitted.get(leaf, ())

    def wants_session(self, place: object, now: float) -> bool:
        """Whether a connection that ends should be asked for what a later one to the place can resume.

        One session serves many connections, and a place that gave none of use is asked again after ten minutes:
        CPython 3.11 loses some 6 KB each time that it hands out a session. ``now`` is in monotonic seconds.
        """
        if place in self._sessions or now - self._asked.get(place, -SESSION_SECONDS) < SESSION_SECONDS:
            return False
        if len(self._asked) >= _MAX_RESUMABLE:
            self._sessions.clear()
            self._asked.clear()
        self._asked[place] = now
        return True

    def keep_session(self, place: object, session: Session) -> None:
        """Keep what later connections to a place can resume."""
        self._sessions[place] = session

    def session_for(self, place: object) -> Session | None:
        """What a connection to a place can resume."""
        return self._sessions.get(place)

    def drop_session(self, place: object) -> None:
        """Forget a session that the other side did not take."""
        self._sessions.pop(place, None)

    def verify(self, chain: Chain) -> VerifiedSvid:
        """Say who presented a chain. The same chain is not verified twice within a minute.

        Raises Invalid (SvidError) with the rule that the chain breaks.
        """
        now = self._clock.now()
        known = self._known.get(chain)
        if known is not None and dt.timedelta() <= now - known[1] < REVERIFY and now < known[0].not_after:
            return known[0]
        peer = verify_x509_svid(chain, self.bundles, now)
        if len(self._known) >= _MAX_KNOWN_CHAINS:
            self._known.clear()
        self._known[chain] = (peer, now)
        return peer


class Workload:
    """What the listeners of one sidecar share."""

    def __init__(self, clock: Clock, recorder: Recorder, tasks: asyncio.TaskGroup) -> None:
        self.clock, self.recorder, self._tasks = clock, recorder, tasks
        self.identity: Identity | None = None
        self.judge = Judge("", None, None)
        self.tracer: Tracer | None = None
        self.signals = Signals()
        self._highest: dt.datetime | None = None
        self._recent = clock.now()

    @property
    def name(self) -> str:
        """The workload's SPIFFE ID; empty before it has one."""
        return str(self.identity.svid.spiffe_id) if self.identity is not None else ""

    def now(self) -> dt.datetime:
        """The present moment, for records."""
        self._recent = now = self.clock.now()
        return now

    def recent(self) -> dt.datetime:
        """When somebody asked for the present moment last: at most a tick ago, which is near enough for flows."""
        return self._recent

    def decision_time(self, now: dt.datetime | None = None) -> dt.datetime | None:
        """The present moment, for decisions; None while the clock is far behind what it said before (design D13).

        ``now`` is what the clock said a moment ago, where somebody has just asked it.
        """
        if now is None:
            now = self.clock.now()
        if self._highest is None or now > self._highest:
            self._highest = now
        return None if self._highest - now > CLOCK_TOLERANCE else now

    def waits_for_disk(self, answer: Callable[[], None], code: str = "") -> bool:
        """Whether an answer has to wait until what was recorded last is on a disk; it is called then.

        What is shed for want of room, by its ``code``, waits for nothing: the disk may be what has none.
        """
        return code not in SHED and self.recorder.waits_for_disk(answer)

    def require_identity(self) -> Identity:
        """The identity.

        Raises Invalid LM3012 while there is none.
        """
        if self.identity is None:
            raise Invalid("LM3012")
        return self.identity

    def admit(self, begun: Identity, chain: Chain) -> VerifiedSvid:
        """Say who presented a chain in a handshake that began under an identity.

        What a caller may hold open for as long as a handshake takes, so that the bundles of this moment decide too:
        those of the beginning may vouch for somebody who has been revoked meanwhile.
        Raises Invalid: LM3012, or SvidError with the rule that the chain breaks.
        """
        peer = begun.admit(chain)
        return peer if begun is self.identity else self.require_identity().verify(chain)

    def start(self, work: Coroutine[object, object, None], broken: Callable[[], None] | None = None) -> None:
        """Run something beside everything else. What fails in it ends it alone; ``broken`` closes what waits for it."""
        self._tasks.create_task(_contained(work, broken))


async def _contained(work: Coroutine[object, object, None], broken: Callable[[], None] | None) -> None:
    try:
        await work
    except Exception as err:  # noqa: BLE001  the edge of one connection: a bug in it must not end the others
        sys.stderr.write(f"LM3009 a connection failed: {type(err).__name__}\n")
        if broken is not None:
            broken()
