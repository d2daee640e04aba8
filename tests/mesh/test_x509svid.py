import datetime as dt
import pathlib
import subprocess
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, ObjectIdentifier
from hypothesis import example, given
from hypothesis import strategies as st

from mesh.spiffe import TrustDomain
from mesh.x509svid import MAX_CHAIN, SvidError, X509Svid, split_chain, verify_x509_svid
from tests.pki import NOW, Made, Pki, make, usage
from tests.rsakeys import rsa_key
from tests.tools import needs

PKI = Pki()
ISSUING = PKI.signer(PKI.root, subject="issuing", path_length=0)


def verdict(*chain: Made | bytes, pki: Pki = PKI, now: dt.datetime = NOW, **bundles: Pki) -> str:
    """The SPIFFE ID, or the code of the refusal."""
    known = {found.domain: found.bundle() for found in (pki, *bundles.values())}
    ders = [item if isinstance(item, bytes) else item.der for item in chain]
    try:
        return str(verify_x509_svid(ders, known, now).spiffe_id)
    except SvidError as err:
        return err.code


FRONT = "spiffe://corp.test/ns/web/sa/front"


def test_a_good_leaf_is_whose_it_says() -> None:
    leaf = PKI.leaf(dns=("front.corp.test",))
    found = verify_x509_svid([leaf.der], {PKI.domain: PKI.bundle()}, NOW)
    assert (str(found.spiffe_id), found.serial) == (FRONT, leaf.certificate.serial_number)
    assert found.not_after == leaf.certificate.not_valid_after_utc
    assert verdict(PKI.leaf(issuer=ISSUING), ISSUING) == FRONT
    assert verdict(PKI.leaf(issuer=ISSUING), PKI.root, ISSUING) == FRONT


def bad_leaves() -> list[object]:
    def case(name: str, code: str, **details: object) -> object:
        return pytest.param(details, code, id=name)

    rsa_small = rsa_key(bits=1024)
    return [
        case("X-17-two-uris", "LM1011", uris=(FRONT, "spiffe://corp.test/ns/ops/sa/admin")),
        case("X-17-spiffe-and-https", "LM1011", uris=(FRONT, "https://corp.test/")),
        case("X-23-no-uri", "LM1011", uris=(), dns=("front.corp.test",)),
        case("X-23-no-san", "LM1011", uris=(), subject="front"),
        case(
            "A30-dns-san-spoof", "LM1011", uris=(), dns=("x.corp.test",), subject="spiffe://corp.test/ns/ops/sa/admin"
        ),
        case("X-21-https", "LM1012", uris=("https://corp.test/ns/web/sa/front",)),
        case("X-21-upper-case-scheme", "LM1012", uris=("SPIFFE://corp.test/ns/web",)),
        case("A33-upper-case-domain", "LM1012", uris=("spiffe://CORP.test/ns/web",)),
        case("A33-port", "LM1012", uris=("spiffe://corp.test:80/ns/web",)),
        case("A33-query", "LM1012", uris=("spiffe://corp.test/ns/web?x=1",)),
        case("A33-trailing-slash", "LM1012", uris=("spiffe://corp.test/ns/web/",)),
        case("A32-comma", "LM1012", uris=(f"{FRONT},spiffe://corp.test/ns/ops/sa/admin",)),
        case("A33-encoded", "LM1012", uris=("spiffe://corp.test/%78",)),
        case("A33-dot-segments", "LM1012", uris=("spiffe://corp.test/a/../b",)),
        case("X-22-root-path", "LM1013", uris=("spiffe://corp.test",)),
        case("X-18-ca", "LM1014", ca=True, key_usage=usage(digital_signature=True)),
        case("X-14-authority-as-leaf", "LM1014", ca=True, key_usage=usage(key_cert_sign=True)),
        case("X-19-key-cert-sign", "LM1014", key_usage=usage(digital_signature=True, key_cert_sign=True)),
        case("X-20-crl-sign", "LM1014", key_usage=usage(digital_signature=True, crl_sign=True)),
        case("X-8-no-key-usage", "LM1015", key_usage=None),
        case("X-8-not-critical", "LM1015", usage_critical=False),
        case("X-10-no-digital-signature", "LM1015", key_usage=usage(key_agreement=True)),
        case("X-13-server-only", "LM1016", extended=(ExtendedKeyUsageOID.SERVER_AUTH,)),
        case("X-13-client-only", "LM1016", extended=(ExtendedKeyUsageOID.CLIENT_AUTH,)),
        case("X-3-empty-subject", "LM1017", san_critical=False),
        case("X-24-other-domain", "LM1018", uris=("spiffe://other.test/ns/web",)),
        case("X-16-expired", "LM1020", end=NOW - dt.timedelta(seconds=1), begin=NOW - dt.timedelta(hours=1)),
        case("X-16-not-yet", "LM1020", begin=NOW + dt.timedelta(seconds=1)),
        case("X-16-weak-rsa", "LM1019", key=rsa_small),
        case("X-16-odd-curve", "LM1019", key=ec.generate_private_key(ec.SECP256K1())),
        case(
            "X-16-unknown-critical",
            "LM1021",
            extra=((x509.UnrecognizedExtension(ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x05\x00"), True),),
        ),
    ]


@pytest.mark.parametrize(("details", "code"), bad_leaves())
def test_a_leaf_that_breaks_a_rule_is_refused_with_its_code(details: dict[str, object], code: str) -> None:
    assert verdict(PKI.leaf(**details)) == code  # type: ignore[arg-type]


def test_a_leaf_without_extended_key_usage_is_an_svid() -> None:
    assert verdict(PKI.leaf(extended=None)) == FRONT


def test_an_unknown_extension_that_is_not_critical_is_passed_over() -> None:
    extra = ((x509.UnrecognizedExtension(ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x05\x00"), False),)
    assert verdict(PKI.leaf(extra=extra)) == FRONT


def test_X_16_a_signature_of_somebody_else_is_no_path() -> None:
    other = Pki()
    assert verdict(other.leaf()) == "LM1019"
    # the same names, another key
    twin = PKI.signer(subject="root of corp.test")
    assert verdict(PKI.leaf(issuer=twin)) == "LM1019"
    assert verdict(PKI.leaf(issuer=twin), twin) == "LM1019"


@pytest.mark.parametrize(
    ("details", "code"),
    [
        pytest.param({"ca": False}, "LM1022", id="X-25-no-ca"),
        pytest.param({"ca": None}, "LM1022", id="X-25-no-basic-constraints"),
        pytest.param({"key_usage": usage(crl_sign=True)}, "LM1022", id="X-25-no-key-cert-sign"),
        pytest.param({"key_usage": None}, "LM1022", id="X-25-no-key-usage"),
        pytest.param({"uris": ("spiffe://corp.test/with/path",)}, "LM1022", id="X-4-signer-with-path"),
        pytest.param({"uris": ("spiffe://other.test",)}, "LM1022", id="X-5-signer-of-other-domain"),
        pytest.param(
            {"end": NOW - dt.timedelta(seconds=1), "begin": NOW - dt.timedelta(days=1)}, "LM1020", id="X-16-expired"
        ),
    ],
)
def test_an_intermediate_that_may_not_sign_is_refused(details: dict[str, object], code: str) -> None:
    middle = PKI.signer(PKI.root, subject="middle", **details)
    assert verdict(PKI.leaf(issuer=middle), middle) == code


def test_a_chain_longer_than_a_path_length_allows_is_refused() -> None:
    first = PKI.signer(PKI.root, subject="first", path_length=0)
    second = PKI.signer(first, subject="second")
    assert verdict(PKI.leaf(issuer=second), second, first) == "LM1022"


def test_X_24_only_the_bundle_of_the_own_trust_domain_vouches() -> None:
    evil = Pki("evil.test")
    assert verdict(evil.leaf(), evil=evil) == "spiffe://evil.test/ns/web/sa/front"
    spoof = evil.leaf(uris=(FRONT,))
    assert verdict(spoof, evil=evil) == "LM1019"
    assert verdict(PKI.leaf(uris=("spiffe://evil.test/x",)), evil=evil) == "LM1019"


def test_X_31_an_empty_bundle_vouches_for_nobody() -> None:
    from mesh.bundle import TrustBundle

    empty = TrustBundle(trust_domain=PKI.domain)
    with pytest.raises(SvidError, match="LM1018"):
        verify_x509_svid([PKI.leaf().der], {PKI.domain: empty}, NOW)


def uri_names(*names: str) -> list[x509.GeneralName]:
    return [x509.UniformResourceIdentifier(name) for name in names]


@pytest.mark.parametrize(
    ("permitted", "excluded", "expected"),
    [
        pytest.param(uri_names("corp.test"), None, FRONT, id="X-15-permitted"),
        pytest.param(uri_names("other.test"), None, "LM1023", id="X-15-not-permitted"),
        pytest.param(uri_names(".test"), None, FRONT, id="X-15-below-a-dot"),
        pytest.param(uri_names(".corp.test"), None, "LM1023", id="X-15-a-dot-is-not-the-name-itself"),
        pytest.param(None, uri_names("corp.test"), "LM1023", id="X-15-excluded"),
        pytest.param(None, uri_names("other.test"), FRONT, id="X-15-another-excluded"),
        pytest.param([x509.DNSName("corp.test")], None, "LM1021", id="X-15-other-kinds-cannot-be-applied"),
    ],
)
def test_name_constraints(
    permitted: list[x509.GeneralName] | None, excluded: list[x509.GeneralName] | None, expected: str
) -> None:
    limits = x509.NameConstraints(permitted_subtrees=permitted, excluded_subtrees=excluded)
    middle = PKI.signer(PKI.root, subject="limited", extra=((limits, True),))
    assert verdict(PKI.leaf(issuer=middle), middle) == expected


def test_chains_are_bounded_and_must_parse() -> None:
    leaf = PKI.leaf()
    assert verdict() == "LM1010"
    assert verdict(*[leaf] * (MAX_CHAIN + 1)) == "LM1010"
    assert verdict(b"") == "LM1010"
    assert verdict(leaf.der[:-1]) == "LM1010"
    assert verdict(leaf, b"\x30\x00") == "LM1010"
    with pytest.raises(SvidError, match="LM1010"):
        split_chain(leaf.der + b"\x30\x82")
    assert split_chain(leaf.der + ISSUING.der) == (leaf.der, ISSUING.der)


def test_sha1_is_not_strong_enough() -> None:
    try:
        weak = PKI.leaf(algorithm=hashes.SHA1())
    except Exception:  # noqa: BLE001  this OpenSSL refuses to make one at all
        return
    assert verdict(weak) == "LM1019"


def test_the_private_key_never_shows() -> None:
    svid = X509Svid(spiffe_id=PKI.domain.id, chain_der=(), key_pkcs8_der=b"secret", not_after=NOW)
    assert "secret" not in repr(svid)


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_with_a_code(data: bytes) -> None:
    assert verdict(data).startswith("LM10")


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
def test_a_serial_number_that_is_not_positive_is_refused_whatever_the_warnings() -> None:
    der = PKI.leaf().der
    at = der.index(b"\xa0\x03\x02\x01\x02\x02") + 7
    assert verdict(der[:at] + bytes([der[at] | 0x80]) + der[at + 1 :]) == "LM1010"


@example(position=12, change=1)
@example(position=12, change=1)
@example(position=15, change=128)
@given(st.integers(min_value=0, max_value=len(PKI.leaf().der) - 20), st.integers(min_value=1, max_value=255))
def test_a_changed_byte_never_makes_another_identity(position: int, change: int) -> None:
    der = bytearray(PKI.leaf().der)
    der[position] ^= change
    assert verdict(bytes(der)) in {FRONT} | {f"LM10{number}" for number in range(10, 24)}


@pytest.mark.peer
@needs("openssl")
def test_openssl_agrees_on_what_is_accepted(tmp_path: pathlib.Path) -> None:
    now = dt.datetime.now(dt.UTC)  # noqa: TID251  openssl looks at the real clock
    pki = Pki()
    window = {"begin": now - dt.timedelta(hours=1), "end": now + dt.timedelta(hours=1)}
    root = pki.signer(subject="root", **window)
    middle = pki.signer(root, subject="middle", **window)
    leaf = pki.leaf(issuer=middle, **window)
    for name, made in (("root", root), ("middle", middle), ("leaf", leaf)):
        (tmp_path / name).write_bytes(made.pem)
    done = subprocess.run(
        ["openssl", "verify", "-CAfile", tmp_path / "root", "-untrusted", tmp_path / "middle", tmp_path / "leaf"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = verify_x509_svid([leaf.der, middle.der], {TrustDomain("corp.test"): pki.bundle(root)}, now)
    assert str(found.spiffe_id) == FRONT
    assert make(subject="x").der


EXPIRED: dict[str, Any] = {"begin": NOW - dt.timedelta(days=2), "end": NOW - dt.timedelta(days=1)}


@pytest.mark.parametrize("newest_first", [True, False], ids=["newest-first", "oldest-first"])
def test_a_root_that_was_renewed_with_its_key_vouches_beside_the_old_one(*, newest_first: bool) -> None:
    new = PKI.signer(subject="root")
    old = PKI.signer(subject="root", key=new.key, **EXPIRED)
    leaf = PKI.leaf(issuer=new)
    authorities = (new, old) if newest_first else (old, new)
    found = verify_x509_svid([leaf.der], {PKI.domain: PKI.bundle(*authorities)}, NOW)
    assert str(found.spiffe_id) == FRONT
    with pytest.raises(SvidError, match="LM1020"):
        verify_x509_svid([leaf.der], {PKI.domain: PKI.bundle(old)}, NOW)


@pytest.mark.parametrize("good_first", [True, False], ids=["good-first", "bad-first"])
@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(EXPIRED, id="expired"),
        pytest.param({"ca": False}, id="no-ca"),
        pytest.param({"uris": ("spiffe://other.test",)}, id="other-domain"),
    ],
)
def test_a_way_up_that_is_broken_does_not_hide_a_good_one(broken: dict[str, Any], *, good_first: bool) -> None:
    good = PKI.signer(PKI.root, subject="middle")
    bad = PKI.signer(PKI.root, subject="middle", key=good.key, **broken)
    middles = (good, bad) if good_first else (bad, good)
    assert verdict(PKI.leaf(issuer=good), *middles) == FRONT


def test_a_cross_signed_intermediate_leads_to_the_root_that_is_known() -> None:
    elsewhere = Pki()
    middle = PKI.signer(PKI.root, subject="middle")
    cross = elsewhere.signer(elsewhere.root, subject="middle", key=middle.key)
    leaf = PKI.leaf(issuer=middle)
    assert verdict(leaf, cross, middle) == FRONT
    assert verdict(leaf, cross) == "LM1019"


def test_certificates_that_sign_each_other_end() -> None:
    first = PKI.signer(subject="first")
    second = PKI.signer(first, subject="second")
    loop = PKI.signer(second, subject="first", key=first.key)
    assert verdict(PKI.leaf(issuer=second), second, loop, first) == "LM1019"


def test_an_authority_that_cannot_be_read_does_not_silence_the_others() -> None:
    from mesh.bundle import TrustBundle

    leaf = PKI.leaf()
    both = TrustBundle(trust_domain=PKI.domain, x509_authorities=(b"\x30\x00", PKI.root.der))
    assert str(verify_x509_svid([leaf.der], {PKI.domain: both}, NOW).spiffe_id) == FRONT
    with pytest.raises(SvidError, match="LM1018"):
        alone = TrustBundle(trust_domain=PKI.domain, x509_authorities=(b"\x30\x00",))
        verify_x509_svid([leaf.der], {PKI.domain: alone}, NOW)


@pytest.mark.parametrize(
    ("name", "code"),
    [
        pytest.param("CORP.test", "LM1023", id="X-15-hosts-have-no-case"),
        pytest.param("", "LM1021", id="X-15-empty"),
        pytest.param("spiffe://corp.test", "LM1021", id="X-15-a-whole-uri"),
        pytest.param("*.test", "LM1021", id="X-15-a-wildcard"),
        pytest.param(".", "LM1021", id="X-15-a-dot"),
    ],
)
def test_an_exclusion_that_is_oddly_written_never_admits(name: str, code: str) -> None:
    limits = x509.NameConstraints(permitted_subtrees=None, excluded_subtrees=uri_names(name))
    middle = PKI.signer(PKI.root, subject="limited", extra=((limits, True),))
    assert verdict(PKI.leaf(issuer=middle), middle) == code
