"""A WebSocket through a whole sidecar: aiohttp on both sides, decided by the request that opens it."""

from __future__ import annotations

import asyncio
import threading
import warnings
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import aiohttp
import pytest
import uvloop
from aiohttp import web

from mesh.tls import client_context
from tests.enforcer.native.harness import (
    DB,
    WEB,
    Agent,
    Realm,
    connect,
    inbound_port,
    outbound_port,
    policies,
    read_response,
)

pytestmark = pytest.mark.system
Make = Callable[..., Any]
CHAT: dict[str, object] = {"id": "chat", "effect": "allow", "from": [WEB], "to": [{"paths": ["/chat"]}]}


async def _echo(request: web.Request) -> web.StreamResponse:
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    async for message in socket:
        await socket.send_str(f"{request.headers['x-limen-source']} says {message.data}")
    return socket


class Application:
    """An aiohttp server in a thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self.port = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._ready.wait(60)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._start())
        self._loop.run_forever()
        self._loop.run_until_complete(self._runner.cleanup())
        self._loop.close()

    async def _start(self) -> None:
        app = web.Application()
        app.router.add_get("/chat", _echo)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = int(self._runner.addresses[0][1])
        self._ready.set()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(60)


@pytest.fixture
def served(sidecars: Make, corp: Realm) -> Iterator[Agent]:
    app = Application()
    yield sidecars(corp.svid(DB), corp.bundle, inbound=({"address": "127.0.0.1", "port": 0, "app_port": app.port},))
    app.close()


def run(work: Coroutine[Any, Any, None]) -> None:
    # a connection whose goodbye the sidecar has not answered yet is closed with the loop, which warns of it; an error
    # there would keep the loop from closing the rest
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(work)


def told(agent: Agent, *rules: dict[str, object], websocket: bool = True, epoch: int = 1) -> None:
    found = policies(*rules, port=inbound_port(agent))
    found["services"][0]["ports"][0]["websocket"] = websocket  # type: ignore[index]  # a table of services
    agent.policy(found, epoch=epoch)


async def _chat(agent: Agent, corp: Realm, talk: Callable[[aiohttp.ClientWebSocketResponse], Any]) -> None:
    context = client_context(corp.svid(WEB), {corp.trust_domain: corp.bundle})
    connector = aiohttp.TCPConnector(force_close=True)
    async with asyncio.timeout(100), aiohttp.ClientSession(connector=connector) as session:
        url = f"https://127.0.0.1:{inbound_port(agent)}/chat"
        async with session.ws_connect(url, ssl=context, headers={"host": "db.corp.test"}) as socket:
            await talk(socket)


def test_a_declared_websocket_carries_messages_until_its_caller_is_denied(served: Agent, corp: Realm) -> None:
    told(served, CHAT)

    async def talk(socket: aiohttp.ClientWebSocketResponse) -> None:
        for size in (1, 70_000):
            await socket.send_str("x" * size)
            assert (await socket.receive_str()) == f"{WEB} says " + "x" * size
        await asyncio.to_thread(told, served, epoch=2)  # no rule is left
        message = await socket.receive(60)
        assert message.type in {aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR, aiohttp.WSMsgType.CLOSE}

    run(_chat(served, corp, talk))
    assert served.record(path="/chat", decision="deny")["code"] == "LM2302"


def test_a_new_policy_that_still_allows_it_leaves_a_websocket_alone(served: Agent, corp: Realm) -> None:
    told(served, CHAT)

    async def talk(socket: aiohttp.ClientWebSocketResponse) -> None:
        await asyncio.to_thread(told, served, CHAT, {**CHAT, "id": "another"}, epoch=2)
        await socket.send_str("still there")
        assert (await socket.receive_str()) == f"{WEB} says still there"

    run(_chat(served, corp, talk))


def test_a_websocket_passes_the_callers_sidecar_too(served: Agent, sidecars: Make, corp: Realm) -> None:
    told(served, CHAT)
    way = {"local_port": 0, "service": "db", "port": None}
    caller: Agent = sidecars(corp.svid(WEB), corp.bundle, outbound=(way,))
    caller.policy(policies(CHAT, port=inbound_port(served)))
    endpoint = {"spiffe_id": DB, "address": "127.0.0.1", "port": inbound_port(served)}
    caller.send({"type": "endpoints", "endpoints": [endpoint]})

    async def talk() -> None:
        async with asyncio.timeout(100), aiohttp.ClientSession() as session:
            url = f"http://127.0.0.1:{outbound_port(caller)}/chat"
            async with session.ws_connect(url, headers={"host": "db.corp.test"}) as socket:
                await socket.send_str("hello")
                assert (await socket.receive_str()) == f"{WEB} says hello"

    run(talk())


@pytest.mark.parametrize("websocket", [pytest.param(True, id="denied"), pytest.param(False, id="undeclared")])
def test_a_websocket_that_is_denied_or_not_declared_is_refused(served: Agent, corp: Realm, *, websocket: bool) -> None:
    told(served, {**CHAT, "to": [{"paths": ["/other"]}]} if websocket else CHAT, websocket=websocket)

    ask = (
        b"GET /chat HTTP/1.1\r\nHost: db.corp.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    with connect(inbound_port(served), corp.svid(WEB), corp.bundle) as sock:
        sock.sendall(ask)
        assert read_response(sock)[0] == 403
    assert served.record(decision="deny", protocol="http")["code"] == ("LM2302" if websocket else "LM3108")
