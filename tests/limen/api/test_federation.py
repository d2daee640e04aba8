"""The routes of federation, over HTTP, against a real bundle endpoint on loopback."""

import asyncio
import types
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest
import trustme

from limen.api.local import local_api
from limen.tlsport import context_of
from mesh.bundle import TrustBundle
from mesh.spiffe import TrustDomain
from tests.bundleendpoint import Endpoint, serving
from tests.pki import Pki
from tests.world import World, make_world

CA = trustme.CA()
BUNDLE = TrustBundle(
    trust_domain=TrustDomain.parse("b.test"), x509_authorities=(Pki("b.test").root.der,), sequence=3, refresh_hint=60
)


@pytest.fixture
def world(tmp_path: object) -> Iterator[World]:
    import pathlib

    assert isinstance(tmp_path, pathlib.Path)
    found = make_world(tmp_path / "state")
    yield found
    found.app.close()


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    issued = CA.issue_cert("127.0.0.1")
    with serving(context_of(issued.private_key_pem.bytes(), issued.cert_chain_pems[0].bytes())) as found:
        found.serve(BUNDLE.to_json())
        yield found


def call(world: World, method: str, path: str, body: object | None = None) -> httpx2.Response:
    async def run() -> httpx2.Response:
        with ThreadPoolExecutor(1) as worker:
            api = local_api(world.app, worker)

            async def with_peer(scope: dict[str, object], receive: object, send: object) -> None:
                scope["state"] = {"peer": types.SimpleNamespace(__str__=lambda: "unix:uid:0")}
                await api(scope, receive, send)  # type: ignore[arg-type]

            transport = httpx2.ASGITransport(app=with_peer)  # type: ignore[arg-type]
            async with httpx2.AsyncClient(transport=transport, base_url="http://x") as client:
                return await client.request(method, path, json=body)

    return asyncio.run(run())


def test_the_life_of_a_relationship_over_http(world: World, endpoint: Endpoint) -> None:
    body = {
        "trust_domain": "b.test",
        "url": endpoint.url,
        "profile": "https_web",
        "web_roots": CA.cert_pem.bytes().decode(),
    }
    assert call(world, "POST", "/v1/federation", body).json()["sequence"] is None
    assert call(world, "POST", "/v1/federation", body).status_code == 409
    found = call(world, "POST", "/v1/federation/b.test/refresh").json()
    assert (found["is_changed"], found["sequence"], found["failed_polls"]) == (True, 3, 0)
    assert [row["trust_domain"] for row in call(world, "GET", "/v1/federation").json()] == ["b.test"]
    assert call(world, "GET", "/v1/federation/b.test").json()["x509_authorities"] == 1
    assert call(world, "GET", "/v1/federation/b.test/bundle").json()["spiffe"].encode() == BUNDLE.to_json()
    reach = {"spiffe_id": "spiffe://b.test/db", "address": "10.0.0.1", "port": 8443}
    assert call(world, "POST", "/v1/federation-endpoints", reach).status_code == 200
    assert call(world, "DELETE", "/v1/federation/b.test?rehearse=true").json()["is_removed"] is False
    assert call(world, "DELETE", "/v1/federation/b.test").json()["is_removed"] is True
    assert call(world, "GET", "/v1/federation").json() == []


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 422),
        ({"trust_domain": "b.test", "url": "http://b.test", "profile": "https_web"}, 422),
        ({"trust_domain": "b.test", "url": "https://b.test", "profile": "https_web", "extra": 1}, 422),
        ({"trust_domain": "b.test", "url": "https://b.test", "profile": "https_web", "bundle": "nothing"}, 422),
    ],
    ids=["empty", "http", "extra", "no-text"],
)
def test_a_malformed_relationship_leaves_nothing_behind(world: World, body: object, status: int) -> None:
    assert call(world, "POST", "/v1/federation", body).status_code == status
    assert call(world, "GET", "/v1/federation").json() == []


def test_an_unknown_one_is_not_found(world: World) -> None:
    for method, path in (("GET", ""), ("GET", "/bundle"), ("POST", "/refresh"), ("DELETE", "")):
        assert call(world, method, f"/v1/federation/b.test{path}").status_code == 404
