import dataclasses
import datetime as dt
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from hypothesis import given, settings
from hypothesis import strategies as st

from ca.keys import KeyAlgorithm, generate, hash_for, spki_der
from ca.leaftemplate import LeafTemplate, key_bits
from ca.mint import Issuer, mint_intermediate, mint_root, mint_svid
from mesh.problems import Problem
from mesh.spiffe import SpiffeId, TrustDomain

NOW = dt.datetime(2026, 11, 24, 12, 0, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)
HOUR = dt.timedelta(hours=1)
DOMAIN = TrustDomain.parse("corp.test")
WEB = SpiffeId.parse("spiffe://corp.test/ns/shop/sa/web")
KINDS = [KeyAlgorithm.P256, KeyAlgorithm.P384, KeyAlgorithm.RSA_2048, KeyAlgorithm.ML_DSA_65]
LEAVES = {kind: generate(kind).public_key for kind in KINDS}


def issuer(kind: KeyAlgorithm, domain: TrustDomain = DOMAIN, life: dt.timedelta = 30 * DAY) -> Issuer:
    root = generate(KeyAlgorithm.P256)
    top = Issuer(
        certificate=x509.load_der_x509_certificate(mint_root(domain, root.key, serial=1, now=NOW, life=life)),
        key=root.key,
    )
    key = generate(kind)
    made = mint_intermediate(domain, key.public_key, top, serial=2, now=NOW, life=life)
    return Issuer(certificate=x509.load_der_x509_certificate(made), key=key.key)


ISSUERS = {kind: issuer(kind) for kind in KINDS}
SEGMENT = st.from_regex(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,40}", fullmatch=True)
HOST = st.from_regex(r"[a-z0-9]{1,40}(\.[a-z0-9]{1,40}){0,2}", fullmatch=True)


def template(kind: KeyAlgorithm) -> LeafTemplate:
    found = LeafTemplate.of(ISSUERS[kind])
    assert found is not None
    return found


TEMPLATES = {kind: template(kind) for kind in KINDS}


@settings(deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    leaf=st.sampled_from(KINDS),
    segments=st.lists(SEGMENT, min_size=1, max_size=12),
    hosts=st.lists(HOST, max_size=4),
    serial=st.one_of(st.integers(1, 1 << 20), st.integers(1, (1 << 159) - 1)),
    at=st.timedeltas(dt.timedelta(0), 40 * DAY),
    life=st.timedeltas(dt.timedelta(seconds=-1), 40 * DAY),
)
def test_it_writes_what_the_builder_writes(
    kind: KeyAlgorithm,
    leaf: KeyAlgorithm,
    segments: list[str],
    hosts: list[str],
    serial: int,
    at: dt.timedelta,
    life: dt.timedelta,
) -> None:
    """The signed part is the same byte for byte, and so are the reasons to sign nothing."""
    spiffe_id = SpiffeId.from_segments(DOMAIN, *segments)
    more: dict[str, Any] = {"serial": serial, "now": NOW + at, "life": life, "dns_names": tuple(hosts)}
    key = LEAVES[leaf]
    try:
        built = x509.load_der_x509_certificate(mint_svid(spiffe_id, key, ISSUERS[kind], **more))
    except Problem as problem:
        with pytest.raises(Problem, match=problem.code):
            TEMPLATES[kind].tbs(spiffe_id, spki_der(key), **more)
        return
    assert TEMPLATES[kind].tbs(spiffe_id, spki_der(key), **more) == built.tbs_certificate_bytes


@pytest.mark.parametrize("kind", KINDS)
def test_its_certificates_verify_and_name_their_algorithm_as_the_builders_do(kind: KeyAlgorithm) -> None:
    more: dict[str, Any] = {"serial": 7, "now": NOW, "life": HOUR}
    data = TEMPLATES[kind].mint(WEB, spki_der(LEAVES[KeyAlgorithm.P256]), **more)
    assert data is not None
    found = x509.load_der_x509_certificate(data)
    built_data = mint_svid(WEB, LEAVES[KeyAlgorithm.P256], ISSUERS[kind], **more)
    built = x509.load_der_x509_certificate(built_data)
    found.verify_directly_issued_by(ISSUERS[kind].certificate)
    assert found.signature_algorithm_oid == built.signature_algorithm_oid
    assert found.signature_algorithm_parameters == built.signature_algorithm_parameters or kind in {
        KeyAlgorithm.P256,
        KeyAlgorithm.P384,
    }
    if kind is KeyAlgorithm.RSA_2048:
        # this signature has no random part
        assert data == built_data


def test_what_does_not_fit_is_left_to_the_builder() -> None:
    spki = spki_der(LEAVES[KeyAlgorithm.P256])
    late = LeafTemplate.of(issuer(KeyAlgorithm.P256, life=40 * 365 * DAY))
    assert late is not None
    found = TEMPLATES[KeyAlgorithm.P256]
    usual: dict[str, Any] = {"serial": 7, "now": NOW, "life": HOUR}
    assert found.tbs(WEB, spki, **usual) is not None
    left = [
        late.tbs(WEB, spki, serial=7, now=NOW + 24 * 365 * DAY, life=HOUR),
        found.tbs(WEB, spki, **{**usual, "serial": 0}),
        found.tbs(WEB, spki, **{**usual, "serial": -3}),
        found.tbs(WEB, spki, **{**usual, "serial": 1 << 159}),
        found.tbs(WEB, spki, **usual, dns_names=("bücher.test",)),
        found.tbs(WEB, spki, **usual, dns_names=("a.test",) * 101),
        found.tbs(WEB, spki + b"\x00", **usual),
    ]
    assert left == [None] * len(left)


def test_an_issuer_without_a_key_identifier_has_no_template() -> None:
    key = generate(KeyAlgorithm.P256).key
    name = x509.Name([])
    bare = (
        x509.CertificateBuilder(issuer_name=name, subject_name=name, public_key=key.public_key(), serial_number=1)
        .not_valid_before(NOW)
        .not_valid_after(NOW + DAY)
        .sign(key, hash_for(key) or hashes.SHA256())  # type: ignore[arg-type]  # an elliptic curve's
    )
    assert LeafTemplate.of(Issuer(certificate=bare, key=key)) is None
    assert LeafTemplate.of(dataclasses.replace(ISSUERS[KeyAlgorithm.P256])) is not None


def test_a_trust_domains_own_name_is_no_workloads() -> None:
    with pytest.raises(ValueError, match="path"):
        TEMPLATES[KeyAlgorithm.P256].tbs(
            SpiffeId(DOMAIN, ""), spki_der(LEAVES[KeyAlgorithm.P256]), serial=1, now=NOW, life=HOUR
        )


@pytest.mark.parametrize("kind", KINDS)
def test_the_bits_of_a_key_are_what_its_identifier_is_the_hash_of(kind: KeyAlgorithm) -> None:
    bits = key_bits(spki_der(LEAVES[kind]))
    assert bits is not None
    digest = hashes.Hash(hashes.SHA1())
    digest.update(bits)
    assert digest.finalize() == x509.SubjectKeyIdentifier.from_public_key(LEAVES[kind]).digest


@given(st.binary(max_size=200))
def test_other_bytes_have_no_bits(data: bytes) -> None:
    found = key_bits(data)
    assert found is None or data.endswith(b"\x00" + found)
