import asyncio
import json
from concurrent.futures import ThreadPoolExecutor

import httpx2
from fastapi import FastAPI

from limen import store
from limen.api import learning, problems
from limen.learned import Learned
from limen.learning import Learning
from mesh.clock import ManualClock
from mesh.database import migrate, open_database, transaction
from tests.learner import worlds


def ask(learned: Learned, path: str) -> httpx2.Response:
    async def run() -> httpx2.Response:
        api = FastAPI()
        problems.mount(api)

        async def work(found: object) -> object:
            return await asyncio.get_running_loop().run_in_executor(worker, found)  # type: ignore[arg-type]

        learning.mount(api, learned, work)
        with ThreadPoolExecutor(1) as worker:
            transport = httpx2.ASGITransport(app=api)
            async with httpx2.AsyncClient(transport=transport, base_url="http://x") as client:
                return await client.get(path)

    return asyncio.run(run())


def test_the_standing_and_the_kinds_come_page_by_page() -> None:
    engine = open_database("sqlite://")
    migrate(engine, "limen")
    migrate(engine, "learner")
    learned = Learned(engine)
    assert ask(learned, "/v1/learn").json()["history"] is None
    flows = worlds.shop(days=1)
    with transaction(engine) as connection:
        store.put_flows(connection, "n", [json.dumps(item.to_json()).encode() for item in flows])
    Learning(engine, ManualClock(worlds.START)).step()
    assert ask(learned, "/v1/learn").json()["flows"] == len(flows)
    names = [row[0] for row in ask(learned, "/v1/learn/kinds").json()]
    pages, after = [], ""
    while page := ask(learned, f"/v1/learn/kinds?after={after}&limit=2").json():
        pages += [row[0] for row in page]
        after = pages[-1]
    assert pages == names == sorted(names)
    assert ask(learned, "/v1/learn/kinds?limit=0").status_code == 422
    engine.dispose()
