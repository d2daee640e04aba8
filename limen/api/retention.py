"""The routes of retention on `server.sock`: prune the audit log, and hold what has to stay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import Body, FastAPI, Request

from limen.retaining import Retaining
from mesh.clock import parse_time
from mesh.problems import Invalid

Json = Any
_MAX = 400
_Text = Annotated[str | None, Body(max_length=_MAX)]


def mount(api: FastAPI, retaining: Retaining, run: Callable[[Callable[[], Json]], Any]) -> None:
    """Put the routes on an API."""

    @api.get("/v1/audit/retention")
    async def show() -> Json:
        return await run(retaining.show)

    @api.post("/v1/audit/prune")
    async def prune(request: Request, before: Annotated[str, Body(embed=True, max_length=_MAX)]) -> Json:
        moment = _moment("before", before)
        assert moment is not None
        return await run(lambda: retaining.prune(moment, actor=str(request.state.peer)))

    @api.post("/v1/audit/holds")
    async def hold(
        request: Request,
        reason: Annotated[str, Body(max_length=_MAX)],
        since: _Text = None,
        until: _Text = None,
        service: _Text = None,
    ) -> Json:
        begin, end, actor = _moment("since", since), _moment("until", until), str(request.state.peer)
        return await run(lambda: retaining.hold(reason=reason, since=begin, until=end, service=service, actor=actor))

    @api.post("/v1/audit/holds/{name}/release")
    async def release(name: str, request: Request) -> Json:
        return await run(lambda: retaining.release(name, actor=str(request.state.peer)))


def _moment(option: str, text: str | None) -> Any:  # noqa: ANN401  a moment or None
    if text is None:
        return None
    try:
        return parse_time(text)
    except ValueError as err:
        raise Invalid("LM6050", option=option, text=text[:100]) from err
