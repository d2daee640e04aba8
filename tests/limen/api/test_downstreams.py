import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI

from limen.api import downstreams, problems
from tests.world import World


def ask(world: World, method: str, path: str, body: object = None) -> httpx2.Response:
    async def run() -> httpx2.Response:
        api = FastAPI()
        problems.mount(api)

        async def work(found: object) -> object:
            return await asyncio.get_running_loop().run_in_executor(worker, found)  # type: ignore[arg-type]

        downstreams.mount(api, world.app, work)

        @api.middleware("http")
        async def peer(request: Any, call_next: Any) -> Any:
            request.state.peer = "unix:uid:0"
            return await call_next(request)

        with ThreadPoolExecutor(1) as worker:
            transport = httpx2.ASGITransport(app=api)
            async with httpx2.AsyncClient(transport=transport, base_url="http://x") as client:
                return await client.request(method, path, json=body)

    return asyncio.run(run())


def test_a_server_is_allowed_listed_and_removed(world: World) -> None:
    made = ask(world, "POST", "/v1/downstreams", {"name": "eu"})
    assert made.status_code == 200
    assert {"token", "expires", "url", "name", "node"} == set(made.json())
    (row,) = ask(world, "GET", "/v1/downstreams").json()
    assert (row["name"], row["is_connected"], row["authorities"]) == ("eu", False, [])
    dry = ask(world, "POST", "/v1/downstreams/eu/remove", {"dry_run": True}).json()
    assert not dry["done"]
    assert ask(world, "POST", "/v1/downstreams/eu/remove", {}).json()["done"]
    assert ask(world, "GET", "/v1/downstreams").json() == []


@pytest.mark.parametrize(
    "body",
    [{}, {"name": ""}, {"name": "a" * 41}, {"name": "eu", "life_s": 0}, {"name": "eu", "more": 1}, {"name": 1}],
)
def test_a_body_that_does_not_fit_is_refused(world: World, body: object) -> None:
    assert ask(world, "POST", "/v1/downstreams", body).status_code == 422
    assert ask(world, "GET", "/v1/downstreams").json() == []


def test_one_that_is_not_there_has_its_code(world: World) -> None:
    found = ask(world, "POST", "/v1/downstreams/nobody/remove", {})
    assert found.json()["problem"]["code"] == "LM1624"
