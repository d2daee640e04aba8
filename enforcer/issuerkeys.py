"""Keys of the issuers that releases declare: fetched by the agent, kept for a day, told to every sidecar.

The agent fetches, and not the server: where keys come from is in the release that the reviewers signed, so that a
stolen server cannot choose them. And not the sidecar: it stands beside the workload and talks to nobody but its agent.
Fetching is `mesh.keysets`'s, bounded in time and size, on threads of its own. Nothing is verified here.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import datetime as dt
from collections.abc import Callable, Iterable

import structlog

from mesh.clock import Clock, format_time
from mesh.jwks import format_jwks
from mesh.keysets import AGAIN_S, KEEP_S, Held, KeySets, Source
from mesh.problems import Unavailable
from policyengine.model import PolicySet

MAX_SOURCES = 256
_THREADS = 4
_ANOTHER = "\0"  # no key has this name, so that a set which lacks some key is asked for again

Message = dict[str, object]


class IssuerKeys:
    """The key sets of one host. ``tell`` reaches every sidecar."""

    def __init__(self, clock: Clock, tell: Callable[[Message], None], sets: KeySets | None = None) -> None:
        self._clock, self._tell, self._sets = clock, tell, sets or KeySets()
        self._sources: dict[str, Source] = {}
        self._held: dict[str, tuple[Held, dt.datetime]] = {}
        self._missed: dict[str, dt.datetime] = {}
        self._unreachable: set[str] = set()
        self._news = asyncio.Event()
        self._pool = concurrent.futures.ThreadPoolExecutor(_THREADS, thread_name_prefix="issuer-keys")
        self._log = structlog.get_logger()

    def want(self, releases: Iterable[PolicySet | None]) -> None:
        """Have the keys of every issuer that some release declares by an address, and forget the others."""
        wanted = {
            issuer.source: Source(place=issuer.jwks_uri, ca=issuer.ca.encode("ascii"))
            for found in releases
            if found is not None
            for issuer in found.issuers
            if issuer.jwks_uri is not None
        }
        if wanted == self._sources:
            return
        self._sources = dict(list(wanted.items())[:MAX_SOURCES])
        self._held = {name: held for name, held in self._held.items() if name in self._sources}
        self._news.set()
        self._tell(self.message())

    def missed(self, sources: Iterable[object]) -> None:
        """Ask again for sets that lacked the key of a token; how often is `mesh.keysets`'s to bound."""
        for name in sources:
            if isinstance(name, str) and name in self._sources:
                self._missed.setdefault(name, self._clock.now())
                self._news.set()

    def message(self) -> Message:
        """What sidecars are told: every set, and until when it counts."""
        return {
            "type": "keys",
            "sets": [
                {"source": name, "jwks": format_jwks(held.keys).decode(), "until": format_time(until)}
                for name, (held, until) in sorted(self._held.items())
            ],
        }

    async def run(self) -> None:
        """Keep all sets fresh, until cancelled."""
        try:
            while True:
                self._news.clear()
                await asyncio.gather(*(self._refresh(name, source) for name, source in tuple(self._sources.items())))
                try:
                    async with asyncio.timeout(AGAIN_S):
                        await self._news.wait()
                except TimeoutError:
                    continue
        finally:
            self._pool.shutdown(wait=False, cancel_futures=True)

    async def _refresh(self, name: str, source: Source) -> None:
        """Have one set.

        1. What is fresh comes from memory; a set that lacked a key is asked for again.
        2. Sidecars are told of other keys, and of those that were read anew: they count for a day from then.
        """
        # (1)
        kid = _ANOTHER if name in self._missed else ""
        try:
            held = await asyncio.get_running_loop().run_in_executor(self._pool, self._sets.held, source, kid)
        except Unavailable as problem:
            if name not in self._unreachable:
                self._log.warning("keys of an issuer are not to be had", code=problem.code, reason=problem.message)
            self._unreachable.add(name)
            return
        self._unreachable.discard(name)
        if self._sources.get(name) != source:
            return
        read_at = self._clock.now() - dt.timedelta(seconds=held.age_s)
        if name in self._missed and read_at >= self._missed[name]:
            del self._missed[name]
        # (2)
        until = read_at + dt.timedelta(seconds=KEEP_S)
        before = self._held.get(name)
        if before is None or before[0].keys != held.keys or until - before[1] > dt.timedelta(seconds=1):
            self._held[name] = held, until
            self._tell(self.message())
