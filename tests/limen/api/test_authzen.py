"""The AuthZEN API over real TLS with real JWT-SVIDs: what the certification scenario asks for, and who is kept out."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from limen.api import authzen
from limen.api.authzen import MAX_BODY_BYTES, METADATA, PREFIX, _base
from limen.authzen import AUDIENCE, PATHS
from tests.doors import Doors
from tests.examples import examples
from tests.limen.test_authzen import CART, QUESTION
from tests.limen.test_opabundles import header
from tests.world import World

JSON = {"content-type": "application/json"}


def talk(world: World, work: Callable[[httpx2.AsyncClient, dict[str, str]], Any]) -> Any:
    """Do something as a named caller, over TLS."""
    world.app.authzen.admit(("spiffe://world.test/user/**",))
    token = {"authorization": header(world, AUDIENCE)}

    async def run() -> Any:
        # who the server is, is another test's business: it is pinned by agents, and shown under a web certificate
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        async with Doors(world) as doors, httpx2.AsyncClient(base_url=doors.url, verify=context) as client:
            return await work(client, token)

    return asyncio.run(run())


def test_a_named_caller_is_answered(world_now: World) -> None:
    world_now.publish()

    async def work(client: httpx2.AsyncClient, token: dict[str, str]) -> None:
        answer = await client.post(PREFIX + "evaluation", json=QUESTION, headers={**token, "x-request-id": "bfe9 7"})
        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
        assert answer.headers["x-request-id"] == "bfe9 7"
        assert answer.json()["decision"] is True
        assert answer.json()["context"]["rule"] == "orders"
        # a deny is an answer
        other = {**QUESTION, "action": {"name": "POST"}}
        answer = await client.post(PREFIX + "evaluation", json=other, headers=token)
        assert (answer.status_code, answer.json()["decision"]) == (200, False)
        assert "x-request-id" not in answer.headers
        both = {**QUESTION, "evaluations": [{}, {"action": {"name": "POST"}}, {}]}
        answer = await client.post(PREFIX + "evaluations", json=both, headers=token)
        assert [row["decision"] for row in answer.json()["evaluations"]] == [True, False, True]
        both["options"] = {"evaluations_semantic": "deny_on_first_deny"}
        answer = await client.post(PREFIX + "evaluations", json=both, headers=token)
        assert [row["decision"] for row in answer.json()["evaluations"]] == [True, False]

    talk(world_now, work)


def test_searches_are_answered(world_now: World) -> None:
    world_now.publish()

    async def work(client: httpx2.AsyncClient, token: dict[str, str]) -> None:
        async def search(kind: str, **parts: Any) -> Any:
            answer = await client.post(f"{PREFIX}search/{kind}", json={**QUESTION, **parts}, headers=token)
            assert answer.status_code == 200
            return answer.json()["results"]

        assert await search("subject", subject={"type": "workload"}) == [{"type": "workload", "id": CART}]
        assert await search("resource", resource={"type": "service"}) == [{"type": "service", "id": "db"}]
        assert await search("action") == [{"name": "GET"}]

    talk(world_now, work)


def test_strangers_and_others_get_nothing(world_now: World) -> None:
    world_now.publish()
    other = header(world_now, "limen-bundles")

    async def work(client: httpx2.AsyncClient, token: dict[str, str]) -> None:
        for path in PATHS:
            for proof in ({}, {"authorization": other}, {"authorization": token["authorization"][:-8]}):
                answer = await client.post(PREFIX + path, json=QUESTION, headers={**proof, "x-request-id": "7"})
                assert (answer.status_code, answer.json()["problem"]["code"]) == (401, "LM2641")
                assert (answer.headers["www-authenticate"], answer.headers["x-request-id"]) == ("Bearer", "7")
        world_now.app.authzen.admit(())
        answer = await client.post(PREFIX + "evaluation", json=QUESTION, headers=token)
        assert (answer.status_code, answer.json()["problem"]["code"]) == (403, "LM2642")

    talk(world_now, work)


def test_what_is_wrong_with_a_request_is_400(world_now: World) -> None:
    bodies: list[tuple[bytes, dict[str, str]]] = [
        (b"", JSON),
        (b"{", JSON),
        (b'{"subject": 1, "subject": 2}', JSON),
        (json.dumps(QUESTION).encode(), {"content-type": "text/plain"}),
        (json.dumps(QUESTION).encode(), {}),
        (json.dumps({**QUESTION, "subject": "alice"}).encode(), JSON),
        (b"[" * 100_000, JSON),
        (b'{"subject": "\xff"}', JSON),
    ]

    async def work(client: httpx2.AsyncClient, token: dict[str, str]) -> None:
        for path in PATHS:
            for data, more in bodies:
                answer = await client.post(PREFIX + path, content=data, headers={**token, **more})
                assert (answer.status_code, answer.json()["problem"]["code"]) == (400, "LM2643"), data[:50]
        large = await client.post(PREFIX + "evaluation", content=b" " * (MAX_BODY_BYTES + 1), headers={**token, **JSON})
        assert large.status_code == 413
        assert (await client.get(PREFIX + "evaluation", headers=token)).status_code == 405

    talk(world_now, work)


def test_the_metadata_is_for_everybody_and_names_what_is_there(world_now: World) -> None:
    async def work(client: httpx2.AsyncClient, token: dict[str, str]) -> None:
        del token
        answer = await client.get(METADATA)
        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
        found = answer.json()
        base = str(client.base_url).rstrip("/")
        assert found["policy_decision_point"] == base
        assert {name: text for name, text in found.items() if name != "policy_decision_point"} == {
            "access_evaluation_endpoint": f"{base}/access/v1/evaluation",
            "access_evaluations_endpoint": f"{base}/access/v1/evaluations",
            "search_subject_endpoint": f"{base}/access/v1/search/subject",
            "search_resource_endpoint": f"{base}/access/v1/search/resource",
            "search_action_endpoint": f"{base}/access/v1/search/action",
        }
        assert (await client.get(METADATA, headers={"host": "a b"})).status_code == 400

    talk(world_now, work)


@pytest.mark.parametrize(
    ("host", "base"),
    [
        ("pdp.corp.test", "https://pdp.corp.test"),
        ("PDP.corp.test:443", "https://pdp.corp.test"),
        ("127.0.0.1:8443", "https://127.0.0.1:8443"),
        ("[::1]:8443", "https://[::1]:8443"),
        ("", None),
        ("a/b", None),
        ("a@b", None),
        ("a,b", None),
    ],
)
def test_a_base_is_the_host_that_was_asked(host: str, base: str | None) -> None:
    assert _base(host) == base


def test_whoever_asks_too_often_is_let_through_later() -> None:
    found = authzen.admits()
    answers = [found("192.0.2.1") for _ in range(2000)]
    assert answers[0]
    assert not answers[-1]
    assert found("192.0.2.2")


# INVARIANT: whatever is sent, the answer is 200, 400 or 413 and JSON, and nothing that is no question is allowed.
@settings(max_examples=examples(40), deadline=None, suppress_health_check=list(HealthCheck))
@given(
    path=st.sampled_from(PATHS),
    body=st.binary(max_size=80)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=6),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(("subject", "action", "resource", "type", "id", "evaluations")), inner)
        ),
        max_leaves=8,
    ).map(lambda value: json.dumps(value).encode()),
)
def test_any_bytes_are_answered(world_now: World, path: str, body: bytes) -> None:
    async def run() -> httpx2.Response:
        from concurrent.futures import ThreadPoolExecutor

        from limen.api.public import public_api

        with ThreadPoolExecutor(1) as worker:
            api = public_api(world_now.app, worker)
            async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=api), base_url="https://x") as client:
                token = header(world_now, AUDIENCE)
                return await client.post(PREFIX + path, content=body, headers={"authorization": token, **JSON})

    world_now.app.authzen.admit(("spiffe://world.test/user/**",))
    answer = asyncio.run(run())
    assert answer.status_code in {200, 400}
    assert answer.json().get("decision") is not True
