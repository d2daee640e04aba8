"""X509-SVID.md §2 to §4, what we issue, statement by statement (X-1 to X-15); tests/mesh/test_x509svid.py has §5."""

import datetime as dt

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from ca.mint import Issuer, mint_intermediate, mint_root, mint_svid
from mesh.bundle import TrustBundle
from mesh.spiffe import SpiffeId, TrustDomain
from mesh.x509svid import SvidError, verify_x509_svid
from tests.pki import NOW, Pki, usage

TD = TrustDomain.parse("corp.test")
KEY = ec.generate_private_key(ec.SECP256R1())
DAY = dt.timedelta(days=1)
ROOT = x509.load_der_x509_certificate(mint_root(TD, KEY, serial=1, now=NOW, life=DAY))
ISSUING = x509.load_der_x509_certificate(
    mint_intermediate(
        TD, KEY.public_key(), Issuer(certificate=ROOT, key=KEY),
        serial=2, now=NOW, life=DAY, constrained=True,
    )
)  # fmt: skip
LEAF = x509.load_der_x509_certificate(
    mint_svid(
        SpiffeId.parse("spiffe://corp.test/a"), KEY.public_key(), Issuer(certificate=ISSUING, key=KEY),
        serial=3, now=NOW, life=DAY, dns_names=("a.corp.test",),
    )
)  # fmt: skip


def uris(found: x509.Certificate) -> list[str]:
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return names.get_values_for_type(x509.UniformResourceIdentifier)


def use(found: x509.Certificate) -> x509.Extension[x509.KeyUsage]:
    return found.extensions.get_extension_for_class(x509.KeyUsage)


def is_ca(found: x509.Certificate) -> bool:
    return found.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


CLAIMS = {
    "X-1": lambda: uris(LEAF) == ["spiffe://corp.test/a"],
    "X-2": lambda: SpiffeId.parse(uris(LEAF)[0]).path == "/a",
    "X-3": lambda: (
        not list(LEAF.subject) and LEAF.extensions.get_extension_for_class(x509.SubjectAlternativeName).critical
    ),
    "X-4": lambda: all(uris(found) == ["spiffe://corp.test"] for found in (ROOT, ISSUING)),
    "X-5": lambda: SpiffeId.parse(uris(ISSUING)[0]).trust_domain == TD,
    "X-6": lambda: not is_ca(LEAF),
    "X-7": lambda: is_ca(ROOT) and is_ca(ISSUING),
    "X-8": lambda: all(use(found).critical for found in (LEAF, ISSUING, ROOT)),
    "X-9": lambda: use(ROOT).value.key_cert_sign and use(ISSUING).value.key_cert_sign,
    "X-10": lambda: use(LEAF).value.digital_signature,
    "X-11": lambda: not use(LEAF).value.key_cert_sign and not use(LEAF).value.crl_sign,
    "X-12": lambda: LEAF.extensions.get_extension_for_class(x509.ExtendedKeyUsage),
    "X-13": lambda: (
        {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
        <= set(LEAF.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    ),
    "X-15": lambda: ISSUING.extensions.get_extension_for_class(x509.NameConstraints).critical,
}


@pytest.mark.parametrize("statement", CLAIMS)
def test_issues(statement: str) -> None:
    assert CLAIMS[statement]()


@pytest.mark.parametrize("statement", ["X-14", "X-16", "X-24"])
def test_validates(statement: str) -> None:
    pki = Pki()
    ders = [item.public_bytes(Encoding.DER) for item in (LEAF, ISSUING, ROOT)]
    own = {TD: TrustBundle(trust_domain=TD, x509_authorities=(ders[2],))}
    assert verify_x509_svid(ders[:2], own, NOW).spiffe_id.path == "/a"
    if statement == "X-14":
        for signer in ders[1:]:
            with pytest.raises(SvidError):
                verify_x509_svid([signer], own, NOW)
    if statement == "X-16":
        with pytest.raises(SvidError, match="LM1019"):
            verify_x509_svid(ders[:1], own, NOW)
    if statement == "X-24":
        with pytest.raises(SvidError, match="LM1018"):
            verify_x509_svid(ders[:2], {Pki("other.test").domain: pki.bundle()}, NOW)


@pytest.mark.parametrize("usages", [pytest.param(usage(crl_sign=True), id="X-25")])
def test_a_signer_without_key_cert_sign_is_refused(usages: x509.KeyUsage) -> None:
    pki = Pki()
    middle = pki.signer(pki.root, subject="middle", key_usage=usages)
    with pytest.raises(SvidError, match="LM1022"):
        verify_x509_svid([pki.leaf(issuer=middle).der, middle.der], {pki.domain: pki.bundle()}, NOW)
