import asyncio
from concurrent.futures import ThreadPoolExecutor

from limen.acme.work import keep_validating
from tests.acmeclient import BASE, Client


def test_a_proof_is_looked_for_in_the_background_also_after_a_restart(open_client: Client) -> None:
    open_client.register()
    found = open_client.post("/acme/new-order", {"identifiers": [{"type": "dns", "value": "a.test"}]})[2]
    url = open_client.post(found["authorizations"][0].removeprefix(BASE))[2]["challenges"][0]["url"]
    # what was begun before this process came up is due
    open_client.post(url.removeprefix(BASE), {})

    async def work() -> str:
        stop = asyncio.Event()
        from limen.acme import validators

        async def refuse(self: object, task: object) -> None:
            from mesh.problems import Forbidden

            raise Forbidden("LM1416", name="a", reason="b")

        before, validators.Validators.validate = validators.Validators.validate, refuse  # type: ignore[method-assign,assignment]
        try:
            with ThreadPoolExecutor(1) as worker:
                task = asyncio.ensure_future(keep_validating(open_client.acme, worker, stop))
                async with asyncio.timeout(60):
                    while open_client.acme.due():
                        await asyncio.sleep(0.01)
                stop.set()
                await task
        finally:
            validators.Validators.validate = before  # type: ignore[method-assign]
        return str(open_client.post(url.removeprefix(BASE))[2]["status"])

    assert asyncio.run(work()) == "invalid"
