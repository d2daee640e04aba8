import base64
import dataclasses
import datetime as dt
import json
import pathlib
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from ca.jwtmint import JwtSigner, mint_jwt_svid
from enforcer.jwtapi import bundles_message, check, validated
from mesh.bundle import TrustBundle
from mesh.problems import Invalid
from mesh.proto import workload_pb2 as pb
from mesh.spiffe import SpiffeId
from tests.enforcer.test_workloadapi import HEADER, Provider, Served, run

JWK = b'{"crv":"P-256","kid":"k","kty":"EC","x":"AA","y":"AA"}'


def test_W_15_a_jwt_bundle_holds_jwt_authorities_alone() -> None:
    provider = Provider()
    every = provider.bundles()
    every["corp.test"] = dataclasses.replace(every["corp.test"], jwt_authorities=(JWK,))
    every["stranger.test"] = provider.other
    found = bundles_message([provider.identity("/a", "")], every).bundles
    assert sorted(found) == ["spiffe://corp.test", "spiffe://other.test"]  # W-13
    assert json.loads(found["spiffe://corp.test"])["keys"] == [{**json.loads(JWK), "use": "jwt-svid"}]
    assert json.loads(found["spiffe://other.test"])["keys"] == []


SIGNER = JwtSigner(kid="k1", key=ec.generate_private_key(ec.SECP256R1()))


def number(value: int) -> str:
    return base64.urlsafe_b64encode(value.to_bytes(32, "big")).rstrip(b"=").decode()


def trusting(provider: Provider, domain: str = "corp.test") -> dict[str, TrustBundle]:
    """The provider's bundles, with the test's JWT authority in one of them."""
    assert isinstance(SIGNER.key, ec.EllipticCurvePrivateKey)
    public = SIGNER.key.public_key().public_numbers()
    jwk = {"kty": "EC", "crv": "P-256", "kid": "k1", "x": number(public.x), "y": number(public.y)}
    every = provider.bundles()
    every[domain] = dataclasses.replace(every[domain], jwt_authorities=(json.dumps(jwk).encode(),))
    return every


def token(provider: Provider, name: str = "spiffe://corp.test/a", life_s: int = 60) -> str:
    life = dt.timedelta(seconds=life_s)
    return mint_jwt_svid(SpiffeId.parse(name), ["me"], SIGNER, now=provider.now(), life=life, jti="j")[0]


def ask(svid: str, audience: str = "me") -> pb.ValidateJWTSVIDRequest:
    return pb.ValidateJWTSVIDRequest(audience=audience, svid=svid)


def test_W_17_all_claims_come_as_a_struct() -> None:
    provider = Provider()
    found = validated(ask(token(provider)), [provider.identity("/b", "")], trusting(provider), provider.now())
    assert found.spiffe_id == "spiffe://corp.test/a"
    claims = dict(found.claims)
    assert (claims["sub"], list(claims["aud"])) == ("spiffe://corp.test/a", ["me"])
    assert claims["exp"] == int((provider.now() + dt.timedelta(seconds=60)).timestamp())
    assert claims["jti"] == "j"


@pytest.mark.parametrize(
    ("audience", "name", "later", "code"),
    [
        pytest.param("you", "spiffe://corp.test/a", 0, "", id="W-17-audience"),
        pytest.param("me", "spiffe://corp.test/a", 3600, "", id="W-17-expired"),
        pytest.param("me", "spiffe://stranger.test/a", 0, "", id="W-17-not-given"),
        pytest.param("me", "spiffe://other.test/a", 0, "", id="W-17-key-of-another-domain"),
    ],
)
def test_what_is_wrong_is_refused(audience: str, name: str, later: int, code: str) -> None:
    provider = Provider()
    every = trusting(provider)
    every["stranger.test"] = dataclasses.replace(
        every["corp.test"], trust_domain=SpiffeId.parse("spiffe://stranger.test/x").trust_domain
    )
    request = ask(token(provider, name), audience)
    with pytest.raises(Invalid) as caught:
        validated(request, [provider.identity("/b", "")], every, provider.now() + dt.timedelta(seconds=later))
    assert caught.value.code == code or not code


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param(pb.ValidateJWTSVIDRequest(svid="x"), id="W-6-validate-audience"),
        pytest.param(pb.ValidateJWTSVIDRequest(audience="x"), id="W-6-validate-svid"),
        pytest.param(pb.JWTSVIDRequest(), id="W-6-fetch-audience"),
        pytest.param(pb.JWTSVIDRequest(audience=["", "x"]), id="W-6-fetch-empty-audience"),
    ],
)
def test_a_mandatory_field_is_missing(request_: pb.ValidateJWTSVIDRequest | pb.JWTSVIDRequest) -> None:
    with pytest.raises(Invalid, match="LM3509"):
        check(request_)


@pytest.mark.parametrize("claims", [{"n": 10**400}, {"t": "\ud800"}], ids=["number", "surrogate"])
def test_claims_that_no_struct_can_hold_are_refused(claims: dict[str, Any]) -> None:
    provider = Provider()
    now = int(provider.now().timestamp())
    svid = SIGNER.sign({"sub": "spiffe://corp.test/a", "aud": ["me"], "exp": now + 60, **claims})
    with pytest.raises(Invalid):
        validated(ask(svid), [provider.identity("/b", "")], trusting(provider), provider.now())


def test_W_17_over_the_socket(tmp_path: pathlib.Path) -> None:
    async def work(found: Served, stub: Any) -> None:
        every = trusting(found.provider)
        found.provider.bundles = lambda: every  # type: ignore[method-assign]
        answer = await stub.ValidateJWTSVID(ask(token(found.provider)), metadata=HEADER)
        assert answer.spiffe_id == "spiffe://corp.test/a"
        for request in (ask(""), ask("x", ""), ask("a.b.c")):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.ValidateJWTSVID(request, metadata=HEADER)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT

    run(tmp_path, work)
