import asyncio
import base64
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from ca.rotation import Kind
from limen.api.public import public_api
from tests.world import World


def ask(world: World, method: str, path: str, body: bytes = b"") -> httpx2.Response:
    async def run() -> httpx2.Response:
        with ThreadPoolExecutor(1) as worker:
            transport = httpx2.ASGITransport(app=public_api(world.app, worker))
            async with httpx2.AsyncClient(transport=transport, base_url="https://x") as client:
                return await client.request(method, path, content=body)

    return asyncio.run(run())


def test_anybody_may_fetch_a_revocation_list(world: World) -> None:
    name = world.app._authority.active(Kind.ISSUING).id
    found = ask(world, "GET", f"/crl/{name}.crl")
    assert (found.status_code, found.headers["content-type"]) == (200, "application/pkix-crl")
    assert x509.load_der_x509_crl(found.content).issuer == world.app._authority.issuer.certificate.subject
    assert ask(world, "GET", "/crl/nobody.crl").status_code == 404


def test_ocsp_answers_both_methods(world: World) -> None:
    world.join()
    signer = world.app._authority.issuer.certificate
    serial = next(int(row["serial"], 16) for row in world.app.identities() if row["node"])
    asked = ocsp.OCSPRequestBuilder().add_certificate_by_hash(
        _hash(signer.subject.public_bytes()), _key_hash(signer), serial, hashes.SHA256()
    )
    data = asked.build().public_bytes(Encoding.DER)
    for found in (
        ask(world, "POST", "/ocsp", data),
        ask(world, "GET", "/ocsp/" + base64.b64encode(data).decode().replace("/", "%2F").replace("+", "%2B")),
    ):
        assert found.headers["content-type"] == "application/ocsp-response"
        assert ocsp.load_der_ocsp_response(found.content).certificate_status is ocsp.OCSPCertStatus.GOOD


@pytest.mark.parametrize("path", ["/ocsp/!", "/ocsp/" + "A" * 20000, "/ocsp/AAAA"], ids=["no-base64", "large", "none"])
def test_what_is_no_request_is_answered_as_malformed(world: World, path: str) -> None:
    found = ocsp.load_der_ocsp_response(ask(world, "GET", path).content)
    assert found.response_status is ocsp.OCSPResponseStatus.MALFORMED_REQUEST


def _hash(data: bytes) -> bytes:
    digest = hashes.Hash(hashes.SHA256())
    digest.update(data)
    return digest.finalize()


def _key_hash(certificate: x509.Certificate) -> bytes:
    probe = ocsp.OCSPRequestBuilder().add_certificate(certificate, certificate, hashes.SHA256()).build()
    return probe.issuer_key_hash
