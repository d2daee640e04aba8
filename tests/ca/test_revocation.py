import datetime as dt
import pathlib
import subprocess

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from hypothesis import given
from hypothesis import strategies as st

from ca import mint
from ca.keys import new_key
from ca.mint import Issuer
from ca.revocation import CRL_LIFE, answer_ocsp, build_crl, is_fresh, read_crl
from ca.slotstore import Revocation
from mesh.clock import SystemClock
from mesh.problems import Invalid
from mesh.spiffe import SpiffeId, TrustDomain
from tests.tools import needs

NOW = SystemClock().now().replace(microsecond=0)
DOMAIN = TrustDomain.parse("corp.test")


def issuer() -> Issuer:
    key = new_key()
    der = mint.mint_root(DOMAIN, key, serial=7, now=NOW, life=dt.timedelta(days=1))
    return Issuer(certificate=x509.load_der_x509_certificate(der), key=key)


ISSUER, OTHER = issuer(), issuer()


def svid(serial: int) -> x509.Certificate:
    found = mint.mint_svid(
        SpiffeId.parse("spiffe://corp.test/web"),
        new_key().public_key(),
        ISSUER,
        serial=serial,
        now=NOW,
        life=dt.timedelta(hours=1),
    )
    return x509.load_der_x509_certificate(found)


def revoked(serial: int) -> Revocation:
    return Revocation(
        serial=f"{serial:x}",
        authority="a",
        spiffe_id="",
        revoked=NOW,
        not_after=NOW + dt.timedelta(hours=1),
        reason="stolen",
    )


def request(certificate: x509.Certificate, by: Issuer = ISSUER) -> bytes:
    made = ocsp.OCSPRequestBuilder().add_certificate(certificate, by.certificate, hashes.SHA256())
    return made.build().public_bytes(Encoding.DER)


def answer(data: bytes, known: set[int], gone: set[int]) -> ocsp.OCSPResponse:
    def look_up(by: Issuer, serial: int) -> tuple[bool, dt.datetime | None]:
        assert by is ISSUER
        return serial in known, NOW if serial in gone else None

    return ocsp.load_der_ocsp_response(answer_ocsp(data, [OTHER, ISSUER], look_up, NOW))


def test_what_was_revoked_and_is_not_known_any_more_is_revoked() -> None:
    """A server that was restored from a backup heard of it from its agents."""
    found = answer(request(svid(9)), set(), {9})
    assert (found.certificate_status, found.revocation_time_utc) == (ocsp.OCSPCertStatus.REVOKED, NOW)


def test_a_list_names_what_was_revoked_and_is_its_authoritys() -> None:
    found = read_crl(build_crl(ISSUER, [revoked(5), revoked(6)], number=9, now=NOW))
    assert {item.serial_number for item in found} == {5, 6}
    assert found.is_signature_valid(ISSUER.key.public_key())  # type: ignore[arg-type]
    assert not found.is_signature_valid(OTHER.key.public_key())  # type: ignore[arg-type]
    assert found.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number == 9
    assert found.next_update_utc == NOW + CRL_LIFE


@pytest.mark.parametrize(
    ("listed", "after", "fresh"),
    [([5], 0, True), ([5, 6], 0, False), ([], 0, False), ([5], 11, True), ([5], 13, False)],
    ids=["same", "more", "fewer", "young", "half-over"],
)
def test_a_list_is_fresh_while_it_says_the_same_and_has_half_its_life(
    listed: list[int], after: int, fresh: bool
) -> None:
    crl = build_crl(ISSUER, [revoked(5)], number=1, now=NOW)
    assert is_fresh(crl, [revoked(item) for item in listed], NOW + dt.timedelta(hours=after)) is fresh


def test_what_is_no_list_is_refused() -> None:
    with pytest.raises(Invalid, match="LM1305"):
        read_crl(b"0\x00")
    good = build_crl(ISSUER, [revoked(5)], number=9, now=NOW)
    with pytest.raises(Invalid, match="LM1305"):
        read_crl(good.replace(b"\x02\x01\x01", b"\x02\x01\x09", 1))


@pytest.mark.parametrize(
    ("serial", "status"),
    [
        (5, ocsp.OCSPCertStatus.GOOD),
        (6, ocsp.OCSPCertStatus.REVOKED),
        (8, ocsp.OCSPCertStatus.UNKNOWN),
    ],
    ids=["good", "revoked", "never-issued"],
)
def test_ocsp_says_good_revoked_or_unknown(serial: int, status: ocsp.OCSPCertStatus) -> None:
    found = answer(request(svid(serial)), {5, 6}, {6})
    assert (found.certificate_status, found.serial_number) == (status, serial)


def test_ocsp_speaks_for_an_issuer_that_is_no_root() -> None:
    key = new_key()
    der = mint.mint_intermediate(DOMAIN, key.public_key(), ISSUER, serial=9, now=NOW, life=dt.timedelta(hours=2))
    below = Issuer(certificate=x509.load_der_x509_certificate(der), key=key)
    data = mint.mint_svid(
        SpiffeId.parse("spiffe://corp.test/web"),
        new_key().public_key(),
        below,
        serial=5,
        now=NOW,
        life=dt.timedelta(hours=1),
    )
    asked = request(x509.load_der_x509_certificate(data), below)
    found = ocsp.load_der_ocsp_response(answer_ocsp(asked, [ISSUER, below], lambda by, serial: (True, None), NOW))
    assert found.certificate_status is ocsp.OCSPCertStatus.GOOD


def test_ocsp_repeats_the_nonce() -> None:
    made = ocsp.OCSPRequestBuilder().add_certificate(svid(5), ISSUER.certificate, hashes.SHA1())
    data = made.add_extension(x509.OCSPNonce(b"n" * 16), critical=False).build().public_bytes(Encoding.DER)
    found = answer(data, {5}, set())
    assert found.extensions.get_extension_for_class(x509.OCSPNonce).value.nonce == b"n" * 16


def test_ocsp_does_not_speak_for_others() -> None:
    stranger = issuer()
    assert answer(request(svid(5), stranger), {5}, set()).response_status is ocsp.OCSPResponseStatus.UNAUTHORIZED


@pytest.mark.parametrize("data", [b"", b"0\x00", b"x" * 5000], ids=["empty", "none", "large"])
def test_ocsp_says_malformed(data: bytes) -> None:
    assert answer(data, set(), set()).response_status is ocsp.OCSPResponseStatus.MALFORMED_REQUEST


@given(st.data())
def test_whatever_ocsp_is_asked_it_answers(data: st.DataObject) -> None:
    found = bytearray(request(svid(5)))
    for place in data.draw(st.lists(st.integers(0, len(found) - 1), max_size=4)):
        found[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(found)))
    assert isinstance(answer(bytes(found[:cut]), {5}, set()).response_status, ocsp.OCSPResponseStatus)


@pytest.mark.peer
@needs("openssl")
def test_openssl_refuses_what_the_list_names_and_reads_the_ocsp_answer(tmp_path: pathlib.Path) -> None:
    good, bad = svid(5), svid(6)
    for name, data in (
        ("root.pem", ISSUER.certificate.public_bytes(Encoding.PEM)),
        ("good.pem", good.public_bytes(Encoding.PEM)),
        ("bad.pem", bad.public_bytes(Encoding.PEM)),
        ("list.pem", read_crl(build_crl(ISSUER, [revoked(6)], number=1, now=NOW)).public_bytes(Encoding.PEM)),
        ("answer.der", answer(request(bad), {5, 6}, {6}).public_bytes(Encoding.DER)),
    ):
        (tmp_path / name).write_bytes(data)

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["openssl", *command], cwd=tmp_path, capture_output=True, text=True, check=False)

    check = ("verify", "-crl_check", "-CAfile", "root.pem", "-CRLfile", "list.pem")
    assert run(*check, "good.pem").returncode == 0
    assert "revoked" in run(*check, "bad.pem").stderr
    names = ("-respin", "answer.der", "-CAfile", "root.pem", "-issuer", "root.pem", "-sha256", "-cert", "bad.pem")
    # NOW is when this module was read, which may be long ago on a machine with much to do
    said = run("ocsp", "-validity_period", "7200", *names)
    assert "Response verify OK" in said.stdout + said.stderr
    assert "bad.pem: revoked" in said.stdout
