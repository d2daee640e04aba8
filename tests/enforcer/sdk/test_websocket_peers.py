"""WebSockets over uvicorn and our TLS, opened by the `websockets` library: decided by the request that opens them."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection
from websockets.sync.client import connect as open_websocket

from enforcer.sdk import Limen
from mesh.tls import client_context
from tests.enforcer.native.harness import ALLOW_WEB, DB, OPS, WEB, Realm, policies
from tests.enforcer.sdk.conftest import PATIENCE_S, Teller

Make = Callable[..., tuple[Limen, Teller]]


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Say who says what."""
    if scope["type"] == "lifespan":
        return
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept", "headers": [(b"x-limen-source", b"the application's own word")]})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": f"{scope['limen']['caller']} says {message['text']}"})


def declared(*rules: dict[str, object], websocket: bool = True) -> dict[str, object]:
    found: Any = policies(*rules)
    found["services"][0]["ports"][0]["websocket"] = websocket
    return dict(found)


def dial(port: int, corp: Realm, who: str, path: str = "/orders") -> ClientConnection:
    """Open a WebSocket as a caller. Raises InvalidStatus with the answer of one that is not let through."""
    raw = socket.create_connection(("127.0.0.1", port), PATIENCE_S)
    try:
        return open_websocket(
            f"wss://db.corp.test{path}",
            sock=raw,
            ssl=client_context(corp.svid(who), {corp.trust_domain: corp.bundle}),
            open_timeout=PATIENCE_S,
            ping_timeout=None,
            proxy=None,
        )
    except Exception:
        raw.close()
        raise


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_websocket_carries_messages_through_a_rotation_until_its_caller_is_denied(
    limens: Make, corp: Realm, serving: Any, loop: str
) -> None:
    limen, teller = limens(DB, declared(ALLOW_WEB))
    served = serving(limen, loop, echo)
    with dial(served.port, corp, WEB) as way:
        assert way.response is not None
        # identity is not the application's to tell
        assert "x-limen-source" not in way.response.headers
        for size in (1, 70_000):
            way.send("x" * size)
            assert way.recv(PATIENCE_S) == f"{WEB} says " + "x" * size
        teller.identify(corp.svid(DB), corp.bundle, trust=2)
        way.send("still there")
        assert way.recv(PATIENCE_S) == f"{WEB} says still there"
        teller.policy(declared(), 2)
        way.send("and now")
        with pytest.raises(ConnectionClosed) as caught:
            way.recv(PATIENCE_S)
    assert caught.value.rcvd is not None
    assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (1008, "LM3465")
    assert teller.programs[0].record(decision="deny", snapshot="sha256:2")["caller"] == WEB


def test_who_is_not_allowed_gets_403_at_the_handshake_and_the_application_hears_nothing(
    limens: Make, corp: Realm, serving: Any
) -> None:
    heard: list[object] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        heard.append(scope)
        await echo(scope, receive, send)

    limen, teller = limens(DB, declared(ALLOW_WEB))
    served = serving(limen, "asyncio", app)
    for who, path, code in ((OPS, "/orders", "LM2302"), (WEB, "/elsewhere", "LM2302"), (WEB, "/orders;x", "LM2304")):
        with pytest.raises(InvalidStatus) as caught:
            dial(served.port, corp, who, path)
        answer = caught.value.response
        said = json.loads(answer.body or b"{}")
        assert (answer.status_code // 100, answer.headers["x-limen-code"]) == (4, said["code"])
        assert said["code"] == code
        found = teller.programs[0].record(id=said["decision"])
        assert (found["caller"], found["decision"]) == (who, "deny")
    assert heard == []


def test_a_port_that_does_not_declare_websockets_opens_none(limens: Make, corp: Realm, serving: Any) -> None:
    limen, teller = limens(DB, declared(ALLOW_WEB, websocket=False))
    served = serving(limen, "asyncio", echo)
    with pytest.raises(InvalidStatus) as caught:
        dial(served.port, corp, WEB)
    assert caught.value.response.headers["x-limen-code"] == "LM3108"
    assert teller.programs[0].record(code="LM3108")["caller"] == WEB
