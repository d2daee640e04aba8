import asyncio
import types
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest

from limen.api.local import local_api
from tests.world import TREE, World, make_world


@pytest.fixture
def world(tmp_path: object) -> Iterator[World]:
    import pathlib

    assert isinstance(tmp_path, pathlib.Path)
    found = make_world(tmp_path / "state")
    yield found
    found.app.close()


def call(
    world: World, method: str, path: str, body: object | None = None, *, content: bytes | None = None
) -> httpx2.Response:
    async def run() -> httpx2.Response:
        with ThreadPoolExecutor(1) as worker:
            api = local_api(world.app, worker)

            async def with_peer(scope: dict[str, object], receive: object, send: object) -> None:
                scope["state"] = {"peer": types.SimpleNamespace(__str__=lambda: "unix:uid:0")}
                await api(scope, receive, send)  # type: ignore[arg-type]

            transport = httpx2.ASGITransport(app=with_peer)  # type: ignore[arg-type]
            async with httpx2.AsyncClient(transport=transport, base_url="http://x") as client:
                if content is not None:
                    headers = {"content-type": "application/json"}
                    return await client.request(method, path, content=content, headers=headers)
                return await client.request(method, path, json=body)

    return asyncio.run(run())


def test_the_life_of_a_review_over_http(world: World) -> None:
    assert call(world, "GET", "/v1/snapshots/active").json() is None
    body = {"policies": world.policies(TREE).to_json(), "proposer": None, "predecessor": None, "note": ""}
    review = call(world, "POST", "/v1/reviews", body).json()
    assert call(world, "POST", f"/v1/reviews/{review['id']}/activate", {}).status_code in {403, 409}
    for name in ("ada", "grace"):
        world.approve(review, name)
    assert call(world, "GET", f"/v1/reviews/{review['id']}").json()["state"] == "approved"
    assert call(world, "GET", "/v1/snapshots/candidate").json() is None
    assert call(world, "POST", f"/v1/reviews/{review['id']}/shadow").json()["state"] == "shadowed"
    assert call(world, "GET", "/v1/snapshots/candidate").json()["hash"] == review["snapshot"]
    assert call(world, "POST", f"/v1/reviews/{review['id']}/activate").json()["state"] == "active"
    active = call(world, "GET", "/v1/snapshots/active").json()
    assert call(world, "GET", f"/v1/snapshots/{active['hash']}").json() == active
    assert len(call(world, "GET", "/v1/reviews").json()) == 1
    assert call(world, "GET", "/v1/reviewers").json()["threshold"] == 2


@pytest.mark.parametrize("name", ["a%2Fb", "zz%2F", "%2Fzz", "zz"], ids=str)
@pytest.mark.parametrize(
    ("method", "path", "body", "code"),
    [
        pytest.param("GET", "authorities/{}", None, "LM1310", id="authority"),
        pytest.param("POST", "authorities/{}/taint", {}, "LM1310", id="taint"),
        pytest.param("POST", "authorities/{}/revoke", {}, "LM1310", id="revoke"),
        pytest.param("POST", "downstreams/{}/remove", {}, "LM1624", id="downstream"),
        pytest.param("POST", "nodes/{}/ban", {"reason": ""}, "LM1244", id="ban"),
        pytest.param("POST", "nodes/{}/allow", {}, "LM1244", id="allow"),
        pytest.param("GET", "federation/{}", None, "LM1504", id="federation"),
        pytest.param("DELETE", "federation/{}", None, "LM1504", id="federation-remove"),
        pytest.param("POST", "federation/{}/refresh", None, "LM1504", id="federation-refresh"),
    ],
)
def test_a_name_that_nothing_has_is_refused_by_its_code_whatever_is_in_it(
    world: World, name: str, method: str, path: str, body: object, code: str
) -> None:
    answer = call(world, method, "/v1/" + path.format(name), body)
    assert (answer.status_code, answer.json()["problem"]["code"]) == (404, code)


@pytest.mark.parametrize(
    "path",
    ["/v1/status", "/v1/bundle", "/v1/identities", "/v1/endpoints", "/v1/flows", "/v1/records?kind=ca&after=0"],
    ids=str,
)
def test_what_can_be_read(world: World, path: str) -> None:
    assert call(world, "GET", path).status_code == 200


def test_what_can_be_done(world: World) -> None:
    assert call(world, "POST", "/v1/tokens", {"ttl_s": 5}).json()["token"]
    assert call(world, "POST", "/v1/rotate", {}).json() == {"rotation": 1}
    assert call(world, "POST", "/v1/identities/explain", {"facts": [["unix:uid", "1"]]}).json()["spiffe_id"] is None


def test_bad_bodies_and_unknown_things_are_refused(world: World) -> None:
    assert call(world, "POST", "/v1/tokens", {"ttl": 5}).status_code == 422
    assert call(world, "GET", "/v1/snapshots/sha256:00").status_code == 404
    assert call(world, "POST", "/v1/reviews/none/explode").status_code == 404
    assert call(world, "POST", "/v1/reviews", {"policies": {"x": 1}}).status_code == 422


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"[" * 10_000, "LM1256"),
        (b'{"policies": ' + b'{"a":' * 10_000 + b"1" + b"}" * 10_001, "LM1256"),
        (b'{"policies": {"schema": 1' + b"0" * 100_000 + b"}}", "LM1256"),
        (b'{"policies": {"schema": NaN}, "proposer": null, "predecessor": null, "note": ""}', "LM2001"),
        (b"\xff", "LM1256"),
        (b" " * (80 << 20), "LM1258"),
    ],
    ids=["deep-list", "deep-policies", "huge-int", "nan", "not-utf-8", "eighty-megabytes"],
)
def test_a_proposal_that_is_none_is_refused_with_a_code_and_leaves_nothing(
    world: World, content: bytes, code: str
) -> None:
    answer = call(world, "POST", "/v1/reviews", content=content)
    assert answer.status_code in {413, 422}
    assert answer.json()["problem"]["code"] == code
    assert call(world, "GET", "/v1/reviews").json() == []
