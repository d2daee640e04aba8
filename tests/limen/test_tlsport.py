"""The TLS port shows each client the certificate of the name that it asks for, and agents always the pinned one."""

import asyncio
import ssl

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from limen import tlsport
from limen.tlsport import SERVER_NAME, TlsPort, context_of, web_context
from mesh.problems import Problem

_CA = trustme.CA()


def shown_for(name: str) -> ssl.SSLContext:
    issued = _CA.issue_cert(name)
    chain = b"".join(found.bytes() for found in issued.cert_chain_pems)
    return context_of(issued.private_key_pem.bytes(), chain)


async def ask(port: TlsPort, name: str | None) -> set[str]:
    """The DNS names of the certificate that a client is shown when it asks for a name."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    server_in, server_out = ssl.MemoryBIO(), ssl.MemoryBIO()
    here = client.wrap_bio(server_out, server_in, server_hostname=name)
    there = port.context.wrap_bio(server_in, server_out, server_side=True)
    for _ in range(6):
        for side in (here, there):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                pass
    der = here.getpeercert(binary_form=True)
    assert der is not None
    found = x509.load_der_x509_certificate(der).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return set(found.value.get_values_for_type(x509.DNSName))


def names(port: TlsPort, name: str | None) -> set[str]:
    return asyncio.run(ask(port, name))


def test_shows_the_certificate_of_the_name_whatever_its_case() -> None:
    port = TlsPort(shown_for(SERVER_NAME))
    port.serve(["acme.test"], shown_for("acme.test"))
    assert names(port, "acme.test") == {"acme.test"}
    assert names(port, "ACME.test") == {"acme.test"}


def test_shows_the_pinned_one_to_agents_whatever_the_default_is() -> None:
    port = TlsPort(shown_for(SERVER_NAME))
    port.serve_default(shown_for("web.test"))
    assert names(port, SERVER_NAME) == {SERVER_NAME}


@pytest.mark.parametrize("name", [None, "unknown.test"])
def test_shows_the_default_otherwise(name: str | None) -> None:
    port = TlsPort(shown_for(SERVER_NAME))
    assert names(port, name) == {SERVER_NAME}
    port.serve_default(shown_for("web.test"))
    assert names(port, name) == {"web.test"}


def test_forgets_a_name_but_not_the_pinned_one() -> None:
    port = TlsPort(shown_for(SERVER_NAME))
    port.serve(["a.test"], shown_for("a.test"))
    port.forget(["A.test.", SERVER_NAME])
    assert names(port, "a.test") == {SERVER_NAME}
    assert names(port, SERVER_NAME) == {SERVER_NAME}


def test_nobody_takes_the_pinned_name() -> None:
    with pytest.raises(ValueError, match="pinned"):
        TlsPort(shown_for(SERVER_NAME)).serve(["Limen-Server"], shown_for("a.test"))


def test_offers_mozillas_intermediate_suites_and_nothing_older_than_tls_1_2() -> None:
    context = tlsport.server_side()
    offered = {found["name"] for found in context.get_ciphers()}
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert {name for name in offered if not name.startswith("TLS_")} == set(tlsport.CIPHERS.split(":"))


def test_a_locked_key_is_refused_without_asking_anybody() -> None:
    issued = _CA.issue_cert("a.test")
    key = serialization.load_pem_private_key(issued.private_key_pem.bytes(), None)
    locked = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"x")
    )
    with pytest.raises(TypeError):
        context_of(locked, issued.cert_chain_pems[0].bytes())


@pytest.mark.parametrize("key", [b"", b"-----BEGIN PRIVATE KEY-----", b"x"], ids=["empty", "cut", "no-pem"])
def test_a_configured_certificate_that_cannot_be_used_is_refused_with_a_code(key: bytes) -> None:
    with pytest.raises(Problem, match="LM1516"):
        web_context(key, b"")
    with pytest.raises(Problem, match="LM1516"):
        web_context(
            _CA.issue_cert("a.test").private_key_pem.bytes(), _CA.issue_cert("b.test").cert_chain_pems[0].bytes()
        )


def test_a_key_of_another_certificate_is_refused() -> None:
    with pytest.raises(ssl.SSLError):
        context_of(
            _CA.issue_cert("a.test").private_key_pem.bytes(), _CA.issue_cert("b.test").cert_chain_pems[0].bytes()
        )
