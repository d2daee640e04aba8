"""Streams over loopback, on both event loops: silence before verification, ends, cuts and pauses."""

from __future__ import annotations

import asyncio
import dataclasses
import ssl
from collections.abc import Awaitable, Callable, Coroutine
from typing import cast

import pytest
import uvloop

from enforcer.native.stream import PlainStream, SecureStream
from mesh.clock import SystemClock
from mesh.problems import Invalid
from mesh.tls import client_context, server_context
from mesh.x509svid import VerifiedSvid, verify_x509_svid
from tests.enforcer.native.harness import DB, WEB, Realm

LOOPS = [pytest.param(uvloop.new_event_loop, id="uvloop"), pytest.param(asyncio.new_event_loop, id="asyncio")]
Loop = Callable[[], asyncio.AbstractEventLoop]


@dataclasses.dataclass
class Log:
    """A sink that remembers."""

    data: bytes = b""
    events: list[str] = dataclasses.field(default_factory=list)
    changed: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)

    def received(self, data: bytes) -> None:
        self.data += data
        self.changed.set()

    def ended(self) -> None:
        self.events.append("ended")
        self.changed.set()

    def lost(self) -> None:
        self.events.append("lost")
        self.changed.set()

    def writable(self, *, ready: bool) -> None:
        self.events.append("ready" if ready else "full")

    async def until(self, claim: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not claim():
                self.changed.clear()
                await self.changed.wait()


@dataclasses.dataclass
class Ends:
    """Both ends of a connection, with what was told about them."""

    client: SecureStream
    client_log: Log
    server: SecureStream
    server_log: Log


def run(loop: Loop, work: Coroutine[object, object, None]) -> None:
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(work)


async def connected(
    corp: Realm,
    use: Callable[[Ends], Awaitable[None]],
    *,
    verify: Callable[[tuple[bytes, ...]], VerifiedSvid] | None = None,
    refusals: list[tuple[str, str]] | None = None,
) -> None:
    """Connect two secure streams and use them; refusals are collected when the test wants them."""
    bundles = {corp.trust_domain: corp.bundle}

    def check(chain: tuple[bytes, ...]) -> VerifiedSvid:
        return verify_x509_svid(chain, bundles, SystemClock().now())

    told: list[tuple[str, str]] = [] if refusals is None else refusals
    ready: dict[str, asyncio.Event] = {"client": asyncio.Event(), "server": asyncio.Event()}
    made: dict[str, SecureStream] = {}
    logs = {"client": Log(), "server": Log()}

    def stream(side: str, context: ssl.SSLContext) -> SecureStream:
        def secured(found: SecureStream, _: VerifiedSvid) -> None:
            found.sink = logs[side]
            ready[side].set()

        def refused(_: SecureStream, problem: Invalid) -> None:
            told.append((side, problem.code))
            ready[side].set()

        checker = verify if verify is not None and side == "client" else check
        made[side] = SecureStream(
            context, server_side=side == "server", verify=checker, secured=secured, refused=refused
        )
        return made[side]

    running = asyncio.get_running_loop()
    serving, calling = server_context(corp.svid(DB), bundles), client_context(corp.svid(WEB), bundles)
    server = await running.create_server(lambda: stream("server", serving), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    await running.create_connection(lambda: stream("client", calling), "127.0.0.1", port)
    async with asyncio.timeout(60):
        for event in ready.values():
            await event.wait()
    if not told:
        await use(Ends(made["client"], logs["client"], made["server"], logs["server"]))
    for found in made.values():
        found.abort()
    server.close()
    await asyncio.sleep(0)


@pytest.mark.parametrize("loop", LOOPS)
def test_bytes_pass_and_each_direction_ends_by_itself(loop: Loop, corp: Realm) -> None:
    async def use(ends: Ends) -> None:
        ends.client.write(b"x" * 100_000)
        ends.client.write_eof()
        ends.client.write(b"after the end")
        await ends.server_log.until(lambda: "ended" in ends.server_log.events)
        assert ends.server_log.data == b"x" * 100_000
        ends.server.write(b"still here")
        await ends.client_log.until(lambda: ends.client_log.data == b"still here")
        ends.server.close()
        await ends.client_log.until(lambda: "ended" in ends.client_log.events)
        ends.client.close()
        await ends.server_log.until(lambda: "lost" in ends.server_log.events)

    run(loop, connected(corp, use))


@pytest.mark.parametrize("loop", LOOPS)
def test_a_connection_that_is_cut_is_lost_and_not_ended(loop: Loop, corp: Realm) -> None:
    async def use(ends: Ends) -> None:
        ends.client.write(b"half a mess")
        await ends.server_log.until(lambda: ends.server_log.data == b"half a mess")
        ends.client.abort()
        await ends.server_log.until(lambda: "lost" in ends.server_log.events)
        assert "ended" not in ends.server_log.events

    run(loop, connected(corp, use))


@pytest.mark.parametrize("loop", LOOPS)
def test_a_paused_stream_hands_on_nothing_and_loses_nothing(loop: Loop, corp: Realm) -> None:
    async def use(ends: Ends) -> None:
        ends.server.pause()
        for _ in range(50):
            ends.client.write(b"y" * 10_000)
        ends.client.write_eof()
        for _ in range(20):
            await asyncio.sleep(0)
        ends.server.write_eof()
        assert ends.server_log.data == b""
        ends.server.resume()
        await ends.server_log.until(lambda: "ended" in ends.server_log.events)
        assert ends.server_log.data == b"y" * 500_000

    run(loop, connected(corp, use))


@pytest.mark.parametrize("loop", LOOPS)
def test_a_caller_that_does_not_believe_the_server_never_completes_the_handshake(loop: Loop, corp: Realm) -> None:
    refusals: list[tuple[str, str]] = []

    def disbelieve(_: tuple[bytes, ...]) -> VerifiedSvid:
        raise Invalid("LM3222", service="db", spiffe_id=DB)

    async def use(_: Ends) -> None:
        raise AssertionError("nothing may be used")

    run(loop, connected(corp, use, verify=disbelieve, refusals=refusals))
    assert sorted(refusals) == [("client", "LM3222"), ("server", "LM3020")]


@pytest.mark.parametrize("loop", LOOPS)
def test_a_plain_stream_begins_paused_until_it_has_a_sink(loop: Loop) -> None:
    async def use() -> None:
        running = asyncio.get_running_loop()
        server = await running.create_server(_Greeter, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        _, stream = await running.create_connection(PlainStream, "127.0.0.1", port)
        for _ in range(10):
            await asyncio.sleep(0.001)
        log = Log()
        stream.sink = log
        stream.resume()
        await log.until(lambda: "ended" in log.events)
        assert log.data == b"hello"
        stream.close()
        await log.until(lambda: "lost" in log.events)
        server.close()

    run(loop, use())


class _Greeter(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        found = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance
        found.write(b"hello")
        found.close()
