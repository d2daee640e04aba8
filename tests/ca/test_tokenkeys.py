import copy

import pytest
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, decode_dss_signature
from hypothesis import given, settings
from hypothesis import strategies as st

from ca.keys import SigningKey
from ca.tokenkeys import EcTokenKey, RsaTokenKey
from mesh.problems import Unavailable
from tests.examples import examples
from tests.rsakeys import rsa_key

EC_KEY = ec.generate_private_key(ec.SECP256R1())
RSA_KEY = rsa_key()


class Honest:
    """A token that signs what it is given, as PKCS#11 says."""

    def sign(self, label: str, data: bytes, mechanism: str) -> bytes:
        if mechanism == "SHA256_RSA_PKCS":
            return RSA_KEY.sign(data, padding.PKCS1v15(), hashes.SHA256())
        assert (label, mechanism) == ("a", "ECDSA")
        first, second = decode_dss_signature(EC_KEY.sign(data, ec.ECDSA(Prehashed(hashes.SHA256()))))
        return first.to_bytes(32, "big") + second.to_bytes(32, "big")


class Says:
    """A token that says whatever it was told to."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer

    def sign(self, label: str, data: bytes, mechanism: str) -> bytes:
        return self.answer


@pytest.fixture
def elliptic() -> EcTokenKey:
    return EcTokenKey(Honest(), "a", EC_KEY.public_key())


@pytest.fixture
def rivest() -> RsaTokenKey:
    return RsaTokenKey(Honest(), "r", RSA_KEY.public_key())


def test_signatures_are_the_librarys_own(elliptic: EcTokenKey, rivest: RsaTokenKey) -> None:
    EC_KEY.public_key().verify(SigningKey(elliptic).sign(b"data"), b"data", ec.ECDSA(hashes.SHA256()))
    RSA_KEY.public_key().verify(SigningKey(rivest).sign(b"data"), b"data", padding.PKCS1v15(), hashes.SHA256())


@settings(max_examples=examples(50))
@given(st.binary(max_size=300))
def test_what_a_lying_token_says_never_gets_out(answer: bytes) -> None:
    for key in (
        EcTokenKey(Says(answer), "a", EC_KEY.public_key()),
        RsaTokenKey(Says(answer), "a", RSA_KEY.public_key()),
    ):
        with pytest.raises(Unavailable, match="LM1603"):
            SigningKey(key).sign(b"data")


def test_a_signature_over_something_else_never_gets_out() -> None:
    old = Honest().sign("a", b"\x01" * 32, "ECDSA")
    with pytest.raises(Unavailable, match="LM1603"):
        SigningKey(EcTokenKey(Says(old), "a", EC_KEY.public_key())).sign(b"data")


def test_the_key_stays_in_its_token(elliptic: EcTokenKey, rivest: RsaTokenKey) -> None:
    for key in (elliptic, rivest):
        with pytest.raises(UnsupportedAlgorithm):
            key.private_bytes(
                serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        with pytest.raises(UnsupportedAlgorithm):
            key.private_numbers()
        assert copy.copy(key) is key
        assert copy.deepcopy(key) is key
    with pytest.raises(UnsupportedAlgorithm):
        elliptic.exchange(ec.ECDH(), EC_KEY.public_key())
    with pytest.raises(UnsupportedAlgorithm):
        rivest.decrypt(b"", padding.PKCS1v15())


@pytest.mark.parametrize("chosen", [hashes.SHA256(), hashes.SHA384()], ids=lambda chosen: chosen.name)
def test_what_is_as_long_as_no_hash_is_not_signed_as_one(elliptic: EcTokenKey, chosen: hashes.HashAlgorithm) -> None:
    hasher = hashes.Hash(chosen)
    hasher.update(b"data")
    digest, scheme = hasher.finalize(), ec.ECDSA(Prehashed(chosen))
    for size in (0, len(digest) - 1, len(digest) + 1):
        with pytest.raises(ValueError, match="long"):
            elliptic.sign((digest + b"0")[:size], scheme)


def test_a_hash_that_was_made_elsewhere_is_signed_as_if_it_had_been_made_here(elliptic: EcTokenKey) -> None:
    hasher = hashes.Hash(hashes.SHA256())
    hasher.update(b"data")
    made = elliptic.sign(hasher.finalize(), ec.ECDSA(Prehashed(hashes.SHA256())))
    EC_KEY.public_key().verify(made, b"data", ec.ECDSA(hashes.SHA256()))


def test_only_the_schemes_of_certificates_are_signed(elliptic: EcTokenKey, rivest: RsaTokenKey) -> None:
    for scheme, algorithm in ((padding.PKCS1v15(), hashes.SHA512()), (object(), hashes.SHA256())):
        with pytest.raises(UnsupportedAlgorithm):
            rivest.sign(b"data", scheme, algorithm)
    assert (elliptic.key_size, elliptic.curve.name, rivest.key_size) == (256, "secp256r1", 2048)
