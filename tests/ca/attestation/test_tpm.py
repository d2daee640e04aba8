import datetime as dt
import hashlib
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ca.attestation import tpm
from mesh.problems import Forbidden
from tests.ca.attestation.chips import AK_ATTRIBUTES, EK_ATTRIBUTES, EK_KEY, Chip, ak_public, ek_public
from tests.pki import Made, make, usage
from tests.rsakeys import rsa_key

NOW = dt.datetime(2026, 11, 24, 12, 0, tzinfo=dt.UTC)
OTHER = rsa_key(1)


def hash_of(key: rsa.RSAPrivateKey) -> str:
    return hashlib.sha256(key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def listed(key: rsa.RSAPrivateKey = EK_KEY) -> tpm.Tpm:
    return tpm.Tpm(name="hw", node="{tpm-ek}", ek_hashes=frozenset({hash_of(key)}))


def shown(chip: Chip, **other: bytes) -> tpm.Keys:
    return tpm.Keys(**{"ek": ek_public(chip.ek), "ak": ak_public(chip.ak), "certificate": b"", **other})


def attest(chip: Chip, attestor: tpm.Tpm, keys: tpm.Keys, **other: bytes) -> dict[str, str]:
    credential = tpm.challenge(attestor, keys, secret=b"s" * 32, seed=b"e" * 32, now=NOW)
    quote, signature = chip.quote(other.pop("quoted", b"data"))
    parts = {"secret": chip.activate(credential), "quote": quote, "signature": signature, **other}
    return dict(tpm.verify(attestor, keys=keys, expected=b"s" * 32, data=b"data", now=NOW, **parts).facts)


def ca() -> Made:
    return make(subject="tpm ca", ca=True, key_usage=usage(key_cert_sign=True), extended=None)


def certificate(issuer: Made, key: rsa.RSAPrivateKey = EK_KEY) -> bytes:
    return make(issuer=issuer, key=key, key_usage=usage(key_encipherment=True), extended=None, dns=("x",)).der


def test_a_listed_chip_attests_its_host() -> None:
    chip = Chip()
    assert attest(chip, listed(), shown(chip))["node:tpm-ek"] == hash_of(EK_KEY)


def test_a_certified_chip_attests_its_host() -> None:
    chip, authority = Chip(), ca()
    attestor = tpm.Tpm(name="hw", node="{tpm-ek}", authorities=(authority.der,))
    found = attest(chip, attestor, shown(chip, certificate=certificate(authority)))
    assert found["node:tpm-ek-issuer"] == "tpm ca"


def of_another_key(chip: Chip) -> object:
    authority = ca()
    attestor = tpm.Tpm(name="hw", node="", authorities=(authority.der,))
    return attest(chip, attestor, shown(chip, certificate=certificate(authority, OTHER)))


REFUSED: dict[str, Callable[[Chip], object]] = {
    "unknown": lambda chip: attest(chip, listed(OTHER), shown(chip)),
    "certified-by-another": lambda chip: attest(
        chip, tpm.Tpm(name="hw", node="", authorities=(ca().der,)), shown(chip, certificate=certificate(ca()))
    ),
    "certificate-of-another-key": of_another_key,
    "secret-not-opened": lambda chip: attest(chip, listed(), shown(chip), secret=b"x" * 32),
    "quote-of-another-nonce": lambda chip: attest(chip, listed(), shown(chip), quoted=b"other"),
    "quote-of-another-key": lambda chip: attest(chip, listed(), shown(chip), signature=Chip().quote(b"data")[1]),
    "no-quote": lambda chip: attest(chip, listed(), shown(chip), quote=chip.quote(b"data", kind=0x8017)[0]),
    "not-made-by-a-tpm": lambda chip: attest(chip, listed(), shown(chip), quote=chip.quote(b"data", magic=1)[0]),
    "ak-may-sign-anything": lambda chip: attest(
        chip, listed(), shown(chip, ak=ak_public(chip.ak, AK_ATTRIBUTES & ~(1 << 16)))
    ),
    "ak-may-leave": lambda chip: attest(chip, listed(), shown(chip, ak=ak_public(chip.ak, AK_ATTRIBUTES & ~2))),
    "ek-may-sign": lambda chip: attest(chip, listed(), shown(chip, ek=ek_public(chip.ek, EK_ATTRIBUTES | 1 << 18))),
    "keys-cannot-be-read": lambda chip: attest(chip, listed(), shown(chip, ek=b"\0\1x")),
    "ek-is-an-ak": lambda chip: attest(chip, listed(), shown(chip, ek=ak_public(chip.ak))),
}


@pytest.mark.parametrize("case", REFUSED)
def test_anything_else_is_refused(case: str) -> None:
    with pytest.raises(Forbidden, match="LM1247"):
        REFUSED[case](Chip())


def test_a_secret_sealed_for_another_key_beside_the_same_ek_does_not_open() -> None:
    chip = Chip()
    credential = tpm.challenge(listed(), shown(chip), secret=b"s" * 32, seed=b"e" * 32, now=NOW)
    software = Chip(ek=EK_KEY, ak=ec.generate_private_key(ec.SECP256R1()))
    with pytest.raises(AssertionError):
        software.activate(credential)
