from concurrent.futures import ThreadPoolExecutor

import pytest
from fastapi.testclient import TestClient

from limen.api.public import public_api
from tests.world import World


@pytest.fixture
def door(world: World) -> TestClient:
    return TestClient(public_api(world.app, ThreadPoolExecutor(1)), base_url="https://limen.test")


def test_the_directory_names_every_resource(door: TestClient) -> None:
    found = door.get("/acme/directory")
    assert found.json()["newAccount"] == "https://limen.test/acme/new-account"
    assert found.json()["meta"]["externalAccountRequired"] is True


def test_a_nonce_is_given_with_every_answer(door: TestClient) -> None:
    assert door.head("/acme/new-nonce").status_code == 200
    found = door.get("/acme/new-nonce")
    assert found.status_code == 204
    assert found.headers["replay-nonce"]
    assert found.headers["cache-control"] == "no-store"


JOSE = {"content-type": "application/jose+json"}


@pytest.mark.parametrize(
    ("path", "headers", "body", "status", "kind"),
    [
        ("new-account", {}, b"{}", 415, "malformed"),
        ("new-account", JOSE, b"{", 400, "malformed"),
        ("new-account", JOSE, b"x" * 70000, 413, "malformed"),
        ("nothing", JOSE, b"", 400, "malformed"),
        ("new-account", {**JOSE, "host": "a b"}, b"{}", 400, "malformed"),
    ],
    ids=range(5),
)
def test_what_is_refused_is_a_problem_document(
    door: TestClient, path: str, headers: dict[str, str], body: bytes, status: int, kind: str
) -> None:
    found = door.post(f"/acme/{path}", content=body, headers=headers)
    assert found.status_code == status
    assert found.headers["content-type"] == "application/problem+json"
    assert found.headers["replay-nonce"]
    assert found.json()["type"] == f"urn:ietf:params:acme:error:{kind}"


def test_newcomers_of_one_address_are_limited(door: TestClient) -> None:
    answers = [door.post("/acme/new-account", content=b"{}", headers=JOSE) for _ in range(70)]
    assert answers[-1].status_code == 429
    assert answers[-1].headers["retry-after"] == "10"
    assert answers[-1].json()["type"].endswith("rateLimited")


def test_the_crl_is_served_and_a_strange_renewal_is_unknown(door: TestClient) -> None:
    assert door.get("/crl/acme.crl").headers["content-type"] == "application/pkix-crl"
    assert door.get("/acme/renewal-info/AAAA.AAAA").status_code == 404
