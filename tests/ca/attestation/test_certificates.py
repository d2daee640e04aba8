import datetime as dt

import pytest
from cryptography import x509
from hypothesis import assume, given
from hypothesis import strategies as st

from ca.attestation.certificates import read_certificates, verify_path
from tests.pki import make, usage

NOW = dt.datetime(2026, 11, 24, 12, 0, tzinfo=dt.UTC)
ROOT = make(subject="root", ca=True, key_usage=usage(key_cert_sign=True), extended=None)
LEAF = make(issuer=ROOT, subject="leaf")


def test_a_path_leads_to_an_authority() -> None:
    assert verify_path([LEAF.der], (ROOT.der,), NOW).subject == LEAF.certificate.subject
    assert read_certificates(ROOT.pem + LEAF.pem) == (ROOT.der, LEAF.der)
    with pytest.raises(ValueError, match="its chain"):
        verify_path([LEAF.der], (), NOW)


def test_what_is_critical_and_unknown_is_refused() -> None:
    strange = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
    made = make(issuer=ROOT, subject="leaf", extra=((strange, True),))
    with pytest.raises(ValueError, match="its chain"):
        verify_path([made.der], (ROOT.der,), NOW)
    assert verify_path([make(issuer=ROOT, subject="leaf", extra=((strange, False),)).der], (ROOT.der,), NOW)


def test_what_stands_outside_the_signature_is_as_it_was_signed() -> None:
    # bits of the signature that are said not to be used: the library passes over the number
    der, signature = LEAF.der, LEAF.certificate.signature
    place = len(der) - len(signature) - 1
    assert der[place] == 0
    for bits in range(1, 8):
        with pytest.raises(ValueError, match="its"):
            verify_path([der[:place] + bytes([bits]) + signature], (ROOT.der,), NOW)


@given(st.data())
def test_no_bytes_are_a_bug(data: st.DataObject) -> None:
    found = bytearray(LEAF.der)
    for place in data.draw(st.lists(st.integers(0, len(found) - 1), min_size=1, max_size=4)):
        found[place] ^= data.draw(st.integers(1, 255))
    assume(bytes(found) != LEAF.der)
    with pytest.raises(ValueError, match="its"):
        verify_path([bytes(found)], (ROOT.der,), NOW)
