"""The way of a gRPC channel to a service: plain HTTP/2 from this very process, our TLS from here on.

An abstract socket that nobody else may use joins each connection of the channel with one to the service. HTTP/2 is not
spoken here; only where its frames end is known, so that a connection whose SVID, bundles or rules are not the present
ones can be told to the channel as one that begins nothing new (GOAWAY, RFC 9113 §6.8). What runs on it ends in peace.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import time
from collections.abc import Callable
from typing import Any

from enforcer.sdk.context import CheckedObject, RenewingContext
from enforcer.sdk.runtime import Limen, log
from mesh.peercred import peer_credentials
from mesh.problems import Invalid

CONNECT_S = 5.0
CHUNK_BYTES = 65536
# an unfinished number of streams (2^31 - 1), and no error
GOAWAY = bytes.fromhex("000008 07 00 00000000 7fffffff 00000000")
_HEAD_BYTES = 9
_HEADERS, _PUSH_PROMISE, _CONTINUATION = 0x1, 0x5, 0x9
_END_HEADERS = 0x4


_Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Frames:
    """Follows the frames of one direction of HTTP/2 (RFC 9113 §4.1), as they arrive in whatever portions."""

    def __init__(self) -> None:
        self._head = b""
        self._left = 0
        self._in_headers = False
        self._has_begun = False

    @property
    def is_between(self) -> bool:
        """Whether a frame of another kind may stand here."""
        return self._has_begun and not self._head and not self._left and not self._in_headers

    def feed(self, data: bytes) -> None:
        """Follow the next bytes."""
        self._has_begun |= bool(data)
        at = 0
        while at < len(data):
            if self._left:
                taken = min(self._left, len(data) - at)
                self._left -= taken
                at += taken
                continue
            taken = min(_HEAD_BYTES - len(self._head), len(data) - at)
            self._head += data[at : at + taken]
            at += taken
            if len(self._head) == _HEAD_BYTES:
                kind, flags = self._head[3], self._head[4]
                self._left = int.from_bytes(self._head[:3])
                if kind in {_HEADERS, _PUSH_PROMISE, _CONTINUATION}:
                    self._in_headers = not flags & _END_HEADERS
                self._head = b""


class Way:
    """An abstract socket at which this very process, and nobody else, reaches a service."""

    def __init__(self, limen: Limen, service: str, port: int | None) -> None:
        self._limen, self._service, self._port = limen, service, port
        self._context: RenewingContext = limen.client_context(service)
        self._context.set_alpn_protocols(["h2"])
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> str:
        name = f"limen-{os.getpid()}-{secrets.token_hex(16)}"
        self._server = await asyncio.start_unix_server(self._join, f"\0{name}", limit=CHUNK_BYTES)
        return f"unix-abstract:{name}"

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for writer in [*self._open]:
            writer.transport.abort()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Join a connection of our own with one to the service; a stranger's is hung up on."""
        self._open.add(writer)
        try:
            if peer_credentials(writer.get_extra_info("socket")).pid == os.getpid():
                await self._reach(reader, writer)
        except OSError as err:
            log.warning("a connection to %s ended: %s", self._service, err)
        except asyncio.CancelledError:
            pass  # the program ends; asyncio 3.11 would tell of it as of an error that nobody looked at
        finally:
            self._open.discard(writer)
            writer.transport.abort()

    async def _reach(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Connect to a place of the service, the next one if that fails: nothing was sent to the last one."""
        for place in self._limen.places(self._service, self._port, time.monotonic()):
            is_stale = self._limen.staleness(self._service)
            try:
                async with asyncio.timeout(CONNECT_S):
                    there, back = await asyncio.open_connection(
                        place.address, place.port, ssl=self._context, limit=CHUNK_BYTES
                    )
            except (OSError, Invalid, TimeoutError) as err:
                log.warning("%s was not reached: %s", self._service, err)
                self._limen.failed(place, time.monotonic())
                continue
            await self._carry((reader, writer), (there, back), is_stale)
            return
        log.warning("%s", Invalid("LM3221", service=self._service))

    async def _carry(self, ours: _Ends, theirs: _Ends, is_stale: Callable[[CheckedObject | None], bool]) -> None:
        """Carry bytes both ways until one side ends."""
        (reader, writer), (there, back) = ours, theirs
        self._open.add(back)
        tls = back.get_extra_info("ssl_object")
        answers = _Answers(writer, lambda: is_stale(tls if isinstance(tls, CheckedObject) else None))
        loop = asyncio.get_running_loop()

        def changed() -> None:
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(answers.look)

        self._limen.watch(changed)
        try:
            await _either(_pump(reader, back.write, back), _pump(there, answers.write, writer))
        finally:
            self._limen.unwatch(changed)
            self._open.discard(back)
            back.transport.abort()


class _Answers:
    """What comes back from the service, and once the word that nothing new is to begin."""

    def __init__(self, writer: asyncio.StreamWriter, is_stale: Callable[[], bool]) -> None:
        self._writer, self._is_stale = writer, is_stale
        self._frames = Frames()
        self._is_told = False

    def write(self, data: bytes) -> None:
        """Pass on the next bytes."""
        self._writer.write(data)
        self._frames.feed(data)
        self.look()

    def look(self) -> None:
        """Tell the channel, where it may stand, that the connection is not the one of now."""
        if not self._is_told and self._frames.is_between and self._is_stale():
            self._is_told = True
            self._writer.write(GOAWAY)


async def _pump(reader: asyncio.StreamReader, write: Callable[[bytes], None], writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(CHUNK_BYTES):
        write(data)
        await writer.drain()


async def _either(*work: Any) -> None:  # noqa: ANN401  coroutines
    """Run until one of them ends; HTTP/2 has no half that stays open. Raises what that one raises."""
    tasks = [asyncio.ensure_future(found) for found in work]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
