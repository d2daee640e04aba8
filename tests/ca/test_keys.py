import datetime as dt

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, rsa
from hypothesis import given
from hypothesis import strategies as st

from ca.keys import (
    KeyAlgorithm,
    SigningKey,
    algorithm_of,
    check_leaf_key,
    generate,
    hash_for,
    key_from_der,
    key_to_der,
    new_key,
    parse_leaf_key,
    parse_spki,
    private_from_der,
    private_to_der,
    spki_der,
)
from mesh.problems import Invalid
from tests.rsakeys import rsa_key

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
        pytest.param(der(rsa_key().public_key()), id="RSA"),
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


KEYS = {found: generate(found) for found in KeyAlgorithm if found is not KeyAlgorithm.RSA_4096}


@pytest.mark.parametrize("algorithm", KEYS)
def test_what_a_key_signs_verifies_as_a_certificate(algorithm: KeyAlgorithm) -> None:
    key = KEYS[algorithm]
    assert key.algorithm is algorithm
    name = x509.Name([])
    begin = dt.datetime(2026, 11, 24, tzinfo=dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key)
        .serial_number(1)
        .not_valid_before(begin)
        .not_valid_after(begin + dt.timedelta(days=1))
        .sign(key.key, key.hash)
    )
    der = made.public_bytes(serialization.Encoding.DER)
    made.verify_directly_issued_by(made)
    # the same certificate from its parts: TBS, algorithm, our signature over TBS
    tbs = made.tbs_certificate_bytes
    signature = b"\x00" + key.sign(tbs)
    body = tbs + key.signature_algorithm + b"\x03" + length(len(signature)) + signature
    again = x509.load_der_x509_certificate(b"\x30" + length(len(body)) + body)
    again.verify_directly_issued_by(made)
    assert der.startswith(b"\x30" + length(len(body))) or algorithm in {KeyAlgorithm.P256, KeyAlgorithm.P384}


def length(size: int) -> bytes:
    if size < 0x80:
        return bytes([size])
    raw = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([0x80 | len(raw)]) + raw


@pytest.mark.parametrize("algorithm", KEYS)
def test_every_kind_reads_back(algorithm: KeyAlgorithm) -> None:
    key = KEYS[algorithm]
    found = private_from_der(private_to_der(key.key))
    assert spki_der(found.public_key) == spki_der(key.public_key)
    assert type(hash_for(found.key)) is type(key.hash)


@pytest.mark.parametrize("algorithm", KEYS)
def test_a_leaf_key_is_read_only_when_its_kind_is_allowed(algorithm: KeyAlgorithm) -> None:
    data = spki_der(KEYS[algorithm].public_key)
    assert spki_der(parse_leaf_key(data, {algorithm})) == data
    with pytest.raises(Invalid, match="LM1203"):
        parse_leaf_key(data, set(KeyAlgorithm) - {algorithm})


def test_a_kind_is_read_by_its_name() -> None:
    assert [KeyAlgorithm.of(str(found)) for found in KeyAlgorithm] == list(KeyAlgorithm)
    with pytest.raises(Invalid, match="LM1602"):
        KeyAlgorithm.of("ed25519")


@pytest.mark.parametrize(
    "key",
    [
        pytest.param(ec.generate_private_key(ec.SECP256K1()).public_key(), id="secp256k1"),
        pytest.param(ed25519.Ed25519PrivateKey.generate().public_key(), id="Ed25519"),
        pytest.param(mldsa.MLDSA44PrivateKey.generate().public_key(), id="ML-DSA-44"),
        pytest.param(rsa_key(bits=1024).public_key(), id="RSA-1024"),
    ],
)
def test_no_other_kind_signs(key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey) -> None:
    with pytest.raises(Invalid, match="LM1602"):
        algorithm_of(key)
    with pytest.raises(Invalid, match="LM1203"):
        parse_leaf_key(der(key), set(KeyAlgorithm))


@given(st.binary(max_size=120))
def test_any_bytes_are_a_private_key_or_refused(data: bytes) -> None:
    with pytest.raises(Invalid, match="LM1604"):
        private_from_der(data, "a")


def test_a_private_key_of_another_kind_is_refused() -> None:
    found = ed25519.Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with pytest.raises(Invalid, match="LM1604"):
        private_from_der(found, "a")


def test_a_key_does_not_show_itself() -> None:
    assert repr(SigningKey(KEY)) == "SigningKey()"


def test_a_public_key_that_is_too_large_is_not_parsed() -> None:
    with pytest.raises(Invalid, match="LM1203"):
        parse_leaf_key(SPKI + b"\x00" * 4096, set(KeyAlgorithm))


@given(place=st.integers(0, len(SPKI) - 1), value=st.integers(1, 255))
def test_a_changed_key_is_another_key_in_its_one_form_or_none(place: int, value: int) -> None:
    data = bytearray(SPKI)
    data[place] ^= value
    try:
        found = parse_leaf_key(bytes(data), {KeyAlgorithm.P256})
    except Invalid:
        return
    assert spki_der(found) == bytes(data)


@pytest.mark.parametrize("point", [bytes(64), b"\xff" * 64, bytes(63) + b"\x01"], ids=["zero", "beyond", "off"])
def test_a_point_that_is_not_on_the_curve_is_no_key(point: bytes) -> None:
    with pytest.raises(Invalid, match="LM1203"):
        parse_leaf_key(SPKI[:27] + point, {KeyAlgorithm.P256})


@given(x=st.integers(0, 2**256 - 1), y=st.integers(0, 2**256 - 1), place=st.integers(0, 90), value=st.integers(0, 255))
def test_a_key_is_checked_as_it_is_read(x: int, y: int, place: int, value: int) -> None:
    """Points at random, changed points, and points that are on the curve: both say the same."""
    changed = bytearray(SPKI)
    changed[place] ^= value
    numbers = [bytes(changed), SPKI[:27] + x.to_bytes(32, "big") + y.to_bytes(32, "big"), SPKI]
    if 0 < x < 2**255:
        numbers.append(spki_der(ec.derive_private_key(x, ec.SECP256R1()).public_key()))
    for data in numbers:
        try:
            parse_leaf_key(data, {KeyAlgorithm.P256})
        except Invalid:
            with pytest.raises(Invalid, match="LM1203"):
                check_leaf_key(data, {KeyAlgorithm.P256})
        else:
            check_leaf_key(data, {KeyAlgorithm.P256})


P_256 = 2**256 - 2**224 + 2**192 + 2**96 - 1


@pytest.mark.parametrize("beyond", [P_256, P_256 + 5], ids=["p", "above-p"])
def test_a_coordinate_is_below_p(beyond: int) -> None:
    """x = 5 is on the curve: x = p + 5 is the same point in another form."""
    for place in (27, 59):
        data = SPKI[:place] + beyond.to_bytes(32, "big") + SPKI[place + 32 :]
        for look in (check_leaf_key, parse_leaf_key):
            with pytest.raises(Invalid, match="LM1203"):
                look(data, {KeyAlgorithm.P256})


@pytest.mark.parametrize("kind", [KeyAlgorithm.P384, KeyAlgorithm.RSA_2048, KeyAlgorithm.ML_DSA_65])
def test_other_kinds_are_checked_by_reading_them(kind: KeyAlgorithm) -> None:
    data = spki_der(generate(kind).public_key)
    check_leaf_key(data, {kind})
    for refused in (data + b"\x00", SPKI):
        with pytest.raises(Invalid, match="LM1203"):
            check_leaf_key(refused, {kind})
