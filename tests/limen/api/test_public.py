import asyncio
import base64
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest

from limen.api.public import public_api
from tests.world import World, make_world


@pytest.fixture
def world(tmp_path: object) -> Iterator[World]:
    import pathlib

    assert isinstance(tmp_path, pathlib.Path)
    found = make_world(tmp_path / "state")
    yield found
    found.app.close()


def post(world: World, body: object) -> httpx2.Response:
    async def run() -> httpx2.Response:
        with ThreadPoolExecutor(1) as worker:
            transport = httpx2.ASGITransport(app=public_api(world.app, worker))
            async with httpx2.AsyncClient(transport=transport, base_url="https://x") as client:
                return await client.post("/v1/node/join", json=body)

    return asyncio.run(run())


def test_joining_takes_a_token_and_a_key(world: World) -> None:
    token = world.app.create_token(ttl_s=60, actor="test")["token"]
    spki = base64.b64encode(world.spki()).decode()
    answer = post(world, {"token": token, "spki": spki}).json()
    assert answer["trust_domain"] == "world.test"
    assert len(answer["chain"]) == 2


@pytest.mark.parametrize(
    ("spki", "status", "code"),
    [("!", 422, "LM5213"), (base64.b64encode(b"x").decode(), 422, "LM1203")],
    ids=["no-base64", "no-key"],
)
def test_a_key_that_cannot_be_read_is_refused(world: World, spki: str, status: int, code: str) -> None:
    token = world.app.create_token(ttl_s=60, actor="test")["token"]
    found = post(world, {"token": token, "spki": spki})
    assert (found.status_code, found.json()["problem"]["code"]) == (status, code)


def test_a_forged_token_is_refused(world: World) -> None:
    found = post(world, {"token": "a.b.c", "spki": base64.b64encode(world.spki()).decode()})
    assert (found.status_code, found.json()["problem"]["code"]) == (403, "LM1208")
