"""One issuing authority from an upstream, through every failure: a key, a request, an answer, and only then a record.

A request that failed is sent again with the same key, so that an upstream that people serve sees one request and not
a hundred, and so that a kill at any moment leaves a state from which the next try goes on. Who becomes active when
is not decided here.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import secrets
from collections.abc import Callable

import sqlalchemy as sa

from ca import neighbours
from ca.keys import KeyAlgorithm, SigningKey
from ca.keysource import KeySource
from ca.upstream.chain import Upstream, Upstreamed, accept, build_csr
from mesh.clock import format_time
from mesh.database import transaction
from mesh.problems import NotFound
from mesh.spiffe import TrustDomain

_REQUESTS = sa.table("ca_upstream_requests", sa.column("name"), sa.column("csr"), sa.column("since"))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """An issuing authority that is ready to be recorded: its key, its key's name, and its chain."""

    name: str
    key: SigningKey
    chain: tuple[bytes, ...]
    roots: tuple[bytes, ...]
    not_after: dt.datetime


class UpstreamRequests:
    """Asks one upstream for issuing certificates."""

    def __init__(
        self,
        *,
        engine: sa.Engine,
        keys: KeySource,
        upstream: Upstream,
        trust_domain: TrustDomain,
        algorithm: KeyAlgorithm = KeyAlgorithm.P256,
        random: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._engine, self._keys, self._upstream = engine, keys, upstream
        self._trust_domain, self._algorithm, self._random = trust_domain, algorithm, random
        self._answers: dict[str, Upstreamed] = {}

    @property
    def name(self) -> str:
        """Who the upstream is, for people; `offline` for one that people carry requests to."""
        return self._upstream.name

    def prepare(self, now: dt.datetime) -> Prepared:
        """Get one issuing authority.

        1. The request that was begun before and still has its key, or a new key and a request for it, recorded.
        2. The upstream signs it.
        3. The answer is checked with the key.

        The caller records the authority, and calls `settle` in the same transaction.

        Raises UpstreamPending LM1615, Unavailable LM1613, Forbidden LM1612, Invalid LM1611 and LM1614: the request
        stays, and is sent again the next time. Raises also what the key source raises.
        """
        # (1)
        name, csr, key = self._begun() or self._begin(now)
        # (2)
        answer = self._upstream.mint(csr, now)
        # (3)
        found = accept(answer, key, self._trust_domain, now, upstream=self._upstream.name)
        self._answers[name] = found
        return Prepared(name=name, key=key, chain=found.chain, roots=found.roots, not_after=found.not_after)

    def settle(self, connection: sa.Connection, name: str) -> None:
        """Forget a request whose authority is recorded in the same transaction.

        An upstream that told its trust state is believed from the same moment on.
        """
        answer = self._answers.pop(name, None)
        if answer is not None and answer.state is not None:
            neighbours.put_above(connection, answer.state, answer.trust)
        connection.execute(sa.delete(_REQUESTS).where(_REQUESTS.c.name == name))

    def names(self) -> frozenset[str]:
        """The keys of requests that wait: nobody may sweep them away."""
        with transaction(self._engine) as connection:
            return frozenset(str(row[0]) for row in connection.execute(sa.select(_REQUESTS.c.name)))

    def _begun(self) -> tuple[str, bytes, SigningKey] | None:
        with transaction(self._engine) as connection:
            rows = connection.execute(sa.select(_REQUESTS).order_by(_REQUESTS.c.since, _REQUESTS.c.name)).all()
        for row in rows:
            try:
                return str(row.name), bytes(row.csr), self._keys.load(row.name)
            except NotFound:
                # the key was in the memory of a process that ended: its request is worth nothing
                with transaction(self._engine) as connection:
                    self.settle(connection, row.name)
        return None

    def _begin(self, now: dt.datetime) -> tuple[str, bytes, SigningKey]:
        name = self._random(8).hex()
        key = self._keys.new(name, self._algorithm)
        csr = build_csr(key, self._trust_domain)
        with transaction(self._engine) as connection:
            connection.execute(sa.insert(_REQUESTS).values(name=name, csr=csr, since=format_time(now)))
        return name, csr, key
