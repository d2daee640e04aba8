"""Routes of the authorities: on `server.sock` for people, and the public revocation documents on the TLS port."""

from __future__ import annotations

import asyncio
import base64
import binascii
import time
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

from fastapi import FastAPI, Request, Response
from pydantic import Field

from ca.revocation import MAX_OCSP_BYTES
from ca.rotation import Kind
from limen.api.schemas import Body
from limen.app import App
from limen.limits import PeerLimits
from mesh.problems import Invalid

_RATE, _BURST = 50.0, 500.0
Json = Any
Run = Callable[[Callable[[], Json]], Any]


class RotateBody(Body):
    """Which authority gets a successor; forced, it signs before every agent has it."""

    kind: str = Field(pattern="^(root|issuing|jwt)$")
    force: bool = False


class LeaveBody(Body):
    """Why an authority is tainted or revoked; a dry run tells what it breaks."""

    reason: str = Field(default="", max_length=400)
    force: bool = False
    dry_run: bool = False


class RevokeBody(Body):
    """An SVID by its serial number, or a SPIFFE ID for all that it has."""

    wanted: str = Field(min_length=1, max_length=2100)
    reason: str = Field(default="", max_length=400)
    dry_run: bool = False


class IssueBody(Body):
    """An SVID that somebody asks for by hand; ``spki`` is base64 DER, ``ttl_s`` is in seconds."""

    spiffe_id: str = Field(max_length=2100)
    spki: str = Field(max_length=8192)
    ttl_s: int = Field(default=3600, ge=60, le=30 * 86400)
    dns_names: list[str] = Field(default_factory=list, max_length=32)


class IssueJwtBody(Body):
    """A JWT-SVID that somebody asks for by hand."""

    spiffe_id: str = Field(max_length=2100)
    audiences: list[str] = Field(min_length=1, max_length=32)
    ttl_s: int = Field(default=300, ge=60, le=86400)


def mount(api: FastAPI, app: App, run: Run) -> None:
    """The routes on `server.sock`."""
    _mount_authorities(api, app, run)
    _mount_svids(api, app, run)


def _actor(request: Request) -> str:
    return str(request.state.peer)


def _mount_authorities(api: FastAPI, app: App, run: Run) -> None:
    @api.get("/v1/authorities")
    async def authorities() -> Json:
        return await run(app.authorities.list)

    @api.post("/v1/authorities/rotate")
    async def rotate(body: RotateBody, request: Request) -> Json:
        return await run(lambda: app.authorities.rotate(Kind(body.kind), actor=_actor(request), is_forced=body.force))

    @api.get("/v1/authorities/{name:path}")
    async def progress(name: str) -> Json:
        return await run(lambda: app.authorities.progress(name))

    @api.post("/v1/authorities/{name:path}/taint")
    async def taint(name: str, body: LeaveBody, request: Request) -> Json:
        return await run(lambda: _leave("taint", name, body, request))

    @api.post("/v1/authorities/{name:path}/revoke")
    async def revoke(name: str, body: LeaveBody, request: Request) -> Json:
        return await run(lambda: _leave("revoke", name, body, request))

    def _leave(verb: str, name: str, body: LeaveBody, request: Request) -> Json:
        return app.authorities.leave(
            verb, name, actor=_actor(request), reason=body.reason, is_forced=body.force, is_dry=body.dry_run
        )


def _mount_svids(api: FastAPI, app: App, run: Run) -> None:
    @api.post("/v1/svids/revoke")
    async def revoke_svids(body: RevokeBody, request: Request) -> Json:
        return await run(
            lambda: app.authorities.revoke_svids(
                body.wanted, actor=_actor(request), reason=body.reason, is_dry=body.dry_run
            )
        )

    @api.post("/v1/svids/issue")
    async def issue(body: IssueBody, request: Request) -> Json:
        try:
            spki = base64.b64decode(body.spki, validate=True)
        except (binascii.Error, ValueError) as err:
            raise Invalid("LM5213") from err
        return await run(
            lambda: app.by_hand.issue(
                body.spiffe_id, spki, ttl_s=body.ttl_s, dns_names=body.dns_names, actor=_actor(request)
            )
        )

    @api.post("/v1/svids/issue-jwt")
    async def issue_jwt(body: IssueJwtBody, request: Request) -> Json:
        return await run(
            lambda: app.by_hand.issue_jwt(body.spiffe_id, body.audiences, ttl_s=body.ttl_s, actor=_actor(request))
        )

    @api.get("/v1/svids/{wanted:path}")
    async def show(wanted: str) -> Json:
        return await run(lambda: app.authorities.show(wanted))


def mount_public(api: FastAPI, app: App, worker: Executor) -> None:
    """Revocation lists and OCSP, which anybody may ask for (RFC 5280 §4.2.1.13, RFC 6960 §A.1)."""

    async def answer(work: Callable[[], bytes], kind: str) -> Response:
        data = await asyncio.get_running_loop().run_in_executor(worker, work)
        return Response(data, media_type=kind, headers={"cache-control": "max-age=60"})

    @api.get("/crl/{name}.crl")
    async def crl(name: str) -> Response:
        return await answer(lambda: app.authorities.crl(name), "application/pkix-crl")

    @api.post("/ocsp")
    async def ocsp(request: Request) -> Response:
        data = await request.body()
        return await answer(lambda: app.authorities.ocsp(data), "application/ocsp-response")

    @api.get("/ocsp/{text:path}")
    async def ocsp_get(text: str) -> Response:
        data = b""
        if len(text) <= 2 * MAX_OCSP_BYTES:
            try:
                data = base64.b64decode(text, validate=True)
            except (binascii.Error, ValueError):
                data = b""
        return await answer(lambda: app.authorities.ocsp(data), "application/ocsp-response")


def admits() -> Callable[[str], bool]:
    """Who is let through to the revocation documents: so many requests from one address."""
    limits = PeerLimits(rate=_RATE, burst=_BURST)
    return lambda peer: limits.take(peer, time.monotonic())
