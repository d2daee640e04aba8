import contextlib

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from ca.attestation import tpmwire
from tests.ca.attestation.chips import Chip, ak_public, ek_public, name_of

CHIP = Chip()
EK, AK = ek_public(), ak_public(CHIP.ak)
QUOTE, SIGNATURE = CHIP.quote(b"data")


def test_keys_are_read_with_the_name_that_the_tpm_gives_them() -> None:
    ek, ak = tpmwire.read_public(EK), tpmwire.read_public(AK)
    assert ek.key == CHIP.ek.public_key()
    assert ak.key == CHIP.ak.public_key()
    assert ak.name == name_of(AK)
    assert (ek.symmetric_bits, ak.symmetric_bits) == (128, 0)


@given(st.data())
def test_no_bytes_are_a_bug(data: st.DataObject) -> None:
    """Random bytes, and good structures with a few bytes changed, cut or added."""
    good = data.draw(st.sampled_from([EK, AK, QUOTE, SIGNATURE, b""]))
    found = bytearray(good)
    for place in data.draw(st.lists(st.integers(0, max(0, len(found) - 1)), max_size=4)):
        if found:
            found[place] = data.draw(st.integers(0, 255))
    text = bytes(found)[: data.draw(st.integers(0, len(found)))] + data.draw(st.binary(max_size=20))
    with contextlib.suppress(ValueError):
        tpmwire.read_public(text)
    with contextlib.suppress(ValueError):
        tpmwire.read_quote(text)
    assert tpmwire.is_signed(tpmwire.read_public(AK), text, QUOTE) in {True, False}


@pytest.mark.parametrize(
    "text",
    [EK + b"x", EK[:-1], b"", b"\xff" * 5000, AK[:2] + b"\0\x08" + AK[4:]],
    ids=["longer", "cut", "empty", "large", "other"],
)
def test_what_is_cut_or_longer_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match="TPM"):
        tpmwire.read_public(text)


def test_a_signature_is_of_its_bytes_and_key() -> None:
    ak = tpmwire.read_public(AK)
    assert tpmwire.is_signed(ak, SIGNATURE, QUOTE)
    assert not tpmwire.is_signed(ak, SIGNATURE, QUOTE + b"x")
    assert not tpmwire.is_signed(ak, SIGNATURE + b"x", QUOTE)
    assert not tpmwire.is_signed(tpmwire.read_public(EK), SIGNATURE, QUOTE)
    assert not tpmwire.is_signed(
        tpmwire.read_public(ak_public(ec.generate_private_key(ec.SECP256R1()))), SIGNATURE, QUOTE
    )


def test_a_credential_is_sealed_to_rsa_endorsement_keys_alone() -> None:
    with pytest.raises(ValueError, match="RSA"):
        tpmwire.make_credential(tpmwire.read_public(AK), b"n", b"s", b"e" * 32)
