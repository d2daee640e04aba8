"""The public documents: what they say and how long they hold."""

import asyncio
import base64
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from limen.api import wellknown
from limen.api.wellknown import Documents, check_issuer, wellknown_api
from mesh import canonicaljson
from mesh.bundle import TrustBundle, parse_bundle
from mesh.problems import Problem
from mesh.spiffe import TrustDomain
from tests.pki import Pki
from tests.rsakeys import rsa_key

DOMAIN = TrustDomain.parse("corp.test")
ISSUER = "https://oidc.corp.test"


def jwk(kid: str, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    def number(value: int, size: int) -> str:
        return base64.urlsafe_b64encode(value.to_bytes(size, "big")).rstrip(b"=").decode()

    public = key.public_key().public_numbers()
    if isinstance(public, rsa.RSAPublicNumbers):
        return canonicaljson.dumps({"kty": "RSA", "kid": kid, "n": number(public.n, 256), "e": number(public.e, 3)})
    curve, size = ("P-256", 32) if key.key_size == 256 else ("P-384", 48)
    found = {"kty": "EC", "crv": curve, "kid": kid, "x": number(public.x, size), "y": number(public.y, size)}
    return canonicaljson.dumps(found)


EC256, EC384 = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP384R1())
RSA = rsa_key()
BUNDLE = TrustBundle(
    trust_domain=DOMAIN,
    x509_authorities=(Pki().root.der,),
    jwt_authorities=(jwk("a", EC256), jwk("b", EC384), jwk("c", RSA)),
    sequence=7,
    refresh_hint=120,
)


def get(
    path: str, bundle: Callable[[], TrustBundle] = lambda: BUNDLE, issuer: str | None = ISSUER, **headers: str
) -> httpx2.Response:
    async def run() -> httpx2.Response:
        with ThreadPoolExecutor(1) as worker:
            transport = httpx2.ASGITransport(app=wellknown_api(Documents(bundle, issuer), worker))
            async with httpx2.AsyncClient(transport=transport, base_url="https://x") as client:
                return await client.get(path, headers={name.replace("_", "-"): text for name, text in headers.items()})

    return asyncio.run(run())


def test_serves_the_newest_bundle_and_says_how_long_it_holds() -> None:
    answer = get("/.well-known/spiffe-bundle")
    assert parse_bundle(DOMAIN, answer.content).digest == BUNDLE.digest
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "public, max-age=120"


def test_says_not_modified_as_long_as_it_is_not() -> None:
    tag = get("/.well-known/spiffe-bundle").headers["etag"]
    for said in (tag, f'"x", W/{tag}'):
        answer = get("/.well-known/spiffe-bundle", if_none_match=said)
        assert (answer.status_code, answer.content) == (304, b"")
    other = TrustBundle(trust_domain=DOMAIN, sequence=8)
    assert get("/.well-known/spiffe-bundle", lambda: other, if_none_match=tag).status_code == 200


def test_makes_a_document_once_for_each_change() -> None:
    found = [BUNDLE]
    documents = Documents(lambda: found[0])
    assert documents.spiffe()[0] is documents.spiffe()[0]
    found[0] = TrustBundle(trust_domain=DOMAIN, sequence=8)
    assert json.loads(documents.spiffe()[0])["spiffe_sequence"] == 8


def test_strangers_do_not_keep_the_worker_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wellknown, "FRESH_S", 3600.0)
    asked: list[None] = []

    def bundle() -> TrustBundle:
        asked.append(None)
        return BUNDLE

    async def run() -> None:
        with ThreadPoolExecutor(1) as worker:
            transport = httpx2.ASGITransport(app=wellknown_api(Documents(bundle), worker))
            async with httpx2.AsyncClient(transport=transport, base_url="https://x") as client:
                for _ in range(20):
                    assert (await client.get("/.well-known/spiffe-bundle")).status_code == 200

    asyncio.run(run())
    assert len(asked) <= 3


def test_keys_are_of_all_jwt_authorities_with_use_and_algorithm() -> None:
    keys = get("/keys").json()["keys"]
    assert [(item["kid"], item["use"], item["alg"]) for item in keys] == [
        ("a", "sig", "ES256"),
        ("b", "sig", "ES384"),
        ("c", "sig", "RS256"),
    ]
    assert not any({"x5c", "d"} & set(item) for item in keys)


def test_discovery_names_the_configured_issuer_and_nothing_from_the_request() -> None:
    found = get("/.well-known/openid-configuration", host="evil.test").json()
    assert found["issuer"] == ISSUER
    assert found["jwks_uri"] == f"{ISSUER}/keys"
    assert found["id_token_signing_alg_values_supported"] == ["ES256", "ES384", "RS256"]
    assert get("/.well-known/openid-configuration", issuer=f"{ISSUER}/").json()["jwks_uri"] == f"{ISSUER}/keys"


def test_without_an_issuer_there_is_no_discovery_document() -> None:
    answer = get("/.well-known/openid-configuration", issuer=None)
    assert answer.status_code == 404
    assert answer.json()["problem"]["code"] == "LM1520"


@pytest.mark.parametrize(
    "url",
    [
        "http://x",
        "https://",
        "https://u@x",
        "https://x?y",
        "https://x/#y",
        "https://x:0",
        "https://x:y",
        "https://é",
        "",
    ],
)
def test_an_issuer_is_a_plain_https_url(url: str) -> None:
    with pytest.raises(Problem, match="LM1515"):
        check_issuer(url)


def test_other_methods_and_paths_are_not_there() -> None:
    assert get("/v1/status").status_code == 404
    assert get("/").status_code == 404
