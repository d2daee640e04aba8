"""Who came in by which door, a record for each once in a quarter of an hour; and who was refused.

A command of `limen` is a connection of its own, and a program fetches every few seconds: one record for each would say
nothing more. Who is refused may be anybody, so that their records are few whoever tries. Works on the worker thread.
"""

from __future__ import annotations

import datetime as dt
from typing import Protocol

from mesh.clock import Clock

AGAIN = dt.timedelta(minutes=15)
REFUSED_AGAIN = dt.timedelta(minutes=1)
MAX_KNOWN = 4096


class Record(Protocol):
    """What puts a record into the log."""

    def __call__(self, kind: str, actor: str, **fields: object) -> None:
        """Put it there; durable when it returns."""


class Logins:
    """What is known of those who came."""

    def __init__(self, record: Record, clock: Clock) -> None:
        self._record, self._clock = record, clock
        self._known: dict[tuple[str, str], dt.datetime] = {}
        self._tries: dict[tuple[str, str], int] = {}

    def came(self, door: str, actor: str) -> None:
        """Record that somebody came in, before anything is done for him."""
        if self._is_due(("came", door + actor), AGAIN):
            self._record("login", actor, event="in", door=door)

    def refused(self, door: str, code: str) -> None:
        """Record that somebody was not let in, and how many were since the last such record."""
        key = door, code
        self._tries[key] = self._tries.get(key, 0) + 1
        if self._is_due(("refused", door + code), REFUSED_AGAIN):
            self._record("login", "stranger", event="refused", door=door, code=code, tries=self._tries.pop(key))

    def _is_due(self, key: tuple[str, str], again: dt.timedelta) -> bool:
        now = self._clock.now()
        last = self._known.pop(key, None)
        if last is not None and dt.timedelta() <= now - last < again:
            self._known[key] = last
            return False
        self._known[key] = now
        if len(self._known) > MAX_KNOWN:
            del self._known[next(iter(self._known))]
        return True
