"""Routes of the servers below this one, on `server.sock` for people."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request
from pydantic import Field

from limen.api.schemas import Body
from limen.app import App

Json = Any
Run = Callable[[Callable[[], Json]], Any]


class AllowBody(Body):
    """A server to be one below: how long its issuing certificates live, and how long its token; in seconds."""

    name: str = Field(min_length=1, max_length=40)
    life_s: int = Field(default=7 * 86400, ge=1, le=400 * 86400)
    ttl_s: int = Field(default=600, ge=1, le=86400)


class RemoveBody(Body):
    """Why a server is one below no more; a dry run tells what that breaks."""

    reason: str = Field(default="", max_length=400)
    force: bool = False
    dry_run: bool = False


def mount(api: FastAPI, app: App, run: Run) -> None:
    """Mount them."""

    @api.get("/v1/downstreams")
    async def downstreams() -> Json:
        return await run(app.downstreams.show)

    @api.post("/v1/downstreams")
    async def allow(body: AllowBody, request: Request) -> Json:
        actor = str(request.state.peer)
        return await run(lambda: app.allow_downstream(body.name, life_s=body.life_s, ttl_s=body.ttl_s, actor=actor))

    @api.post("/v1/downstreams/{name:path}/remove")
    async def remove(name: str, body: RemoveBody, request: Request) -> Json:
        actor = str(request.state.peer)
        return await run(
            lambda: app.downstreams.remove(
                name, actor=actor, reason=body.reason, is_forced=body.force, is_dry=body.dry_run
            )
        )
