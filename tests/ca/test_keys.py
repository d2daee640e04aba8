import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st

from ca.keys import key_from_der, key_to_der, new_key, parse_spki, spki_der
from mesh.problems import Invalid

KEY = new_key()
SPKI = spki_der(KEY.public_key())


def test_a_key_reads_back() -> None:
    assert key_from_der(key_to_der(KEY)).private_numbers() == KEY.private_numbers()


def test_a_public_key_in_canonical_der_is_read() -> None:
    assert spki_der(parse_spki(SPKI)) == SPKI


def der(key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def compressed() -> bytes:
    """The same key as a compressed point: another encoding of one key."""
    point = KEY.public_key().public_bytes(serialization.Encoding.X962, serialization.PublicFormat.CompressedPoint)
    head = bytes.fromhex("3039301306072a8648ce3d020106082a8648ce3d030107032200")
    return head + point


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\x30\x00", id="empty-sequence"),
        pytest.param(SPKI + b"\x00", id="trailing-byte"),
        pytest.param(SPKI[:-1], id="truncated"),
        pytest.param(compressed(), id="compressed-point"),
        pytest.param(key_to_der(KEY), id="private-key"),
        pytest.param(der(ec.generate_private_key(ec.SECP384R1()).public_key()), id="P-384"),
        pytest.param(der(ec.generate_private_key(ec.SECP256K1()).public_key()), id="secp256k1"),
        pytest.param(der(rsa.generate_private_key(65537, 2048).public_key()), id="RSA"),
        pytest.param(der(ed25519.Ed25519PrivateKey.generate().public_key()), id="Ed25519"),
    ],
)
def test_any_other_public_key_is_refused(data: bytes) -> None:
    with pytest.raises(Invalid, match="LM1203"):
        parse_spki(data)


@given(st.binary(max_size=120))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with pytest.raises(Invalid, match="LM1203"):
        parse_spki(data)


@given(st.integers(min_value=0, max_value=len(SPKI) - 1), st.integers(min_value=1, max_value=255))
def test_a_changed_byte_is_another_key_or_refused(position: int, change: int) -> None:
    data = bytearray(SPKI)
    data[position] ^= change
    try:
        found = parse_spki(bytes(data))
    except Invalid as err:
        assert err.code == "LM1203"
    else:
        assert spki_der(found) == bytes(data)


def test_a_key_of_another_kind_is_a_bug_at_rest() -> None:
    other = ed25519.Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with pytest.raises(TypeError):
        key_from_der(other)
