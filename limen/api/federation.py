"""The routes of federation on `server.sock`: each is one call of `limen.federations`. This module decides nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Annotated, Any, TypeVar

from fastapi import FastAPI, Query, Request

from limen import federations as rim
from limen.api.schemas import ReachBody, RelationshipBody
from limen.federations import Federations

T = TypeVar("T")
Json = Any


def mount_federation(api: FastAPI, federations: Federations, worker: Executor) -> None:
    """Add the routes."""

    async def run(work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(worker, work)

    @api.get("/v1/federation")
    async def every() -> Json:
        return await run(federations.every)

    @api.post("/v1/federation")
    async def add(body: RelationshipBody, request: Request) -> Json:
        return await run(
            lambda: federations.add(
                trust_domain=body.trust_domain,
                url=body.url,
                profile=body.profile,
                endpoint_id=body.endpoint_id,
                web_roots=body.web_roots,
                bundle=None if body.bundle is None else body.bundle.encode("utf-8", "surrogatepass"),
                replace=body.replace,
                actor=str(request.state.peer),
            )
        )

    @api.post("/v1/federation-endpoints")
    async def reach(body: ReachBody, request: Request) -> Json:
        return await run(lambda: federations.reach(**body.model_dump(), actor=str(request.state.peer)))

    @api.get("/v1/federation/{trust_domain:path}/bundle")
    async def bundle(trust_domain: str) -> Json:
        return await run(lambda: {"spiffe": federations.bundle(trust_domain)})

    @api.get("/v1/federation/{trust_domain:path}")
    async def show(trust_domain: str) -> Json:
        return await run(lambda: federations.show(trust_domain))

    @api.post("/v1/federation/{trust_domain:path}/refresh")
    async def refresh(trust_domain: str, request: Request, *, force: Annotated[bool, Query()] = False) -> Json:
        actor = str(request.state.peer)
        return await rim.refresh(federations, worker, trust_domain=trust_domain, force=force, actor=actor)

    @api.delete("/v1/federation/{trust_domain:path}")
    async def remove(trust_domain: str, request: Request, *, rehearse: Annotated[bool, Query()] = False) -> Json:
        return await run(lambda: federations.remove(trust_domain, actor=str(request.state.peer), is_rehearsal=rehearse))
