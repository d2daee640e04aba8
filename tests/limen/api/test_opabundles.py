"""The routes of policy bundles, and a real OPA that fetches, verifies and follows them."""

import asyncio
import json
import pathlib
import time
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest

from limen.api.local import local_api
from limen.api.opabundles import BUNDLE, KEY
from limen.api.public import public_api
from limen.opa import Opa, running_opa
from tests.doors import Doors
from tests.limen.test_opabundles import header
from tests.tools import require_opa
from tests.world import TREE, World

READERS = ("spiffe://world.test/user/**",)


def get(world: World, path: str, *, local: bool = False, **headers: str) -> httpx2.Response:
    async def run() -> httpx2.Response:
        with ThreadPoolExecutor(1) as worker:
            api = local_api(world.app, worker) if local else public_api(world.app, worker)

            async def with_peer(scope: dict[str, object], receive: object, send: object) -> None:
                scope["state"] = {"peer": "unix:uid:0"}
                await api(scope, receive, send)  # type: ignore[arg-type]

            transport = httpx2.ASGITransport(app=with_peer)  # type: ignore[arg-type]
            async with httpx2.AsyncClient(transport=transport, base_url="https://x") as client:
                return await client.get(path, headers={name.replace("_", "-"): text for name, text in headers.items()})

    return asyncio.run(run())


@pytest.mark.parametrize("path", [BUNDLE, KEY])
def test_strangers_get_nothing(world: World, path: str) -> None:
    world.publish()
    answer = get(world, path)
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert answer.json()["problem"]["code"] == "LM2621"
    other = get(world, path, authorization=header(world))
    assert (other.status_code, other.json()["problem"]["code"]) == (403, "LM2622")


def test_a_reader_gets_the_bundle_once_and_then_hears_that_nothing_changed(world: World) -> None:
    world.app.policy_bundles.admit(READERS)
    token = header(world)
    assert get(world, BUNDLE, authorization=token).status_code == 404
    world.publish()
    first = get(world, BUNDLE, authorization=token)
    assert (first.status_code, first.headers["content-type"]) == (200, "application/gzip")
    again = get(world, BUNDLE, authorization=token, if_none_match=first.headers["etag"])
    assert (again.status_code, again.content) == (304, b"")
    assert get(world, KEY, authorization=token).text == world.app.policy_bundles.public_pem


def test_people_on_this_host_get_both(world: World) -> None:
    world.publish()
    assert get(world, BUNDLE, local=True).content == world.app.policy_bundles.bundle().data
    assert get(world, KEY, local=True).text.startswith("-----BEGIN PUBLIC KEY-----")


def until_revision(opa: Opa, revision: str) -> object:
    """Ask until OPA has this release: it polls."""
    end = time.monotonic() + 100
    document = {"version": 1, "service": "nothing"}
    while True:
        found = opa.decide(document)
        if isinstance(found, dict) and found["snapshot"] == revision:
            return found
        assert time.monotonic() < end, found
        time.sleep(0.1)


@pytest.mark.peer
def test_OPA_fetches_verifies_and_follows(world_now: World, tmp_path: pathlib.Path) -> None:
    require_opa()
    world = world_now
    world.app.policy_bundles.admit(READERS)
    (tmp_path / "token").write_text(header(world).removeprefix("Bearer "), "utf-8")

    async def run() -> None:
        async with Doors(world) as doors:
            config = {
                "services": {
                    "limen": {
                        "url": doors.url,
                        "allow_insecure_tls": True,
                        "credentials": {"bearer": {"token_path": str(tmp_path / "token")}},
                    }
                },
                "keys": {"limen": {"algorithm": "ES256", "key": world.app.policy_bundles.public_pem}},
                "bundles": {
                    "limen": {
                        "service": "limen",
                        "resource": BUNDLE.lstrip("/"),
                        "polling": {"min_delay_seconds": 1, "max_delay_seconds": 1},
                        "signing": {"keyid": "limen"},
                    }
                },
            }
            (tmp_path / "opa.yaml").write_text(json.dumps(config), "utf-8")
            await asyncio.to_thread(follow)

    def follow() -> None:
        first = world.publish()
        with running_opa("--config-file", str(tmp_path / "opa.yaml")) as opa:
            until_revision(opa, first)
            second = world.publish(TREE.replace("id: ", "id: x"))
            assert second != first
            until_revision(opa, second)

    asyncio.run(run())
