"""The API on `server.sock`, for people on this host: its mode lets nobody but the server's own user and root in.

Every route is one call of `limen.app.App` on the worker thread. This module decides nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Annotated, Any, TypeVar

from fastapi import Depends, FastAPI, Query, Request

from limen.api import acme, authorities, downstreams, learning, nodes, opabundles, problems, retention
from limen.api.bodies import BoundedBodies
from limen.api.federation import mount_federation
from limen.api.schemas import ApprovalBody, ExplainBody, ExportBody, ReviewBody, TokenBody
from limen.app import App
from policyengine.snapshot import MAX_SNAPSHOT_BYTES

T = TypeVar("T")
MAX_BODY_BYTES = MAX_SNAPSHOT_BYTES + (1 << 20)
"""The largest thing that anybody sends: the policies of a release, and what is said about them."""
Json = Any


def local_api(app: App, worker: Executor) -> FastAPI:
    """Build the API."""

    async def run(work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(worker, work)

    async def login(request: Request) -> None:
        await run(lambda: app.logins.came("server.sock", _actor(request)))

    api = FastAPI(title="Limen", docs_url=None, redoc_url=None, openapi_url=None, dependencies=[Depends(login)])
    problems.mount(api)
    api.add_middleware(BoundedBodies, prefix="/v1/", limit=MAX_BODY_BYTES)

    _mount_state(api, app, run)
    _mount_exports(api, app, run)
    _mount_reviews(api, app, run)
    nodes.mount_local(api, app, run)
    authorities.mount(api, app, run)
    downstreams.mount(api, app, run)
    acme.mount_local(api, app.acme, app.acme_operators, run)
    retention.mount(api, app.retaining, run)
    learning.mount(api, app.learned, run)
    opabundles.mount_local(api, app.policy_bundles, worker)
    mount_federation(api, app.federations, worker)
    return api


def _actor(request: Request) -> str:
    return str(request.state.peer)


def _mount_exports(api: FastAPI, app: App, run: Callable[[Callable[[], Json]], Any]) -> None:
    @api.post("/v1/audit/exports")
    async def exported(body: ExportBody, request: Request) -> Json:
        return await run(lambda: app.exports.once(actor=_actor(request), **body.model_dump()))


def _mount_state(  # noqa: C901  a route each
    api: FastAPI, app: App, run: Callable[[Callable[[], Json]], Any]
) -> None:
    @api.get("/v1/status")
    async def status() -> Json:
        return await run(app.status)

    @api.post("/v1/tokens")
    async def tokens(body: TokenBody, request: Request) -> Json:
        return await run(lambda: app.create_token(ttl_s=body.ttl_s, actor=_actor(request)))

    @api.get("/v1/bundle")
    async def bundle() -> Json:
        return await run(app.bundle_documents)

    @api.get("/v1/identities")
    async def identities() -> Json:
        return await run(app.identities)

    @api.get("/v1/endpoints")
    async def endpoints() -> Json:
        return await run(app.endpoints)

    @api.get("/v1/files")
    async def files() -> Json:
        return await run(app.files)

    @api.post("/v1/identities/explain")
    async def explain(body: ExplainBody) -> Json:
        return await run(lambda: app.explain_identity([(name, value) for name, value in body.facts]))

    @api.post("/v1/rotate")
    async def rotate(request: Request) -> Json:
        return await run(lambda: app.rotate(actor=_actor(request)))

    @api.get("/v1/flows")
    async def flows(limit: Annotated[int, Query(ge=1, le=1_000_000)] = 1_000_000) -> Json:
        return await run(lambda: app.flows(limit=limit))

    @api.get("/v1/records")
    async def records(
        after: Annotated[int, Query(ge=0)] = 0,
        kind: Annotated[str | None, Query(max_length=40)] = None,
        limit: Annotated[int, Query(ge=1, le=100_000)] = 10_000,
    ) -> Json:
        return await run(lambda: app.records(after=after, kind=kind, limit=limit))


def _mount_reviews(api: FastAPI, app: App, run: Callable[[Callable[[], Json]], Any]) -> None:
    @api.get("/v1/snapshots/active")
    async def active() -> Json:
        return await run(app.active_snapshot)

    @api.get("/v1/snapshots/candidate")
    async def candidate() -> Json:
        return await run(app.candidate_snapshot)

    @api.get("/v1/snapshots/{name}")
    async def snapshot(name: str) -> Json:
        return await run(lambda: app.snapshot(name))

    @api.get("/v1/reviewers")
    async def reviewers() -> Json:
        return await run(app.reviewers)

    @api.get("/v1/reviews")
    async def reviews() -> Json:
        return await run(app.reviews)

    @api.get("/v1/reviews/{number}")
    async def review(number: str) -> Json:
        return await run(lambda: app.review(number))

    @api.post("/v1/reviews")
    async def propose(body: ReviewBody, request: Request) -> Json:
        return await run(lambda: app.propose(body.model_dump(), actor=_actor(request)))

    @api.post("/v1/reviews/{number}/approvals")
    async def approve(number: str, body: ApprovalBody, request: Request) -> Json:
        return await run(lambda: app.approve(number, body.envelope, actor=_actor(request)))

    @api.post("/v1/reviews/{number}/{event}")
    async def move(number: str, event: str, request: Request) -> Json:
        return await run(lambda: app.move_review(number, event, actor=_actor(request)))
