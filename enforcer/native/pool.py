"""Connections to endpoints of a called service that wait for their next exchange, and which of them may have one.

A connection is kept only after an exchange that ended cleanly, serves one exchange at a time, and is used again only
for what it was made for: the same endpoint, whose verified identity it knows, under the same SVID, bundles and rules
(an `era`). Everything is bounded: how many wait, how long they wait, how long they live. This module opens no
connection and decides nothing about requests.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Iterator

from enforcer.native.endpoints import Endpoint
from enforcer.native.stream import SecureStream

MAX_IDLE = 64
MAX_IDLE_SECONDS = 20  # less than the called side's `limits.Limits.idle_s`, which would close it
MAX_LIFE_SECONDS = 3600
# the called side closes what waits a little before a certificate ends (`listener.DRAIN`)
BEFORE_THE_END = dt.timedelta(seconds=15)


@dataclasses.dataclass(slots=True, eq=False)
class Connection:
    """A verified connection to an endpoint, until ``ends``: the earlier end of the two certificates.

    ``peer_ends`` is the end of the peer's alone; ``born`` and ``idle_since`` are monotonic seconds. ``identity`` is
    whose TLS context it was made with.
    """

    endpoint: Endpoint
    stream: SecureStream
    era: int
    peer_ends: dt.datetime
    ends: dt.datetime
    born: float
    idle_since: float = 0.0
    identity: object = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """How an exchange ended."""

    request_was_sent: bool
    answer_is_complete: bool
    answer_has_an_end: bool
    peer_keeps: bool
    nothing_more_came: bool

    @property
    def is_clean(self) -> bool:
        """Whether the next exchange on the connection cannot meet anything of this one.

        1. The request was sent whole: nobody waits for the rest of it.
        2. The answer came whole, and ended by its own framing, not with the connection.
        3. The peer did not say that it closes.
        4. Nothing came after the answer: it would be taken for the next one.
        """
        return (
            self.request_was_sent  # (1)
            and self.answer_is_complete  # (2)
            and self.answer_has_an_end
            and self.peer_keeps  # (3)
            and self.nothing_more_came  # (4)
        )


def may_serve(found: Connection, *, era: int, now: float, moment: dt.datetime) -> bool:
    """Whether a connection may have another exchange, as far as time and rules go."""
    return (
        found.era == era
        and now - found.born < MAX_LIFE_SECONDS
        and moment < found.ends - BEFORE_THE_END
        and (not found.idle_since or now - found.idle_since < MAX_IDLE_SECONDS)
    )


class _Idle:
    """A `Sink` for a connection that waits: whatever happens to it ends it."""

    __slots__ = ("_found", "_pool")

    def __init__(self, pool: Pool, found: Connection) -> None:
        self._pool, self._found = pool, found

    def received(self, data: bytes) -> None:  # noqa: ARG002  the protocol's name
        self._pool.drop(self._found)

    def ended(self) -> None:
        self._pool.drop(self._found)

    def lost(self) -> None:
        self._pool.drop(self._found)

    def writable(self, *, ready: bool) -> None:
        """Nothing is being sent."""


class Pool:
    """The connections that wait, by endpoint."""

    def __init__(self) -> None:
        self._idle: dict[Endpoint, list[Connection]] = {}
        self._count = 0

    def __len__(self) -> int:
        """How many wait."""
        return self._count

    def __iter__(self) -> Iterator[Connection]:
        """All that wait."""
        return (found for waiting in list(self._idle.values()) for found in list(waiting))

    def take(self, endpoint: Endpoint, *, era: int, now: float, moment: dt.datetime) -> Connection | None:
        """A connection to an endpoint for one exchange, the one that waited least; None when there is none.

        One on which anything arrived while it waited is none: the peer has closed it, or speaks out of turn.
        """
        waiting = self._idle.get(endpoint)
        while waiting:
            found = waiting[-1]
            self._remove(found)
            if may_serve(found, era=era, now=now, moment=moment) and found.stream.is_quiet:
                found.stream.sink = None
                found.idle_since = 0.0
                return found
            found.stream.sink = None
            found.stream.close()
        return None

    def give(self, found: Connection, *, era: int, now: float, moment: dt.datetime) -> None:
        """Let a connection wait after a clean exchange; one that may not serve again is closed.

        When too many wait, the one that has waited longest goes.
        """
        found.idle_since = now
        if not may_serve(found, era=era, now=now, moment=moment):
            found.stream.sink = None
            found.stream.close()
            return
        if self._count >= MAX_IDLE:
            self.drop(min(self, key=lambda other: other.idle_since))
        found.stream.sink = _Idle(self, found)
        self._idle.setdefault(found.endpoint, []).append(found)
        self._count += 1
        found.stream.resume()

    def drop(self, found: Connection) -> None:
        """End a connection that waits."""
        if self._remove(found):
            found.stream.sink = None
            found.stream.close()

    def tick(self, *, era: int, now: float, moment: dt.datetime) -> None:
        """Let time pass: what has waited or lived too long ends."""
        for found in self:
            if not may_serve(found, era=era, now=now, moment=moment):
                self.drop(found)

    def clear(self) -> None:
        """End all that wait."""
        for found in self:
            self.drop(found)

    def _remove(self, found: Connection) -> bool:
        waiting = self._idle.get(found.endpoint, [])
        if found not in waiting:
            return False
        waiting.remove(found)
        if not waiting:
            del self._idle[found.endpoint]
        self._count -= 1
        return True
