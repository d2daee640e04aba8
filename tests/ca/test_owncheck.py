import dataclasses
import datetime as dt
from collections.abc import Callable
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ca import owncheck
from ca.keys import KeyAlgorithm, generate, spki_der
from ca.mint import Issuer, mint_intermediate, mint_root, mint_svid
from ca.owncheck import Found, Meant, OwnCheck, WrongWorkError, check_in_full
from mesh.bundle import TrustBundle
from mesh.problems import Invalid
from mesh.spiffe import SpiffeId, TrustDomain

NOW = dt.datetime(2026, 11, 24, 12, 0, tzinfo=dt.UTC)
HOUR = dt.timedelta(hours=1)
DAY = dt.timedelta(days=1)
DOMAIN = TrustDomain.parse("corp.test")
WEB = SpiffeId.parse("spiffe://corp.test/ns/shop/sa/web")
DB = SpiffeId.parse("spiffe://corp.test/ns/shop/sa/db")
KEY = generate(KeyAlgorithm.P256).public_key
SPKI = spki_der(KEY)
ROOT_KEY, ISSUING_KEY = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
ROOT = mint_root(DOMAIN, ROOT_KEY, serial=1, now=NOW, life=10 * DAY)
ISSUING = mint_intermediate(
    DOMAIN,
    ISSUING_KEY.public_key(),
    Issuer(certificate=x509.load_der_x509_certificate(ROOT), key=ROOT_KEY),
    serial=2,
    now=NOW,
    life=5 * DAY,
)
ISSUER = Issuer(certificate=x509.load_der_x509_certificate(ISSUING), key=ISSUING_KEY)
ABOVE = (ISSUING,)
BUNDLE = TrustBundle(trust_domain=DOMAIN, x509_authorities=(ROOT,))
MEANT = Meant(spiffe_id=WEB, spki=SPKI, dns_names=("web.corp.test",), end=NOW + HOUR)


def leaf(spiffe_id: SpiffeId = WEB, *, serial: int = 9, **more: Any) -> bytes:
    every: dict[str, Any] = {"now": NOW, "life": HOUR, "dns_names": ("web.corp.test",), **more}
    return mint_svid(spiffe_id, every.pop("key", KEY), ISSUER, serial=serial, **every)


GOOD = leaf()


def warm() -> OwnCheck:
    """A check that has seen a leaf pass."""
    found = OwnCheck(DOMAIN)
    model = Meant(spiffe_id=DB, spki=SPKI, dns_names=(), end=NOW + HOUR)
    found.check((leaf(DB, serial=3, dns_names=()), *ABOVE), model, BUNDLE, NOW)
    return found


def said(check: OwnCheck | None, data: bytes, meant: Meant, bundle: TrustBundle, now: dt.datetime) -> Found | None:
    """What a check finds, or the full one; None when it refuses."""
    try:
        if check is None:
            return check_in_full((data, *ABOVE), meant, bundle, DOMAIN, now)
        return check.check((data, *ABOVE), meant, bundle, now)
    except (Invalid, WrongWorkError):
        return None


def test_a_second_leaf_is_compared_with_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    check = warm()
    monkeypatch.delattr(owncheck, "check_in_full")
    assert check.check((GOOD, *ABOVE), MEANT, BUNDLE, NOW) == Found(not_after=NOW + HOUR, serial=9)


@settings(deadline=None)
@given(place=st.integers(0, len(GOOD) - 1), value=st.integers(1, 255))
@example(place=0, value=1)
def test_no_byte_can_be_another(place: int, value: int) -> None:
    """ALL single bytes, drawn at random: a leaf that was damaged on its way is never given out."""
    data = bytearray(GOOD)
    data[place] ^= value
    assert said(warm(), bytes(data), MEANT, BUNDLE, NOW) is None


@settings(deadline=None)
@given(st.binary(max_size=40), st.integers(0, len(GOOD)))
def test_nothing_can_be_added_or_cut_off(data: bytes, place: int) -> None:
    changed = GOOD[:place] + data + GOOD[place:]
    assert (said(warm(), changed, MEANT, BUNDLE, NOW) is not None) == (changed == GOOD)
    assert (said(warm(), GOOD[:place], MEANT, BUNDLE, NOW) is not None) == (place == len(GOOD))


MEANINGS = st.builds(
    Meant,
    spiffe_id=st.sampled_from([WEB, DB, SpiffeId(DOMAIN, ""), SpiffeId.parse("spiffe://else.test/ns/shop/sa/web")]),
    spki=st.sampled_from([SPKI, spki_der(generate(KeyAlgorithm.P256).public_key), b""]),
    dns_names=st.sampled_from([("web.corp.test",), (), ("web.corp.test", "db.corp.test"), ("bücher.test",)]),
    end=st.sampled_from([NOW + HOUR, NOW + HOUR - dt.timedelta(seconds=1), NOW + 2 * HOUR]),
)
MOMENTS = st.sampled_from([NOW, NOW + HOUR, NOW + HOUR + dt.timedelta(seconds=1), NOW - HOUR, NOW + 6 * DAY])


@settings(deadline=None)
@given(meant=MEANINGS, now=MOMENTS)
@example(meant=MEANT, now=NOW)
def test_it_says_what_the_full_check_says(meant: Meant, now: dt.datetime) -> None:
    assert said(warm(), GOOD, meant, BUNDLE, now) == said(None, GOOD, meant, BUNDLE, now)


def other(**changes: Any) -> bytes:
    """A leaf that our issuer signed and that no profile of ours makes."""
    usage = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "key_cert_sign", "crl_sign",
         "encipher_only", "decipher_only"), False,
    )  # fmt: skip
    names = [x509.UniformResourceIdentifier(str(WEB)), x509.DNSName("web.corp.test")]
    uses = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    key_id = ISSUER.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    parts: dict[str, tuple[x509.ExtensionType, bool] | None] = {
        "id": (x509.SubjectKeyIdentifier.from_public_key(KEY), False),
        "names": (x509.SubjectAlternativeName(names), True),
        "limit": (x509.BasicConstraints(ca=False, path_length=None), True),
        "usage": (x509.KeyUsage(**{**usage, "digital_signature": True, **changes.get("bits", {})}), True),
        "uses": (x509.ExtendedKeyUsage(uses), False),
        "above": (x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(key_id), False),
        **changes.get("parts", {}),
    }
    builder = x509.CertificateBuilder(
        issuer_name=changes.get("issuer", ISSUER.certificate.subject),
        subject_name=changes.get("subject", x509.Name([])),
        public_key=changes.get("key", KEY),
        serial_number=9,
        not_valid_before=NOW,
        not_valid_after=changes.get("end", NOW + HOUR),
    )
    for part in parts.values():
        if part is not None:
            builder = builder.add_extension(part[0], critical=part[1])
    return builder.sign(changes.get("signer", ISSUING_KEY), hashes.SHA256()).public_bytes(Encoding.DER)


BOTH_NAMES = [x509.UniformResourceIdentifier(str(WEB)), x509.DNSName("web.corp.test")]
PROFILES = [
    pytest.param({}, True, id="ours"),
    pytest.param({"bits": {"key_cert_sign": True}}, False, id="X-19-key-cert-sign"),
    pytest.param({"bits": {"crl_sign": True}}, False, id="X-20-crl-sign"),
    pytest.param({"bits": {"digital_signature": False, "key_agreement": True}}, False, id="X-10-no-signature"),
    pytest.param({"parts": {"usage": None}}, False, id="X-8-no-usage"),
    pytest.param({"parts": {"limit": (x509.BasicConstraints(ca=True, path_length=None), True)}}, False, id="X-18-ca"),
    pytest.param(
        {"parts": {"uses": (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False)}}, False, id="X-13-one-use"
    ),
    pytest.param({"parts": {"names": (x509.SubjectAlternativeName(BOTH_NAMES), False)}}, False, id="X-3-not-critical"),
    pytest.param(
        {"parts": {"names": (x509.SubjectAlternativeName([*BOTH_NAMES, BOTH_NAMES[0]]), True)}}, False, id="X-1-two"
    ),
    pytest.param(
        {"parts": {"names": (x509.SubjectAlternativeName([*BOTH_NAMES, x509.RFC822Name("a@corp.test")]), True)}},
        False,
        id="a-name-of-another-kind",
    ),
    pytest.param({"signer": ec.generate_private_key(ec.SECP256R1())}, False, id="another-signer"),
    pytest.param({"key": generate(KeyAlgorithm.P256).public_key}, False, id="another-key"),
    pytest.param({"end": NOW + 2 * HOUR}, False, id="too-long"),
    pytest.param({"issuer": x509.Name([])}, False, id="another-issuers-name"),
]


@pytest.mark.parametrize(("changes", "is_good"), PROFILES)
def test_a_mistake_in_a_profile_shows(changes: dict[str, Any], is_good: bool) -> None:
    data = other(**changes)
    assert (said(warm(), data, MEANT, BUNDLE, NOW) is not None) is is_good
    assert (said(None, data, MEANT, BUNDLE, NOW) is not None) is is_good


def test_another_key_identifier_is_left_to_the_verifier(monkeypatch: pytest.MonkeyPatch) -> None:
    """RFC 5280 lets an identifier be anything: the comparison does not accept it, the verifier may."""
    data = other(parts={"id": (x509.SubjectKeyIdentifier(bytes(20)), False)})
    check = warm()
    monkeypatch.delattr(owncheck, "check_in_full")
    with pytest.raises(NameError):
        check.check((data, *ABOVE), MEANT, BUNDLE, NOW)


def test_what_was_trusted_once_is_not_trusted_for_good() -> None:
    check = warm()
    other_root = mint_root(DOMAIN, generate(KeyAlgorithm.P256).key, serial=1, now=NOW, life=DAY)
    assert said(check, GOOD, MEANT, dataclasses.replace(BUNDLE, x509_authorities=(other_root,)), NOW) is None
    assert said(check, GOOD, MEANT, dataclasses.replace(BUNDLE, intermediates=frozenset({"0" * 64})), NOW) is None
    assert said(check, GOOD, MEANT, BUNDLE, NOW) is not None


def revoked(serial: int) -> bytes:
    entry = x509.RevokedCertificateBuilder(serial, NOW).build()
    made = x509.CertificateRevocationListBuilder(ISSUER.certificate.subject, NOW, NOW + DAY).add_revoked_certificate(
        entry
    )
    return made.sign(ISSUING_KEY, hashes.SHA256()).public_bytes(Encoding.DER)


def test_a_revoked_serial_number_is_never_given_out() -> None:
    check = warm()
    assert said(check, GOOD, MEANT, dataclasses.replace(BUNDLE, crls=(revoked(10),)), NOW) is not None
    assert said(check, GOOD, MEANT, dataclasses.replace(BUNDLE, crls=(revoked(9),)), NOW) is None


@pytest.mark.parametrize("kind", [KeyAlgorithm.P384, KeyAlgorithm.RSA_2048, KeyAlgorithm.ML_DSA_65])
def test_other_kinds_of_keys_go_through_the_verifier(kind: KeyAlgorithm) -> None:
    key = generate(kind).public_key
    meant = MEANT._replace(spki=spki_der(key))
    found = said(warm(), leaf(key=key), meant, BUNDLE, NOW)
    assert found == Found(not_after=NOW + HOUR, serial=9)
    assert said(warm(), leaf(), meant, BUNDLE, NOW) is None


def test_a_model_that_has_ended_makes_room() -> None:
    check = warm()
    later = NOW + 2 * HOUR
    data = leaf(now=later)
    meant = MEANT._replace(end=later + HOUR)
    for _ in range(2):
        assert said(check, data, meant, BUNDLE, later) == Found(not_after=later + HOUR, serial=9)


def test_a_signature_that_was_verified_where_it_was_made_counts_once_and_for_that_leaf_alone() -> None:
    damaged = bytearray(GOOD)
    damaged[-1] ^= 1
    check = warm()
    check.vouch([bytes(damaged)])
    # nobody vouches for a leaf whose signature is wrong: this shows that it is not verified again, and only once
    assert said(check, bytes(damaged), MEANT, BUNDLE, NOW) is not None
    assert said(check, bytes(damaged), MEANT, BUNDLE, NOW) is None
    check.vouch([GOOD])
    assert said(check, bytes(damaged), MEANT, BUNDLE, NOW) is None
    # and what it says is compared all the same
    check.vouch([GOOD])
    assert said(check, GOOD, MEANT._replace(spiffe_id=DB), BUNDLE, NOW) is None


BATCH_KEYS = [generate(KeyAlgorithm.P256).public_key for _ in range(4)]


def batch(wrong: int | None) -> tuple[list[tuple[bytes, ...]], list[Meant]]:
    """Leaves for four keys, and what they are meant to say; one of them may have a wrong signature."""
    leaves = [leaf(serial=20 + place, key=key) for place, key in enumerate(BATCH_KEYS)]
    if wrong is not None:
        leaves[wrong] = leaves[wrong][:-1] + bytes([leaves[wrong][-1] ^ 1])
    meant = [MEANT._replace(spki=spki_der(key)) for key in BATCH_KEYS]
    return [(item, *ABOVE) for item in leaves], meant


@pytest.mark.parametrize("seen", [warm, lambda: OwnCheck(DOMAIN)], ids=["warm", "cold"])
def test_leaves_of_a_batch_are_found_in_their_order(seen: Callable[[], OwnCheck]) -> None:
    chains, meant = batch(None)
    assert [found.serial for found in seen().check_all(chains, meant, BUNDLE, NOW)] == [20, 21, 22, 23]
    assert seen().check_all([], [], BUNDLE, NOW) == []


@pytest.mark.parametrize("wrong", range(4))
@pytest.mark.parametrize("seen", [warm, lambda: OwnCheck(DOMAIN)], ids=["warm", "cold"])
def test_one_wrong_signature_refuses_the_batch_wherever_it_stands(seen: Callable[[], OwnCheck], wrong: int) -> None:
    chains, meant = batch(wrong)
    with pytest.raises(Invalid, match="LM1019"):
        seen().check_all(chains, meant, BUNDLE, NOW)


def test_vouching_for_one_leaf_of_a_batch_vouches_for_no_other() -> None:
    chains, meant = batch(2)
    check = warm()
    check.vouch([chains[0][0], chains[1][0]])
    with pytest.raises(Invalid, match="LM1019"):
        check.check_all(chains, meant, BUNDLE, NOW)
