import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI

from limen.api import problems, retention
from tests.world import World


def ask(world: World, method: str, path: str, body: object = None) -> httpx2.Response:
    async def run() -> httpx2.Response:
        api = FastAPI()
        problems.mount(api)

        async def work(found: object) -> object:
            return await asyncio.get_running_loop().run_in_executor(worker, found)  # type: ignore[arg-type]

        retention.mount(api, world.app.retaining, work)

        @api.middleware("http")
        async def peer(request: Any, call_next: Any) -> Any:
            request.state.peer = "unix:uid:0"
            return await call_next(request)

        with ThreadPoolExecutor(1) as worker:
            transport = httpx2.ASGITransport(app=api)
            async with httpx2.AsyncClient(transport=transport, base_url="http://x") as client:
                return await client.request(method, path, json=body)

    return asyncio.run(run())


def test_a_hold_is_added_listed_and_released(world: World) -> None:
    body = {"reason": "case 17", "since": "2026-01-01T00:00:00Z", "service": "db"}
    made = ask(world, "POST", "/v1/audit/holds", body).json()
    assert (made["reason"], made["service"], made["until"]) == ("case 17", "db", None)
    assert ask(world, "GET", "/v1/audit/retention").json() == {"pruned": [], "holds": [made]}
    assert ask(world, "POST", f"/v1/audit/holds/{made['id']}/release").json()["holds"] == []
    assert ask(world, "POST", f"/v1/audit/holds/{made['id']}/release").json()["problem"]["code"] == "LM6091"


def test_pruning_says_what_it_removed(world: World) -> None:
    found = ask(world, "POST", "/v1/audit/prune", {"before": "2020-01-01T00:00:00Z"})
    assert found.json() == {"records": 0, "pruned": [], "holds": []}


@pytest.mark.parametrize(
    ("path", "body", "code"),
    [
        ("/v1/audit/prune", {"before": "yesterday"}, "LM6050"),
        ("/v1/audit/prune", {"before": "2999-01-01T00:00:00Z"}, "LM6093"),
        ("/v1/audit/holds", {"reason": "", "since": None}, "LM6094"),
        ("/v1/audit/holds", {"reason": "r", "since": "x"}, "LM6050"),
    ],
)
def test_what_cannot_be_is_refused(world: World, path: str, body: object, code: str) -> None:
    assert ask(world, "POST", path, body).json()["problem"]["code"] == code
