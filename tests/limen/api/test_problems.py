import asyncio

import httpx2
from fastapi import FastAPI

from limen.api import problems
from mesh.problems import Conflict, Forbidden, NotFound, Unavailable


def api() -> FastAPI:
    found = FastAPI()
    problems.mount(found)

    @found.get("/{name}")
    async def fail(name: str) -> None:
        raise {
            "forbidden": Forbidden("LM2416", have=1, need=2),
            "conflict": Conflict("LM5205", name="up", state="x"),
            "missing": NotFound("LM5204"),
            "away": Unavailable("LM5201", socket="s", reason="r"),
            "bug": ZeroDivisionError("secret"),
        }[name]

    return found


def get(name: str) -> httpx2.Response:
    async def run() -> httpx2.Response:
        transport = httpx2.ASGITransport(app=api(), raise_app_exceptions=False)
        async with httpx2.AsyncClient(transport=transport, base_url="http://x") as client:
            return await client.get(f"/{name}")

    return asyncio.run(run())


def test_classes_become_statuses_and_facts_travel() -> None:
    statuses = {name: get(name).status_code for name in ("forbidden", "conflict", "missing", "away")}
    assert statuses == {"forbidden": 403, "conflict": 409, "missing": 404, "away": 503}
    assert get("forbidden").json()["problem"]["facts"] == {"have": "1", "need": "2"}


def test_a_bug_says_nothing_but_a_report_id() -> None:
    found = get("bug")
    assert found.status_code == 500
    assert found.json()["problem"]["code"] == "LM0002"
    assert "secret" not in found.text
