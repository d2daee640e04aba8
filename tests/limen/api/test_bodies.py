import asyncio
from collections.abc import MutableMapping
from typing import Any

import pytest

from limen.api.bodies import BoundedBodies

Message = MutableMapping[str, Any]


def ask(path: str, *parts: bytes) -> tuple[list[Message], list[bytes]]:
    """What was sent, and the bodies that the inner application saw."""
    sent: list[Message] = []
    seen: list[bytes] = []
    messages: list[Message] = [
        {"type": "http.request", "body": part, "more_body": index < len(parts) - 1} for index, part in enumerate(parts)
    ]
    messages.append({"type": "http.disconnect"})

    async def inner(scope: Message, receive: Any, send: Any) -> None:
        seen.append((await receive()).get("body", b""))
        assert (await receive())["type"] in {"http.disconnect", "http.request"}

    async def receive() -> Message:
        return messages.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    app = BoundedBodies(inner, prefix="/v1/node/", limit=10)
    asyncio.run(app({"type": "http", "path": path, "method": "POST", "headers": []}, receive, send))
    return sent, seen


@pytest.mark.parametrize("parts", [[b""], [b"0123456789"], [b"01234", b"56789"]], ids=["none", "whole", "in-parts"])
def test_what_fits_is_passed_on_whole(parts: list[bytes]) -> None:
    assert ask("/v1/node/join", *parts) == ([], [b"".join(parts)])


@pytest.mark.parametrize("parts", [[b"x" * 11], [b"x" * 6, b"x" * 5, b"x" * 1000]], ids=["whole", "in-parts"])
def test_what_is_larger_never_arrives(parts: list[bytes]) -> None:
    sent, seen = ask("/v1/node/join", *parts)
    assert seen == []
    assert sent[0]["status"] == 413


def test_other_paths_are_left_alone_and_a_caller_may_go() -> None:
    assert ask("/other", b"x" * 11, b"y")[1] == [b"x" * 11]
    assert ask("/v1/node/join") == ([], [])


def test_who_is_not_let_through_is_not_read() -> None:
    sent: list[Message] = []

    async def never(*_: Any) -> Message:
        raise AssertionError

    async def send(message: Message) -> None:
        sent.append(message)

    app = BoundedBodies(never, prefix="/v1/node/", limit=10, admits=lambda peer: peer != "10.0.0.1")
    scope = {"type": "http", "path": "/v1/node/join", "method": "POST", "headers": [], "client": ("10.0.0.1", 1)}
    asyncio.run(app(scope, never, send))
    assert sent[0]["status"] == 503
