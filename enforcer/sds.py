"""Envoy's secret discovery (`envoy.service.secret.v3`) on `agent.sock`: SVIDs as certificates, bundles as contexts.

Names: `default` is the caller's first SVID, a SPIFFE ID is that one of its SVIDs; `ROOTCA` is its own trust domain's
authorities as plain roots; a trust domain (`corp.test` or `spiffe://corp.test`) is a context for it alone, and `ALL`
one for every trust domain that the caller is given, both with Envoy's SPIFFE validator, which never lets one domain's
authority vouch for another's names. Any other name is refused: a caller learns nothing of what it is not.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

import grpc
import structlog
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)
from envoy.config.core.v3 import base_pb2, extension_pb2
from envoy.extensions.transport_sockets.tls.v3 import common_pb2, secret_pb2, tls_spiffe_validator_config_pb2
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf import any_pb2

from enforcer.admission import Admission
from enforcer.federated import given_to
from enforcer.identity import Identity
from enforcer.workloadfront import Caller
from mesh.bundle import TrustBundle
from mesh.problems import Forbidden

TYPE_URL = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
VALIDATOR = "envoy.tls.cert_validator.spiffe"
MAX_NAMES = 64
Secret = secret_pb2.Secret


def secret(name: str, identities: list[Identity], every: dict[str, TrustBundle]) -> Any:  # noqa: ANN401  a Secret; the package has no types
    """The secret of a name, for a caller with these identities (at least one).

    Raises Forbidden LM3506 for a name that it has no right to, or that nothing has.
    """
    bundles = given_to(identities, every)
    own = identities[0].svid.spiffe_id.trust_domain.name
    if name == "ROOTCA":
        return Secret(name=name, validation_context=_context(_source(_pem(bundles[own].x509_authorities))))
    if name == "ALL":
        return Secret(name=name, validation_context=_spiffe_context(bundles))
    domain = name.removeprefix("spiffe://")
    if domain in bundles:
        return Secret(name=name, validation_context=_spiffe_context({domain: bundles[domain]}))
    for found in identities:
        if name in {"default", str(found.svid.spiffe_id)}:
            return Secret(name=name, tls_certificate=_certificate(found))
    raise Forbidden("LM3506", name=name[:200])


def _certificate(found: Identity) -> Any:  # noqa: ANN401
    key = load_der_private_key(found.svid.key_pkcs8_der, password=None)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return common_pb2.TlsCertificate(certificate_chain=_source(_pem(found.svid.chain_der)), private_key=_source(pem))


def _context(trusted_ca: Any) -> Any:  # noqa: ANN401
    return common_pb2.CertificateValidationContext(trusted_ca=trusted_ca)


def _spiffe_context(bundles: dict[str, TrustBundle]) -> Any:  # noqa: ANN401
    validator = tls_spiffe_validator_config_pb2.SPIFFECertValidatorConfig(
        trust_domains=[
            tls_spiffe_validator_config_pb2.SPIFFECertValidatorConfig.TrustDomain(
                name=name, trust_bundle=_source(_pem(found.x509_authorities))
            )
            for name, found in sorted(bundles.items())
            # a domain without an authority vouches for nobody; Envoy refuses an empty bundle and all others with it
            if found.x509_authorities
        ]
    )
    return common_pb2.CertificateValidationContext(
        custom_validator_config=extension_pb2.TypedExtensionConfig(name=VALIDATOR, typed_config=_any(validator))
    )


def _source(data: bytes) -> Any:  # noqa: ANN401
    return base_pb2.DataSource(inline_bytes=data)


def _pem(ders: Iterable[bytes]) -> bytes:
    return b"".join(x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM) for der in ders)


def _any(message: Any) -> any_pb2.Any:  # noqa: ANN401
    packed = any_pb2.Any()
    packed.Pack(message, deterministic=True)
    return packed


class Subscription:
    """One stream's side of the state-of-the-world protocol: what was asked for, sent, accepted or refused.

    1. A request that answers an older response is of no account: a newer response is on its way.
    2. A refusal (`error_detail`) is said once; the same content is not sent again.
    3. A response goes out for new names at once, and whenever what it would say has changed.
    """

    def __init__(self) -> None:
        self.names: tuple[str, ...] = ()
        self.refusal = ""
        self._nonce = 0
        self._last: list[bytes] | None = None

    def take(self, request: Any) -> None:  # noqa: ANN401  a DiscoveryRequest
        """Take a request.

        Raises Forbidden LM3507 for resources of another type, or too many names.
        """
        if request.type_url not in {"", TYPE_URL} or len(request.resource_names) > MAX_NAMES:
            raise Forbidden("LM3507", most=MAX_NAMES)
        # (1)
        if request.response_nonce and request.response_nonce != str(self._nonce):
            return
        # (2)
        self.refusal = request.error_detail.message if request.HasField("error_detail") else ""
        names = tuple(dict.fromkeys(request.resource_names))
        if names != self.names:
            self.names, self._last = names, None

    def answer(self, identities: list[Identity], every: dict[str, TrustBundle]) -> Any:  # noqa: ANN401
        """The response that is due, or None.

        Raises Forbidden LM3506.
        """
        if not self.names:
            return None
        resources = [_any(secret(name, identities, every)) for name in self.names]
        # (3)
        data = [found.value for found in resources]
        if data == self._last:
            return None
        self._last = data
        self._nonce += 1
        return discovery_pb2.DiscoveryResponse(
            version_info=str(self._nonce), nonce=str(self._nonce), type_url=TYPE_URL, resources=resources
        )


class SecretDiscovery:
    """The service. Its calls carry no SPIFFE header: Envoy cannot send one. Its callers are attested as all others."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission

    async def stream(self, requests: AsyncIterator[Any], context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
        """Send what is asked for, at once and after every change."""
        subscription = Subscription()
        async with self._admission.call(context) as caller:
            pending: asyncio.Future[Any] = asyncio.ensure_future(_next(requests))
            news: asyncio.Future[Any] | None = None
            try:
                while True:
                    seen = self._admission.identities.version
                    if subscription.names:
                        answer = await self._answer(subscription, caller, context)
                        if answer is not None:
                            yield answer
                    news = asyncio.ensure_future(self._admission.identities.changed(seen))
                    await asyncio.wait({pending, news}, return_when=asyncio.FIRST_COMPLETED)
                    news.cancel()
                    if pending.done():
                        request = pending.result()
                        if request is None:
                            return
                        await self._take(subscription, request, caller, context)
                        pending = asyncio.ensure_future(_next(requests))
            finally:
                pending.cancel()
                if news is not None:
                    news.cancel()

    async def fetch(self, request: Any, context: grpc.aio.ServicerContext) -> Any:  # noqa: ANN401
        """Send what is asked for, once."""
        subscription = Subscription()
        async with self._admission.call(context) as caller:
            await self._take(subscription, request, caller, context)
            answer = await self._answer(subscription, caller, context)
        return answer or discovery_pb2.DiscoveryResponse(type_url=TYPE_URL)

    async def _take(
        self,
        subscription: Subscription,
        request: Any,  # noqa: ANN401
        caller: Caller,
        context: grpc.aio.ServicerContext,
    ) -> None:
        await self._admission.message(caller, context)
        try:
            subscription.take(request)
        except Forbidden as problem:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(problem))
        if subscription.refusal:
            structlog.get_logger().warning(
                "an Envoy refused its secrets", pid=caller.pid, reason=subscription.refusal[:500], code="LM3508"
            )

    async def _answer(self, subscription: Subscription, caller: Caller, context: grpc.aio.ServicerContext) -> Any:  # noqa: ANN401
        identities = await self._admission.entitled(caller, context)
        try:
            return subscription.answer(identities, self._admission.identities.bundles())
        except Forbidden as problem:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, str(problem))


async def _next(requests: AsyncIterator[Any]) -> Any:  # noqa: ANN401
    return await anext(aiter(requests), None)


def handlers(admission: Admission) -> dict[str, Any]:
    """The methods of the service. DeltaSecrets is not among them: Envoy asks for it only where it is told to."""
    served = SecretDiscovery(admission)
    reads = discovery_pb2.DiscoveryRequest.FromString
    writes = discovery_pb2.DiscoveryResponse.SerializeToString
    return {
        "StreamSecrets": grpc.stream_stream_rpc_method_handler(
            served.stream, request_deserializer=reads, response_serializer=writes
        ),
        "FetchSecrets": grpc.unary_unary_rpc_method_handler(
            served.fetch, request_deserializer=reads, response_serializer=writes
        ),
    }
