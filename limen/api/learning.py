"""The routes of what was learned, on `server.sock`: how far the learner came, and its history page by page."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import FastAPI, Query

from limen.learned import MAX_KINDS, Learned

Json = Any


def mount(api: FastAPI, learned: Learned, run: Callable[[Callable[[], Json]], Any]) -> None:
    """Put the routes on an API."""

    @api.get("/v1/learn")
    async def standing() -> Json:
        return await run(learned.standing)

    @api.get("/v1/learn/kinds")
    async def kinds(
        after: Annotated[str, Query(max_length=64)] = "", limit: Annotated[int, Query(ge=1, le=MAX_KINDS)] = MAX_KINDS
    ) -> Json:
        return await run(lambda: learned.kinds(after=after, limit=limit))
