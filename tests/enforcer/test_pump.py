import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

from enforcer.pump import CHUNK_BYTES, pump


@contextlib.asynccontextmanager
async def stream(ours: socket.socket) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_unix_connection(sock=ours)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def test_hands_on_all_that_comes_and_then_the_end() -> None:
    async def run() -> None:
        (here, there), (back, far) = socket.socketpair(), socket.socketpair()
        async with (
            asyncio.timeout(100),
            stream(here) as (_, sender),
            stream(there) as (source, _),
            stream(back) as (_, sink),
            stream(far) as (taker, _),
        ):
            work = asyncio.ensure_future(pump(source, sink))
            sent = bytes(range(256)) * (CHUNK_BYTES // 64)
            sender.write(sent)
            sender.write_eof()
            assert await taker.read() == sent
            await work

    asyncio.run(run())


def test_a_taker_that_is_gone_ends_it() -> None:
    async def run() -> None:
        (here, there), (back, far) = socket.socketpair(), socket.socketpair()
        far.close()
        async with (
            asyncio.timeout(100),
            stream(here) as (_, sender),
            stream(there) as (source, _),
            stream(back) as (_, sink),
        ):
            work = asyncio.ensure_future(pump(source, sink))
            while not work.done():
                sender.write(b"x")
                await asyncio.sleep(0)
            await work

    asyncio.run(run())
