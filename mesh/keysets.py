"""The key sets of other people's issuers: fetched with bounds, kept, and asked for again when a key is missing.

Blocking, and called on threads of its own: an issuer that hangs never holds up the server's own work. A key set that
was read once serves for a day when its issuer is gone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import pathlib
import socket
import ssl
import threading
import time
import urllib.parse
from collections.abc import Callable

from mesh.jwks import MAX_BYTES, JwtKey, parse_jwks
from mesh.problems import Invalid, Unavailable

REFRESH_S, KEEP_S = 300.0, 86_400.0
# a token with an unknown `kid` makes us ask the issuer, but not more often than this
AGAIN_S = 10.0
FETCH_WITHIN_S = 5.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where a key set is: a path or a URL, the authorities of its TLS (PEM, empty for the system's), a bearer token."""

    place: str
    ca: bytes = b""
    token_path: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Held:
    """Keys, and their age in seconds."""

    keys: tuple[JwtKey, ...]
    age_s: float


Fetch = Callable[[Source], bytes]


class KeySets:
    """All key sets that were asked for. ``moment`` is a monotonic clock."""

    def __init__(self, fetch: Fetch | None = None, moment: Callable[[], float] = time.monotonic) -> None:
        self._fetch, self._moment = fetch or read_source, moment
        self._kept: dict[Source, tuple[tuple[JwtKey, ...], float]] = {}
        self._tried: dict[Source, float] = {}
        self._locks: dict[Source, threading.Lock] = {}

    def get(self, source: Source, kid: str) -> tuple[JwtKey, ...]:
        """The keys of a source, as `held` has them."""
        return self.held(source, kid).keys

    def held(self, source: Source, kid: str = "") -> Held:
        """The keys of a source, and how long ago they were read.

        1. What is kept and fresh, and holds the key that is asked for, is given.
        2. Otherwise the source is asked, if that was not done just now.
        3. What is kept is given for a day; then, and without any, there are no keys.

        Raises Unavailable LM1249 for (3).
        """
        # one question at a time to each source; sources come from the configuration, so there are few
        with self._locks.setdefault(source, threading.Lock()):
            now = self._moment()
            # (1)
            keys, then = self._kept.get(source, ((), float("-inf")))
            if now - then < REFRESH_S and (not kid or any(key.kid == kid for key in keys)):
                return Held(keys, now - then)
            # (2)
            reason = "it was asked just now"
            if now - self._tried.get(source, float("-inf")) >= AGAIN_S:
                self._tried[source] = now
                try:
                    keys, then = parse_jwks(self._fetch(source)), now
                    self._kept[source] = (keys, then)
                except (OSError, ValueError, http.client.HTTPException) as err:
                    reason = getattr(err, "strerror", None) or str(err) or type(err).__name__
                except Invalid as problem:
                    reason = str(problem.facts.get("reason", ""))
            # (3)
            if now - then >= KEEP_S:
                raise Unavailable("LM1249", source=source.place, reason=reason)
            return Held(keys, now - then)


def read_source(source: Source) -> bytes:
    """Read a key set from a file, or fetch it: no redirects, a bounded size, a bounded time for all of it.

    Raises OSError, ValueError or HTTPException.
    """
    if "://" not in source.place:
        with pathlib.Path(source.place).open("rb") as file:
            return file.read(MAX_BYTES + 1)
    parts = urllib.parse.urlsplit(source.place)
    if parts.scheme == "https":
        context = ssl.create_default_context(cadata=source.ca.decode("ascii") if source.ca else None)
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            parts.hostname or "", parts.port, timeout=FETCH_WITHIN_S, context=context
        )
    else:
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=FETCH_WITHIN_S)
    headers = {"accept": "application/jwk-set+json, application/json"}
    if source.token_path:
        headers["authorization"] = f"Bearer {pathlib.Path(source.token_path).read_text('ascii').strip()}"
    # a timeout of the socket is for each read: whoever sends a byte now and then could hold us for hours
    alarm = threading.Timer(FETCH_WITHIN_S, _cut, (connection,))
    alarm.daemon = True
    began = time.monotonic()
    alarm.start()
    try:
        connection.request("GET", f"{parts.path or '/'}{'?' + parts.query if parts.query else ''}", headers=headers)
        response = connection.getresponse()
        if response.status != 200:
            raise ValueError(f"it answered {response.status}")
        found = b""
        while len(found) <= MAX_BYTES and (part := response.read1(16_384)):
            found += part
        # by the clock: the thread that cut the connection may still be in the middle of that
        if time.monotonic() - began >= FETCH_WITHIN_S and len(found) <= MAX_BYTES:
            raise TimeoutError("it took too long")
        return found
    finally:
        alarm.cancel()
        connection.close()


def _cut(connection: http.client.HTTPConnection) -> None:
    """End a connection, whatever it waits for."""
    sock = connection.sock
    if sock is not None:
        with contextlib.suppress(OSError):
            socket.socket.shutdown(sock, socket.SHUT_RDWR)
