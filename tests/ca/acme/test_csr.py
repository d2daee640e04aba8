import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import example, given
from hypothesis import strategies as st

from ca.acme.csr import read_csr
from mesh.problems import Invalid
from tests.acmeclient import csr

GOOD = csr("a.test", "b.test")
ORDERED = (("dns", "a.test"), ("dns", "b.test"))


def test_exactly_what_was_ordered_passes() -> None:
    assert read_csr(GOOD, ORDERED)


@pytest.mark.parametrize("names", [("a.test",), ("a.test", "b.test", "c.test"), (), ("*.test", "a.test")], ids=str)
def test_more_or_less_than_was_ordered_is_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(Invalid, match="LM1407"):
        read_csr(csr(*names), ORDERED)


@pytest.mark.parametrize("key", [ed25519.Ed25519PrivateKey.generate(), ec.generate_private_key(ec.SECP521R1())])
def test_a_key_of_another_kind_is_refused(key: object) -> None:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    digest = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    made = builder.sign(key, digest).public_bytes(Encoding.DER)  # type: ignore[arg-type]
    with pytest.raises(Invalid, match="LM1407"):
        read_csr(made, ORDERED)


@pytest.mark.parametrize("name", ["evil.test", "a.test"])
def test_a_common_name_is_one_of_the_names(name: str) -> None:
    alternatives = x509.SubjectAlternativeName([x509.DNSName("a.test"), x509.DNSName("b.test")])
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject).add_extension(alternatives, False)
    made = builder.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256()).public_bytes(Encoding.DER)
    if name == "a.test":
        assert read_csr(made, ORDERED)
    else:
        with pytest.raises(Invalid, match="LM1407"):
            read_csr(made, ORDERED)


@pytest.mark.parametrize("uri", ["spiffe://a/b", "https://a.test"])
def test_a_uri_is_refused(uri: str) -> None:
    alternatives = x509.SubjectAlternativeName([x509.DNSName("a.test"), x509.UniformResourceIdentifier(uri)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).add_extension(alternatives, False)
    made = builder.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256()).public_bytes(Encoding.DER)
    with pytest.raises(Invalid, match="LM1407"):
        read_csr(made, (("dns", "a.test"),))


@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
@example(8, 1)
def test_a_request_with_one_byte_changed_is_refused(at: int, by: int) -> None:
    changed = GOOD[:at] + bytes([GOOD[at] ^ by]) + GOOD[at + 1 :]
    with pytest.raises(Invalid, match="LM1407"):
        read_csr(changed, ORDERED)


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_with_a_code(data: bytes) -> None:
    with pytest.raises(Invalid, match="LM1407"):
        read_csr(data, ORDERED)
