"""The routes of policy bundles: on the TLS port for OPAs that prove who they are, on `server.sock` for people here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from limen.api.problems import problem_json
from limen.bearers import Unauthenticated
from limen.limits import PeerLimits
from limen.opabundles import PolicyBundle, PolicyBundles

T = TypeVar("T")
BUNDLE = "/v1/bundles/policies.tar.gz"
KEY = "/v1/bundles/key.pem"
_RATE, _BURST = 5.0, 50.0


def mount_public(api: FastAPI, bundles: PolicyBundles, worker: Executor) -> None:
    """Mount what OPAs fetch. A token is verified before anything else is done."""

    async def run(work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(worker, work)

    @api.get(BUNDLE)
    async def policies(request: Request) -> Response:
        def work() -> PolicyBundle:
            bundles.authorize(request.headers.get("authorization"))
            return bundles.bundle()

        try:
            return _answer(request, await run(work))
        except Unauthenticated as problem:
            return _who_are_you(problem)

    @api.get(KEY)
    async def key(request: Request) -> Response:
        try:
            await run(lambda: bundles.authorize(request.headers.get("authorization")))
        except Unauthenticated as problem:
            return _who_are_you(problem)
        return Response(bundles.public_pem, media_type="application/x-pem-file")


def mount_local(api: FastAPI, bundles: PolicyBundles, worker: Executor) -> None:
    """Mount the same for people on this host, who are who they are."""

    @api.get(BUNDLE)
    async def policies(request: Request) -> Response:
        return _answer(request, await asyncio.get_running_loop().run_in_executor(worker, bundles.bundle))

    @api.get(KEY)
    async def key() -> Response:
        return Response(bundles.public_pem, media_type="application/x-pem-file")


def _answer(request: Request, found: PolicyBundle) -> Response:
    headers = {"etag": found.tag, "cache-control": "private, no-cache"}
    if found.tag in [item.strip().removeprefix("W/") for item in request.headers.get("if-none-match", "").split(",")]:
        return Response(status_code=304, headers=headers)
    return Response(found.data, media_type="application/gzip", headers=headers)


def _who_are_you(problem: Unauthenticated) -> Response:
    return JSONResponse(problem_json(problem), 401, headers={"www-authenticate": "Bearer"})


def admits() -> Callable[[str], bool]:
    """Who is let through: each try may cost a signature's verification."""
    limits = PeerLimits(rate=_RATE, burst=_BURST)
    return lambda peer: limits.take(peer, time.monotonic())
