import asyncio
import json
import socket
from collections.abc import Awaitable, Callable

import pytest
from fastapi import FastAPI, Request

from limen.api import strangers
from limen.api.strangers import StrangerProtocol
from limen.serve import _uvicorn

Client = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def api() -> FastAPI:
    found = FastAPI()

    @found.post("/echo")
    async def echo(request: Request) -> int:
        return len(await request.body())

    @found.post("/early")
    async def early() -> int:
        return 0

    return found


def serve(client: Client, within_s: float = 20.0) -> None:
    """Talk to a server that awaits each request for so long."""

    class Protocol(StrangerProtocol):
        pass

    Protocol.within_s = within_s

    async def run() -> None:
        server = _uvicorn(api(), protocol=Protocol)
        sock = socket.create_server(("127.0.0.1", 0))
        task = asyncio.ensure_future(server.serve(sockets=[sock]))
        async with asyncio.timeout(60):
            while not server.started:
                await asyncio.sleep(0)
            reader, writer = await asyncio.open_connection(*sock.getsockname())
            await client(reader, writer)
            writer.close()
            server.should_exit = True
            await task

    asyncio.run(run())


async def answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    size = next(int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
    return int(head.split(b" ")[1]), await reader.readexactly(size)


WHOLE = b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc"


def test_whole_requests_are_answered_one_after_the_other() -> None:
    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(3):
            writer.write(WHOLE[:20])
            await asyncio.sleep(0)
            writer.write(WHOLE[20:])
            assert await answer(reader) == (200, b"3")

    serve(client)


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"\r\n",
        b"POST /echo HT",
        b"POST /echo HTTP/1.1\r\nhost: x\r\n",
        WHOLE[:-1],
        b"POST /echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n",
    ],
    ids=["nothing", "a-line", "a-target", "a-head", "a-body", "chunks"],
)
def test_who_begins_and_does_not_end_is_hung_up_on(sent: bytes) -> None:
    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(sent)
        assert await reader.read() == b""

    serve(client, 0.05)


@pytest.mark.parametrize("rest", [b"\r\n", b"P", WHOLE[:-1]], ids=["a-line", "a-letter", "a-body"])
def test_bytes_after_an_answer_do_not_make_a_connection_last(rest: bytes) -> None:
    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(WHOLE)
        assert await answer(reader) == (200, b"3")
        writer.write(rest)
        assert await reader.read() == b""

    serve(client, 2.0)


def test_a_body_that_follows_an_early_answer_has_its_time_too() -> None:
    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"POST /early HTTP/1.1\r\nhost: x\r\ncontent-length: 99\r\n\r\na")
        assert await answer(reader) == (200, b"0")
        writer.write(b"b")
        assert await reader.read() == b""

    serve(client, 2.0)


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"\x16\x03\x01\r\n\r\n", "no HTTP/1.1"),
        (b"GET / HTTP/1.1\r\na b\r\n\r\n", "no HTTP/1.1"),
        (b"GET /\xff HTTP/1.1\r\n\r\n", "no HTTP/1.1"),
        (b"POST /echo HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n", "no HTTP/1.1"),
        (b"POST /echo HTTP/1.1\r\ncontent-length: -1\r\n\r\n", "no HTTP/1.1"),
        (b"GET /" + b"a" * strangers.MAX_HEAD_BYTES + b" HTTP/1.1\r\n\r\n", "too large"),
        (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 9000 + b"\r\n", "too large"),
        (b"GET / HTTP/1.1\r\nx: " + b"a" * strangers.MAX_HEAD_BYTES, "too large"),
    ],
    ids=["tls", "header", "target", "two-lengths", "length", "long-target", "headers", "long-header"],
)
def test_what_is_no_request_is_refused_with_a_code(sent: bytes, reason: str) -> None:
    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(sent)
        status, body = await answer(reader)
        assert (status, json.loads(body)["problem"]["code"]) == (400, "LM1256")
        assert reason in json.loads(body)["problem"]["message"]

    serve(client)
