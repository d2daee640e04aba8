"""SPIFFE-ID.md, statement by statement: each test carries the id of the one it shows (ID-1 to ID-22)."""

import datetime as dt
import json

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ca.jwtmint import jwt_signer, mint_jwt_svid
from ca.mint import mint_root
from mesh.bundle import TrustBundle
from mesh.jwtsvid import JwtSvidError, verify_jwt_svid
from mesh.spiffe import SpiffeId, SpiffeIdError, TrustDomain
from mesh.x509svid import SvidError, verify_x509_svid
from tests.mesh.test_jwtsvid import CLAIMS, KEYS, b64, bundle, token
from tests.pki import NOW, Pki


def is_id(text: str) -> bool:
    try:
        return str(SpiffeId.parse(text)) == text
    except SpiffeIdError:
        return False


@pytest.mark.parametrize(
    "texts",
    [
        pytest.param(("http://td/p", "SPIFFE://td/p", "Spiffe://td/p", "//td/p", "td/p", "spiffe:/td", ""), id="ID-1"),
        pytest.param(("spiffe://", "spiffe:///x"), id="ID-2"),
        pytest.param(("spiffe://td/p?x", "spiffe://td?x", "spiffe://td/p?"), id="ID-3"),
        pytest.param(("spiffe://td/p#f", "spiffe://td#f", "spiffe://td/p#"), id="ID-4"),
        pytest.param(("spiffe://u@td/p", "spiffe://u:p@td/p", "spiffe://@td/p"), id="ID-5"),
        pytest.param(("spiffe://td:80/p", "spiffe://td:/p"), id="ID-6"),
        pytest.param(("spiffe://TD/p", "spiffe://tD/p"), id="ID-7"),
        pytest.param(("spiffe://%62ad/p", "spiffe://td%2e/p"), id="ID-9"),
        pytest.param(("spiffe://[::1]/p",), id="ID-10-no-ipv6"),
        pytest.param(("spiffe://td/%78", "spiffe://td/a%2Fb"), id="ID-11"),
        pytest.param(("spiffe://td//p", "spiffe://td/a//b"), id="ID-12"),
        pytest.param(("spiffe://td/.", "spiffe://td/..", "spiffe://td/a/../b", "spiffe://td/a/./b"), id="ID-13"),
        pytest.param(("spiffe://td/", "spiffe://td/p/"), id="ID-14"),
        pytest.param((f"spiffe://{'a' * 256}/p",), id="ID-19"),
    ],
)
def test_refuses(texts: tuple[str, ...]) -> None:
    assert [text for text in texts if is_id(text)] == []


@pytest.mark.parametrize(
    "texts",
    [
        pytest.param(("spiffe://1.2.3.4/p", "spiffe://a_b/p", "spiffe://-/p", "spiffe://td"), id="ID-10"),
        pytest.param(("spiffe://td/...", "spiffe://td/.x", "spiffe://td/..x"), id="ID-13-dots-within"),
        pytest.param((f"spiffe://td/{'a' * (2048 - len('spiffe://td/'))}",), id="ID-17"),
        pytest.param((f"spiffe://{'a' * 255}/p",), id="ID-19-longest"),
    ],
)
def test_accepts(texts: tuple[str, ...]) -> None:
    assert [text for text in texts if not is_id(text)] == []


@pytest.mark.parametrize(
    ("template", "legal"),
    [
        pytest.param("spiffe://t{}d/p", "abcdefghijklmnopqrstuvwxyz0123456789.-_", id="ID-8"),
        pytest.param(
            "spiffe://td/p{}q",
            "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_/",
            id="ID-15",
        ),
    ],
)
def test_each_of_256_characters(template: str, legal: str) -> None:
    accepted = {chr(number) for number in range(256) if is_id(template.format(chr(number)))}
    # a slash ends the host and begins a segment: that is another ID, and a legal one
    assert accepted - {"/"} == set(legal) - {"/"}


@pytest.mark.parametrize("upper", [pytest.param("spiffe://td/A", id="ID-16")])
def test_the_path_is_case_sensitive(upper: str) -> None:
    assert SpiffeId.parse(upper) != SpiffeId.parse("spiffe://td/a")


@pytest.mark.parametrize("size", [pytest.param(2049, id="ID-18")])
def test_generates_nothing_longer(size: int) -> None:
    assert not is_id(f"spiffe://td/{'a' * (size - len('spiffe://td/'))}")


@pytest.mark.parametrize("domain", [pytest.param("corp.test", id="ID-20")])
def test_an_authority_carries_the_trust_domains_own_id(domain: str) -> None:
    key = KEYS["ES256"]
    root = mint_root(TrustDomain.parse(domain), key, serial=1, now=NOW, life=dt.timedelta(days=1))
    names = x509.load_der_x509_certificate(root).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [f"spiffe://{domain}"]


@pytest.mark.parametrize("kind", [pytest.param("both", id="ID-21")])
def test_the_id_is_in_the_signed_part(kind: str) -> None:
    pki = Pki()
    leaf = pki.leaf("/a")
    with pytest.raises(SvidError):
        verify_x509_svid([leaf.der.replace(b"corp.test/a", b"corp.test/b")], {pki.domain: pki.bundle()}, NOW)
    # and so is the public key: of another key pair, of the same form
    other = pki.leaf("/a")
    bits = [
        item.certificate.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        for item in (leaf, other)
    ]  # type: ignore[union-attr]
    assert bits[0] in leaf.der
    with pytest.raises(SvidError):
        verify_x509_svid([leaf.der.replace(*bits)], {pki.domain: pki.bundle()}, NOW)
    head, _, signature = token().split(".")
    with pytest.raises(JwtSvidError):
        verify_jwt_svid(f"{head}.{b64({**CLAIMS, 'sub': 'spiffe://corp.test/b'})}.{signature}", "me", bundle(), NOW)


@pytest.mark.parametrize("kind", [pytest.param("JWT", id="ID-22")])
def test_documents_are_of_a_defined_type(kind: str) -> None:
    made, _ = mint_jwt_svid(
        SpiffeId.parse("spiffe://corp.test/a"), ["me"], jwt_signer("k", KEYS["ES256"]),
        now=NOW, life=dt.timedelta(minutes=5), jti="1",
    )  # fmt: skip
    assert verify_jwt_svid(made, "me", bundle(), NOW)
    assert json.loads(TrustBundle(trust_domain=Pki().domain).to_json())["keys"] == []
