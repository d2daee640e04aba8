"""Bounds what strangers send: so many requests from an address, and no more of a body than a route may need.

Pure ASGI, so that it holds before any framework has read a byte.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from fastapi.responses import JSONResponse

from limen.api.problems import problem_json
from mesh.problems import Invalid, Unavailable

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Door = Callable[[Message, Receive, Send], Awaitable[None]]


class BoundedBodies:
    """Below a path, refuses callers that ``admits`` does not let through, unread, and bodies above a limit."""

    def __init__(self, app: Door, *, prefix: str, limit: int, admits: Callable[[str], bool] = lambda _: True) -> None:
        self._app, self._prefix, self._limit, self._admits = app, prefix, limit, admits

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass a request on with a body that ends at the limit."""
        if scope["type"] != "http" or not scope["path"].startswith(self._prefix):
            await self._app(scope, receive, send)
            return
        if not self._admits((scope.get("client") or ("",))[0]):
            await JSONResponse(problem_json(Unavailable("LM1241")), 503)(scope, receive, send)
            return
        # read here, as a whole: a framework would turn what is raised in between into an error of its own
        body, more = bytearray(), True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > self._limit:
                refusal = JSONResponse(problem_json(Invalid("LM1258", limit=self._limit)), 413)
                await refusal(scope, receive, send)
                return
        given = False

        async def replay() -> Message:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": bytes(body), "more_body": False}

        await self._app(scope, replay, send)
