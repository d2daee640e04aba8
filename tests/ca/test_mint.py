import datetime as dt
import pathlib
import subprocess

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st

from ca.keys import new_key
from ca.mint import SERVER_NAME, Issuer, mint_intermediate, mint_root, mint_server, mint_svid
from mesh.bundle import TrustBundle
from mesh.problems import Invalid
from mesh.spiffe import SpiffeId, TrustDomain
from mesh.x509svid import verify_x509_svid
from tests.tools import needs

NOW = dt.datetime(2026, 11, 24, 12, 0, tzinfo=dt.UTC)
DOMAIN = TrustDomain.parse("corp.test")
WEB = SpiffeId.parse("spiffe://corp.test/ns/shop/sa/web")
DAY = dt.timedelta(days=1)
HOUR = dt.timedelta(hours=1)
ROOT_KEY, ISSUING_KEY, LEAF_KEY = new_key(), new_key(), new_key()


def load(der: bytes) -> x509.Certificate:
    return x509.load_der_x509_certificate(der)


ROOT = load(mint_root(DOMAIN, ROOT_KEY, serial=1, now=NOW, life=10 * DAY))
ISSUING = load(
    mint_intermediate(
        DOMAIN, ISSUING_KEY.public_key(), Issuer(certificate=ROOT, key=ROOT_KEY), serial=2, now=NOW, life=2 * DAY
    )
)
ISSUER = Issuer(certificate=ISSUING, key=ISSUING_KEY)


def leaf(**changes: object) -> x509.Certificate:
    details: dict[str, object] = {"serial": 3, "now": NOW, "life": HOUR, **changes}
    return load(mint_svid(WEB, LEAF_KEY.public_key(), ISSUER, **details))  # type: ignore[arg-type]


def extension(certificate: x509.Certificate, kind: type[x509.ExtensionType]) -> x509.Extension[x509.ExtensionType]:
    return certificate.extensions.get_extension_for_class(kind)


def usage(certificate: x509.Certificate) -> set[str]:
    found = extension(certificate, x509.KeyUsage).value
    names = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
             "key_cert_sign", "crl_sign")  # fmt: skip
    return {name for name in names if getattr(found, name)}


def uris(certificate: x509.Certificate) -> list[str]:
    names = extension(certificate, x509.SubjectAlternativeName).value
    assert isinstance(names, x509.SubjectAlternativeName)
    return names.get_values_for_type(x509.UniformResourceIdentifier)


SIGNERS = [pytest.param(ROOT, id="root"), pytest.param(ISSUING, id="issuing")]


def is_ca(certificate: x509.Certificate) -> bool:
    found = extension(certificate, x509.BasicConstraints).value
    assert isinstance(found, x509.BasicConstraints)
    return found.ca


@pytest.mark.parametrize("rule", ["X-1", "X-2", "X-3", "X-6", "X-8", "X-10", "X-11", "X-12", "X-13"])
def test_every_leaf_obeys(rule: str) -> None:
    found = leaf(dns_names=("web.corp.test",))
    names = extension(found, x509.SubjectAlternativeName)
    extended = extension(found, x509.ExtendedKeyUsage).value
    assert isinstance(extended, x509.ExtendedKeyUsage)
    both = {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    assert {
        "X-1": uris(found) == [str(WEB)],
        "X-2": bool(SpiffeId.parse(uris(found)[0]).path),
        "X-3": not list(found.subject) and names.critical,
        "X-6": not is_ca(found),
        "X-8": extension(found, x509.KeyUsage).critical,
        "X-10": "digital_signature" in usage(found),
        "X-11": usage(found) == {"digital_signature"},
        "X-12": len(extended) == 2,
        "X-13": set(extended) == both,
    }[rule]


@pytest.mark.parametrize("signer", SIGNERS)
@pytest.mark.parametrize("rule", ["X-4", "X-5", "X-7", "X-8", "X-9"])
def test_every_signing_certificate_obeys(rule: str, signer: x509.Certificate) -> None:
    found = SpiffeId.parse(uris(signer)[0])
    assert {
        "X-4": found.path == "",
        "X-5": uris(signer) == [str(DOMAIN.id)],
        "X-7": is_ca(signer) and extension(signer, x509.BasicConstraints).critical,
        "X-8": extension(signer, x509.KeyUsage).critical,
        "X-9": usage(signer) == {"key_cert_sign", "crl_sign"},
    }[rule]


def test_the_issuing_certificate_signs_no_other_authority() -> None:
    found = extension(ISSUING, x509.BasicConstraints).value
    assert isinstance(found, x509.BasicConstraints)
    assert found.path_length == 0


def test_names_and_key_ids_chain() -> None:
    for child, parent in ((leaf(), ISSUING), (ISSUING, ROOT), (ROOT, ROOT)):
        child.verify_directly_issued_by(parent)
    own = extension(ISSUING, x509.SubjectKeyIdentifier).value
    known = extension(leaf(), x509.AuthorityKeyIdentifier).value
    assert isinstance(own, x509.SubjectKeyIdentifier)
    assert isinstance(known, x509.AuthorityKeyIdentifier)
    assert own.digest == known.key_identifier


def test_a_workload_without_a_path_is_not_minted() -> None:
    with pytest.raises(ValueError, match="path"):
        mint_svid(DOMAIN.id, LEAF_KEY.public_key(), ISSUER, serial=3, now=NOW, life=HOUR)


@given(st.integers(min_value=-10, max_value=2 * 86400 - 1), st.integers(min_value=1, max_value=30 * 86400))
def test_a_leaf_lives_within_its_issuer(after: int, life: int) -> None:
    moment = NOW + dt.timedelta(seconds=after)
    found = leaf(now=moment, life=dt.timedelta(seconds=life))
    assert ISSUING.not_valid_before_utc <= found.not_valid_before_utc
    assert found.not_valid_after_utc <= ISSUING.not_valid_after_utc
    assert found.not_valid_after_utc > moment


@pytest.mark.parametrize("after", [2 * DAY, 3 * DAY], ids=["at-its-end", "after-its-end"])
def test_nothing_expired_is_minted(after: dt.timedelta) -> None:
    with pytest.raises(Invalid, match="LM1204"):
        leaf(now=NOW + after)


@pytest.mark.parametrize("before", [301, 3600, 10 * 86400], ids=["seconds", "an-hour", "days"])
def test_nothing_is_minted_before_its_issuer_begins(before: int) -> None:
    with pytest.raises(Invalid, match="LM1214"):
        leaf(now=NOW - dt.timedelta(seconds=before))


def constrained_chain() -> tuple[bytes, bytes, bytes]:
    """Leaf, issuing certificate limited to the trust domain, root."""
    signer = Issuer(certificate=ROOT, key=ROOT_KEY)
    issuing = mint_intermediate(DOMAIN, ISSUING_KEY.public_key(), signer, serial=2, now=NOW, life=DAY, constrained=True)
    issuer = Issuer(certificate=load(issuing), key=ISSUING_KEY)
    made = mint_svid(WEB, LEAF_KEY.public_key(), issuer, serial=3, now=NOW, life=HOUR)
    return made, issuing, ROOT.public_bytes(Encoding.DER)


@pytest.mark.parametrize("rule", ["X-15"])
def test_an_issuing_certificate_may_be_limited_to_its_trust_domain(rule: str) -> None:
    made, issuing, root = constrained_chain()
    limits = extension(load(issuing), x509.NameConstraints)
    assert limits.critical, rule
    assert limits.value == x509.NameConstraints([x509.UniformResourceIdentifier("corp.test")], None)
    bundle = TrustBundle(trust_domain=DOMAIN, x509_authorities=(root,))
    assert verify_x509_svid([made, issuing], {DOMAIN: bundle}, NOW).spiffe_id == WEB


@pytest.mark.peer
@needs("openssl")
def test_openssl_accepts_a_limited_chain(tmp_path: pathlib.Path) -> None:
    for name, der in zip(("leaf", "issuing", "root"), constrained_chain(), strict=True):
        (tmp_path / name).write_bytes(load(der).public_bytes(Encoding.PEM))
    command = ["openssl", "verify", "-x509_strict", "-attime", str(int(NOW.timestamp()))]
    done = subprocess.run(
        [*command, "-CAfile", "root", "-untrusted", "issuing", "leaf"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_a_long_trust_domain_fits() -> None:
    long = TrustDomain.parse(".".join(["a" * 50] * 5))
    root = load(mint_root(long, ROOT_KEY, serial=1, now=NOW, life=DAY))
    assert uris(root) == [str(long.id)]


def test_the_servers_certificate_is_no_part_of_the_trust_domain() -> None:
    found = load(mint_server(LEAF_KEY, serial=9, now=NOW, life=DAY))
    names = extension(found, x509.SubjectAlternativeName).value
    assert isinstance(names, x509.SubjectAlternativeName)
    assert names.get_values_for_type(x509.DNSName) == [SERVER_NAME]
    assert uris(found) == []
    assert not is_ca(found)
    found.verify_directly_issued_by(found)


def test_no_key_shows() -> None:
    assert "key" not in repr(ISSUER)


def test_a_server_that_began_just_now_is_reached_by_an_agent_whose_clock_is_slow() -> None:
    found = load(mint_server(LEAF_KEY, serial=9, now=NOW, life=DAY))
    assert found.not_valid_before_utc <= NOW - dt.timedelta(hours=12)
