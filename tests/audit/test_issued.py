import base64
import hashlib
import json

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from audit.issued import Standing, Watch, find_issuance, read_certificates
from mesh.problems import Invalid, NotFound
from tests.pki import Pki

PKI, STRANGER = Pki(), Pki("other.test")
GIVEN, STOLEN, FOREIGN = PKI.leaf(), PKI.leaf("/ns/ops/sa/admin"), STRANGER.leaf()
HASH = hashlib.sha256(GIVEN.der).hexdigest()


def row(number: int, kind: str, **fields: object) -> tuple[int, bytes]:
    return number, json.dumps({"id": f"id{number}", "kind": kind, "actor": "n1", **fields}).encode()


LOG = [
    row(0, "ca", event="authority", authority="a1", certificate=base64.b64encode(PKI.root.der).decode()),
    row(1, "decision", decision="deny"),
    row(2, "issuance", serial="abc", sha256=HASH, spiffe_id="spiffe://corp.test/x"),
    row(3, "issuance", jti="0abc0", sha256="0" * 64),
    row(4, "agent", event="join", serial="def", sha256="1" * 64),
    # somebody else's words prove nothing
    row(5, "decision", sha256=hashlib.sha256(STOLEN.der).hexdigest(), serial="fff"),
]


def standing(certificate: x509.Certificate) -> tuple[str, int | None, str]:
    found = Watch(LOG).look(certificate)
    return found.standing, found.index, found.authority


def test_what_was_given_out_is_in_the_log() -> None:
    assert standing(GIVEN.certificate) == ("logged", 2, "a1")
    assert standing(PKI.root.certificate)[:2] == ("logged", 0)


def test_what_our_key_signed_outside_the_log_is_named() -> None:
    found = Watch(LOG).look(STOLEN.certificate)
    assert (found.standing, found.index, found.authority) == (Standing.NOT_LOGGED, None, "a1")
    assert found.spiffe_id.endswith("/ns/ops/sa/admin")
    assert found.serial == f"{STOLEN.certificate.serial_number:x}"


def test_what_an_older_root_signed_for_a_newer_one_is_in_the_log_with_it() -> None:
    """It stands in every chain after a root was replaced: as a stolen key it would have the old root revoked."""
    cross = PKI.signer(PKI.root, key=STRANGER.root.key)
    assert standing(cross.certificate) == ("not-logged", None, "a1")
    own, crossed = (base64.b64encode(item.der).decode() for item in (STRANGER.root, cross))
    log = [*LOG, row(6, "ca", event="authority", authority="a2", certificate=own, crossed=[crossed])]
    found = Watch(log).look(cross.certificate)
    assert (found.standing, found.index) == (Standing.LOGGED, 6)


def test_another_spelling_of_a_signature_is_no_stolen_key() -> None:
    """Anybody who has a certificate can make these; a log that knew only hashes would cry wolf at each."""
    r, s = decode_dss_signature(GIVEN.certificate.signature)
    twin = encode_dss_signature(r, ec.SECP256R1().group_order - s)
    size, old = len(GIVEN.der), GIVEN.certificate.signature
    body = GIVEN.der[4 : size - len(old) - 3] + bytes([3, len(twin) + 1, 0]) + twin
    other = x509.load_der_x509_certificate(b"\x30\x82" + len(body).to_bytes(2, "big") + body)
    other.verify_directly_issued_by(PKI.root.certificate)
    assert other.fingerprint(hashes.SHA256()).hex() != HASH
    assert standing(other) == ("logged", 2, "a1")


def test_what_somebody_else_signed_is_none_of_ours() -> None:
    assert standing(FOREIGN.certificate) == ("foreign", None, "")


@pytest.mark.parametrize(
    ("wanted", "index"),
    [("abc", 2), ("0ABC", 2), ("0A:BC\n", 2), ("0abc0", 3), ("def", 4)],
    ids=["serial", "padded", "colons", "jti", "node"],
)
def test_an_issuance_is_found_by_its_serial_number_or_token_id(wanted: str, index: int) -> None:
    assert find_issuance(LOG, wanted)[0] == index


@pytest.mark.parametrize("wanted", ["999", "", "issuance", HASH, "id2"], ids=["other", "empty", "kind", "hash", "id"])
def test_what_is_no_ones_number_is_not_found(wanted: str) -> None:
    with pytest.raises(NotFound, match="LM6056"):
        find_issuance(LOG, wanted)


def test_certificates_are_read_from_pem_and_der() -> None:
    pem = b"".join(item.certificate.public_bytes(Encoding.PEM) for item in (GIVEN, STOLEN))
    assert [item.serial_number for item in read_certificates(pem)] == [
        GIVEN.certificate.serial_number,
        STOLEN.certificate.serial_number,
    ]
    assert list(read_certificates(GIVEN.der)) == [GIVEN.certificate]


@pytest.mark.parametrize(
    "data", [b"", b"x", b"-----BEGIN CERTIFICATE-----\nAAAA\n", b"x" * (2 << 20)], ids=["empty", "none", "cut", "large"]
)
def test_what_holds_no_certificate_is_refused(data: bytes) -> None:
    with pytest.raises(Invalid, match="LM6057"):
        list(read_certificates(data))


@given(st.data())
def test_a_certificate_with_one_byte_changed_is_never_one_that_was_logged(data: st.DataObject) -> None:
    der = bytearray(GIVEN.der)
    place = data.draw(st.integers(0, len(der) - 1))
    der[place] ^= data.draw(st.integers(1, 255))
    try:
        (found,) = read_certificates(bytes(der))
    except Invalid as problem:
        assert problem.code == "LM6057"
        return
    # the count of unused bits is no content
    is_same = place == len(der) - len(GIVEN.certificate.signature) - 1
    assert (Watch(LOG).look(found).standing is Standing.LOGGED) is is_same
