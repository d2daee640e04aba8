"""The routes of nodes, with the callers that nobody knows."""

import asyncio
import base64
import json
import pathlib
import types
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from limen.api import nodes
from limen.api.public import public_api
from tests.ca.attestation.issuers import key_set
from tests.examples import examples
from tests.pki import make, usage
from tests.world import World, make_world


@pytest.fixture
def world(tmp_path: pathlib.Path) -> Iterator[World]:
    found = make_world(tmp_path / "state")
    yield found
    found.app.close()


def post(world: World, path: str, *bodies: bytes) -> list[httpx2.Response]:
    async def run() -> list[httpx2.Response]:
        with ThreadPoolExecutor(1) as worker:
            transport = httpx2.ASGITransport(app=public_api(world.app, worker))
            async with httpx2.AsyncClient(transport=transport, base_url="https://x") as client:
                headers = {"content-type": "application/json"}
                return [await client.post(path, content=body, headers=headers) for body in bodies]

    return asyncio.run(run())


def test_one_address_gets_so_many_tries(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    # a machine that is shared takes its time, and tries grow back
    monkeypatch.setattr(nodes, "time", types.SimpleNamespace(monotonic=lambda: 7.0))
    found = [answer.status_code for answer in post(world, "/v1/node/nonce", *[b""] * 220)]
    assert found[0] == 200
    assert found[-1] == 503
    assert found.count(200) == 200


def test_nobody_leaves_a_row_without_a_proof(world: World) -> None:
    before = world.app.status()["records"]
    spki = base64.b64encode(world.spki()).decode()
    body = f'{{"node": "n", "nonce": "AA==", "spki": "{spki}", "key": "{spki}", "signature": "AA=="}}'.encode()
    (answer,) = post(world, "/v1/node/readmit", body)
    assert (answer.status_code, answer.json()["problem"]["code"]) == (403, "LM1240")
    assert world.app.nodes.list() == []
    assert world.app.status()["records"] == before


def test_a_large_body_is_refused_unread(world: World) -> None:
    (answer,) = post(world, "/v1/node/join", b'{"token": "' + b"x" * 70_000)
    assert (answer.status_code, answer.json()["problem"]["code"]) == (413, "LM1258")


@settings(max_examples=examples(40), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["join", "nonce", "readmit", "challenge", "attest"]),
    st.binary(max_size=200) | st.text().map(str.encode),
)
def test_no_bytes_are_a_bug(world: World, route: str, body: bytes) -> None:
    (answer,) = post(world, f"/v1/node/{route}", body)
    assert answer.status_code in ({200} if route == "nonce" else {403, 422})
    assert route == "nonce" or answer.json()["problem"]["code"] == "LM1256"


_PARTS = ["token", "signature", "ek", "ak", "certificate", "secret", "quote"]
_BASE64 = st.binary(max_size=100).map(lambda data: base64.b64encode(data).decode())


@settings(max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["x509pop", "tpm", "k8s", "oidc", "x"]),
    st.dictionaries(st.sampled_from(_PARTS), st.text(max_size=50) | _BASE64),
    st.lists(_BASE64, max_size=3),
)
def test_no_proof_is_a_bug_and_none_leaves_a_row(
    world: World, kind: str, parts: dict[str, str], chain: list[str]
) -> None:
    attestors(world)
    spki = base64.b64encode(world.spki()).decode()
    nonce = world.app.nodes.nonce()["nonce"]
    body = {"attestor": kind, "nonce": nonce, "spki": spki, "fresh": True, "proof": {**parts, "chain": chain}}
    challenge = {"attestor": kind, "ek": parts.get("ek", ""), "ak": parts.get("ak", "")}
    (answer,) = post(world, "/v1/node/attest", json.dumps(body).encode())
    (other,) = post(world, "/v1/node/challenge", json.dumps(challenge).encode())
    for found in (answer, other):
        assert found.status_code in {403, 404, 422}
        assert found.json()["problem"]["code"] in {"LM1245", "LM1246", "LM1247", "LM1248", "LM5213"}
    assert world.app.nodes.list() == []


def attestors(world: World) -> None:
    if world.app.attestation.list():
        return
    (world.state / "ca.pem").write_bytes(make(subject="x", ca=True, key_usage=usage(key_cert_sign=True)).pem)
    (world.state / "keys.json").write_bytes(key_set())
    common = "issuer: i, audience: a, jwks: keys.json"
    (world.state / "attestors.yaml").write_text(
        "attestors:\n- {name: a, type: x509pop, ca: ca.pem}\n- {name: b, type: tpm, ek_ca: ca.pem}\n"
        f"- {{name: c, type: k8s, cluster: c, service_accounts: [n/s], {common}}}\n"
        f"- {{name: d, type: oidc, claims: {{sub: x}}, {common}}}\n"
    )
    world.app.tick()
    assert len(world.app.attestation.list()) == 4
