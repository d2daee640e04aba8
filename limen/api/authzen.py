"""The routes of OpenID AuthZEN 1.0: `/access/v1/…` for named callers, and the metadata for everybody.

A denied question is an answer, and has status 200; 400, 401 and 403 are about the request itself (AuthZEN §10.1).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from limen.api.bodies import Door, Message, Receive, Send
from limen.api.problems import problem_json
from limen.authzen import PATHS, Authzen
from limen.bearers import Unauthenticated
from limen.limits import PeerLimits
from mesh.jwks import strict_json
from mesh.problems import Forbidden, Invalid, Problem
from policyengine.authzen import Pdp
from policyengine.canonical import canonical_host

PREFIX = "/access/v1/"
METADATA = "/.well-known/authzen-configuration"
MAX_BODY_BYTES = 256 * 1024
_RATE, _BURST = 200.0, 1000.0
_ENDPOINTS = {
    "access_evaluation_endpoint": "evaluation",
    "access_evaluations_endpoint": "evaluations",
    "search_subject_endpoint": "search/subject",
    "search_resource_endpoint": "search/resource",
    "search_action_endpoint": "search/action",
}


def mount_public(api: FastAPI, authzen: Authzen, worker: Executor) -> None:
    """Mount the API. A token is verified before anything else; deciding has no need of the one worker thread."""

    def route(path: str) -> Callable[[Request], Awaitable[Response]]:
        async def ask(request: Request) -> Response:
            loop = asyncio.get_running_loop()

            def enter() -> tuple[str, Pdp, list[str]]:
                caller, pdp = authzen.enter(request.headers.get("authorization"))
                return caller, pdp, authzen.known() if path == "search/subject" else []

            try:
                caller, pdp, known = await loop.run_in_executor(worker, enter)
                body = _read(request, await request.body())
                found, kept = await asyncio.to_thread(authzen.answer, path, pdp, body, caller=caller, known=known)
                # what is not in the log is not answered
                await loop.run_in_executor(worker, authzen.record, caller, kept)
            except Problem as problem:
                return _refusal(problem)
            return JSONResponse(found)

        return ask

    for path in PATHS:
        api.post(PREFIX + path)(route(path))

    @api.get(METADATA)
    async def metadata(request: Request) -> Response:
        base = _base(request.headers.get("host", ""))
        if base is None:
            return JSONResponse(problem_json(Invalid("LM2643", reason="its Host is a host")), 400)
        found = {"policy_decision_point": base, **{name: f"{base}{PREFIX}{path}" for name, path in _ENDPOINTS.items()}}
        # it names the host that was asked for: nothing between may give it to somebody else
        return JSONResponse(found, headers={"cache-control": "private, max-age=300", "vary": "host"})


class RequestIds:
    """Gives every answer below `/access/v1/` the `X-Request-ID` of its request, refusals too (AuthZEN §10.1.9)."""

    def __init__(self, app: Door) -> None:
        self._app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass a request on; what comes back gets the header."""
        found = [pair for pair in scope.get("headers", ()) if pair[0] == b"x-request-id"][:1]
        if scope["type"] != "http" or not scope["path"].startswith(PREFIX) or not found:
            await self._app(scope, receive, send)
            return

        async def tell(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *found]}
            await send(message)

        await self._app(scope, receive, tell)


def _read(request: Request, data: bytes) -> object:
    """The body: JSON that says so, in UTF-8, no key twice.

    Raises Invalid LM2643.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Invalid("LM2643", reason="its content type is application/json")
    try:
        return strict_json(data)
    except ValueError as err:
        raise Invalid("LM2643", reason=str(err)) from err


def _refusal(problem: Problem) -> Response:
    if isinstance(problem, Unauthenticated):
        return JSONResponse(problem_json(problem), 401, headers={"www-authenticate": "Bearer"})
    if isinstance(problem, Forbidden):
        return JSONResponse(problem_json(problem), 403)
    if isinstance(problem, Invalid):
        return JSONResponse(problem_json(problem), 400)
    raise problem


def _base(host: str) -> str | None:
    """The URL under which the client knows this server, by the Host that it asked for; None for what is no host."""
    name = canonical_host(host)
    if not isinstance(name, str):
        return None
    port = host.rpartition("]")[2].partition(":")[2]
    return f"https://{name}:{port}" if port and port != "443" else f"https://{name}"


def admits() -> Callable[[str], bool]:
    """Who is let through: each request costs the verification of a signature."""
    limits = PeerLimits(rate=_RATE, burst=_BURST)
    return lambda peer: limits.take(peer, time.monotonic())
