import datetime as dt
import hashlib
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from ca.attestation import x509pop
from mesh.nodeproof import sign_statement
from mesh.problems import Forbidden
from tests.pki import Made, make, respelled, usage

NOW = dt.datetime(2026, 11, 24, 12, 0, tzinfo=dt.UTC)
CLIENT = (ExtendedKeyUsageOID.CLIENT_AUTH,)
ROOT = make(subject="machines", ca=True, key_usage=usage(key_cert_sign=True), extended=None)
MIDDLE = make(issuer=ROOT, subject="middle", ca=True, key_usage=usage(key_cert_sign=True), extended=None)


def machine(issuer: Made = ROOT, **other: Any) -> Made:
    base: dict[str, Any] = {
        "subject": "web-1",
        "dns": ("web-1.corp.test",),
        "key_usage": usage(digital_signature=True),
        "extended": CLIENT,
        "san_critical": False,
    }
    return make(issuer=issuer, **{**base, **other})


def verify(made: Made, *between: Made, key: Made | None = None, data: bytes = b"data", now: dt.datetime = NOW) -> Any:
    attestor = x509pop.X509Pop(name="vm", node="{x509-cn}", authorities=(ROOT.der,))
    signature = sign_statement((key or made).key, b"data")
    chain = [item.der for item in (made, *between)]
    return x509pop.verify(attestor, chain=chain, signature=signature, data=data, now=now)


def test_a_certified_machine_that_holds_its_key_is_attested() -> None:
    facts = dict(verify(machine()).facts)
    assert facts["node:x509-cn"] == "web-1"
    assert facts["node:x509-san-dns"] == "web-1.corp.test"
    assert dict(verify(machine(MIDDLE), MIDDLE).facts)["node:x509-issuer-cn"] == "middle"
    # a certificate without key usages and names restricts nothing
    assert verify(machine(key_usage=None, extended=None, dns=())).facts


def test_a_certificate_in_another_spelling_verifies_too_and_has_the_same_key_and_another_fingerprint() -> None:
    made = machine()
    attestor = x509pop.X509Pop(name="vm", node="{x509-public-key}", authorities=(ROOT.der,))
    signature = sign_statement(made.key, b"data")
    one, other = (
        dict(x509pop.verify(attestor, chain=[der], signature=signature, data=b"data", now=NOW).facts)
        for der in (made.der, respelled(made.certificate))
    )
    assert one.pop("node:x509-fingerprint") != other.pop("node:x509-fingerprint")
    assert one == other
    spki = made.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert one["node:x509-public-key"] == hashlib.sha256(spki).hexdigest()


HOUR = dt.timedelta(hours=1)
OTHER = make(subject="machines", ca=True, key_usage=usage(key_cert_sign=True), extended=None)
NO_CA = make(issuer=ROOT, subject="no ca", key_usage=usage(digital_signature=True), extended=None)
NOT_SIGNING = make(issuer=ROOT, subject="x", ca=True, key_usage=usage(crl_sign=True), extended=None)


@pytest.mark.parametrize(
    ("chain", "more"),
    [
        pytest.param([machine(OTHER)], {}, id="another-ca-of-the-same-name"),
        pytest.param([machine(MIDDLE)], {}, id="intermediate-missing"),
        pytest.param([machine(NO_CA), NO_CA], {}, id="signed-by-a-machine"),
        pytest.param([machine(NOT_SIGNING), NOT_SIGNING], {}, id="signed-by-who-may-not"),
        pytest.param([machine()], {"now": NOW + 2 * HOUR}, id="expired"),
        pytest.param([machine()], {"now": NOW - 2 * HOUR}, id="not-yet-valid"),
        pytest.param([MIDDLE], {}, id="an-authority-itself"),
        pytest.param([machine(extended=(ExtendedKeyUsageOID.SERVER_AUTH,))], {}, id="a-servers"),
        pytest.param([machine(key_usage=usage(key_encipherment=True))], {}, id="not-for-signing"),
        pytest.param([machine()], {"key": machine()}, id="without-its-key"),
        pytest.param([machine()], {"data": b"another nonce"}, id="of-another-nonce"),
    ],
)
def test_anything_else_is_refused(chain: list[Made], more: dict[str, Any]) -> None:
    with pytest.raises(Forbidden, match="LM1246"):
        verify(*chain, **more)


@pytest.mark.parametrize("chain", [[], [b"x"], [b"\x30\x03\x02\x01\x01"] * 9], ids=["none", "no-certificate", "long"])
def test_what_is_no_chain_is_refused(chain: list[bytes]) -> None:
    attestor = x509pop.X509Pop(name="vm", node="", authorities=(ROOT.der,))
    with pytest.raises(Forbidden, match="LM1246"):
        x509pop.verify(attestor, chain=chain, signature=b"", data=b"", now=NOW)
