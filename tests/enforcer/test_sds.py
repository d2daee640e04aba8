import asyncio
import pathlib
from typing import Any

import grpc
import pytest
from cryptography import x509
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2, tls_spiffe_validator_config_pb2
from envoy.service.discovery.v3 import discovery_pb2

from enforcer.sds import TYPE_URL, VALIDATOR, Subscription, secret
from mesh.problems import Forbidden
from tests.enforcer.test_workloadapi import Provider, Served, run

PREFIX = "/envoy.service.secret.v3.SecretDiscoveryService/"
OWN = "spiffe://corp.test/ns/web/sa/front"
Request = discovery_pb2.DiscoveryRequest


def stream(channel: Any) -> Any:
    method = channel.stream_stream(
        PREFIX + "StreamSecrets",
        request_serializer=Request.SerializeToString,
        response_deserializer=discovery_pb2.DiscoveryResponse.FromString,
    )
    return method()


def ask(*names: str, nonce: str = "") -> Any:
    return Request(type_url=TYPE_URL, resource_names=names, response_nonce=nonce)


def secrets(answer: Any) -> list[Any]:
    return [secret_pb2.Secret.FromString(found.value) for found in answer.resources]


def domains(found: Any) -> list[str]:
    custom = found.validation_context.custom_validator_config
    assert custom.name == VALIDATOR
    config = tls_spiffe_validator_config_pb2.SPIFFECertValidatorConfig()
    assert custom.typed_config.Unpack(config)
    assert all(x509.load_pem_x509_certificates(item.trust_bundle.inline_bytes) for item in config.trust_domains)
    return [item.name for item in config.trust_domains]


@pytest.mark.parametrize("name", ["default", OWN])
def test_an_svid_is_a_certificate_with_its_key(name: str) -> None:
    provider = Provider()
    identity = provider.identity("/ns/web/sa/front", "")
    found = secret(name, [identity], provider.bundles())
    assert found.name == name
    (leaf,) = x509.load_pem_x509_certificates(found.tls_certificate.certificate_chain.inline_bytes)
    assert leaf == x509.load_der_x509_certificate(identity.svid.chain_der[0])
    assert b"PRIVATE KEY" in found.tls_certificate.private_key.inline_bytes


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ALL", ["corp.test", "other.test"]),
        ("corp.test", ["corp.test"]),
        ("spiffe://other.test", ["other.test"]),
    ],
)
def test_trust_domains_stand_apart_in_the_spiffe_validator(name: str, expected: list[str]) -> None:
    provider = Provider()
    found = secret(name, [provider.identity("/a", "")], provider.bundles())
    assert domains(found) == expected


def test_ROOTCA_is_the_own_authorities_alone() -> None:
    provider = Provider()
    found = secret("ROOTCA", [provider.identity("/a", "")], provider.bundles())
    pem = found.validation_context.trusted_ca.inline_bytes
    assert x509.load_pem_x509_certificates(pem) == [provider.root.certificate]


@pytest.mark.parametrize("name", ["", "rootca", "spiffe://corp.test/other", "stranger.test", "spiffe://default"])
def test_other_names_are_refused(name: str) -> None:
    provider = Provider()
    every = {**provider.bundles(), "stranger.test": provider.other}
    with pytest.raises(Forbidden) as caught:
        secret(name, [provider.identity("/ns/web/sa/front", "")], every)
    assert caught.value.code == "LM3506"


def test_an_acknowledgement_sends_nothing_and_a_stale_one_changes_nothing() -> None:
    provider = Provider()
    state = ([provider.identity("/a", "")], provider.bundles())
    subscription = Subscription()
    assert subscription.answer(*state) is None
    subscription.take(ask("default"))
    first = subscription.answer(*state)
    subscription.take(ask("default", nonce=first.nonce))
    assert subscription.answer(*state) is None
    subscription.take(ask("ALL", nonce="77"))
    assert subscription.names == ("default",)
    subscription.take(ask("default", "ALL", nonce=first.nonce))
    second = subscription.answer(*state)
    assert [item.name for item in secrets(second)] == ["default", "ALL"]
    assert second.nonce != first.nonce
    assert second.version_info != first.version_info


def test_a_refusal_is_kept_and_the_same_is_not_sent_again() -> None:
    provider = Provider()
    state = ([provider.identity("/a", "")], provider.bundles())
    subscription = Subscription()
    subscription.take(ask("default"))
    first = subscription.answer(*state)
    refused = ask("default", nonce=first.nonce)
    refused.error_detail.message = "no"
    subscription.take(refused)
    assert subscription.refusal == "no"
    assert subscription.answer(*state) is None
    assert subscription.answer([provider.identity("/a", "")], state[1]) is not None


@pytest.mark.parametrize("request_", [Request(type_url="x"), ask(*map(str, range(65)))], ids=["type", "names"])
def test_requests_are_for_a_few_secrets(request_: Any) -> None:
    with pytest.raises(Forbidden) as caught:
        Subscription().take(request_)
    assert caught.value.code == "LM3507"


def test_an_envoy_without_a_header_is_served_at_once_and_on_every_change(tmp_path: pathlib.Path) -> None:
    async def work(found: Served, _: object) -> None:
        async with grpc.aio.insecure_channel(f"unix:{found.path}") as channel:
            call = stream(channel)
            await call.write(ask("default"))
            first = await call.read()
            await call.write(ask("default", nonce=first.nonce))
            found.provider.made.clear()
            await found.provider.change()
            second = await call.read()
            assert secrets(second)[0].tls_certificate != secrets(first)[0].tls_certificate
            found.provider.problem = Forbidden("LM1210", count=0)
            await found.provider.change()
            with pytest.raises(grpc.aio.AioRpcError):
                await call.read()
            assert await call.code() is grpc.StatusCode.PERMISSION_DENIED

    run(tmp_path, work)


@pytest.mark.parametrize(
    ("request_", "code"),
    [(ask("spiffe://corp.test/other"), "PERMISSION_DENIED"), (Request(type_url="x"), "INVALID_ARGUMENT")],
    ids=["not-entitled", "not-secrets"],
)
def test_a_stream_that_asks_for_what_is_not_its_own_ends(request_: Any, code: str, tmp_path: pathlib.Path) -> None:
    async def work(found: Served, _: object) -> None:
        async with grpc.aio.insecure_channel(f"unix:{found.path}") as channel:
            call = stream(channel)
            await call.write(request_)
            with pytest.raises(grpc.aio.AioRpcError):
                await call.read()
            assert (await call.code()).name == code
        async with grpc.aio.insecure_channel(f"unix:{found.path}") as channel:
            call = stream(channel)
            await call.done_writing()
            assert await call.read() is grpc.aio.EOF
            assert (await call.code()).name == "OK"
        while found.api._front.callers > 1:
            await asyncio.sleep(0)

    run(tmp_path, work)


def test_secrets_are_fetched_once(tmp_path: pathlib.Path) -> None:
    async def work(found: Served, _: object) -> None:
        async with grpc.aio.insecure_channel(f"unix:{found.path}") as channel:
            fetch = channel.unary_unary(
                PREFIX + "FetchSecrets",
                request_serializer=Request.SerializeToString,
                response_deserializer=discovery_pb2.DiscoveryResponse.FromString,
            )
            assert [item.name for item in secrets(await fetch(ask("ROOTCA")))] == ["ROOTCA"]

    run(tmp_path, work)
