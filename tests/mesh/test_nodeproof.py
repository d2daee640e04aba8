import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, x25519
from hypothesis import given
from hypothesis import strategies as st

from mesh.nodeproof import is_signed, sign_statement, statement
from tests.rsakeys import rsa_key

KEYS = [
    ec.generate_private_key(ec.SECP256R1()),
    ec.generate_private_key(ec.SECP384R1()),
    rsa_key(),
    ed25519.Ed25519PrivateKey.generate(),
]


@pytest.mark.parametrize("key", KEYS, ids=["p256", "p384", "rsa", "ed25519"])
def test_a_signature_holds_for_its_statement_and_key_alone(key: ec.EllipticCurvePrivateKey) -> None:
    data = statement("join", server_pin="p", nonce="n", name="a", spki=b"k")
    signature = sign_statement(key, data)
    assert is_signed(key.public_key(), signature, data)
    assert not is_signed(key.public_key(), signature, data + b"x")
    assert not is_signed(key.public_key(), signature[:-1], data)
    assert not any(is_signed(other.public_key(), signature, data) for other in KEYS if other is not key)


@pytest.mark.parametrize(
    "key",
    [
        rsa_key(bits=1024),
        ec.generate_private_key(ec.SECP224R1()),
        x25519.X25519PrivateKey.generate(),
        7,
    ],
    ids=["short-rsa", "other-curve", "x25519", "none"],
)
def test_other_keys_prove_nothing(key: object) -> None:
    public = key.public_key() if hasattr(key, "public_key") else key
    assert not is_signed(public, b"x" * 64, b"data")
    if not isinstance(key, rsa.RSAPrivateKey):
        with pytest.raises(ValueError, match="attested key"):
            sign_statement(key, b"data")


@given(
    st.lists(st.tuples(st.text(), st.text(), st.text(), st.text(), st.binary()), min_size=2, max_size=2, unique=True)
)
def test_different_parts_never_make_the_same_statement(parts: list[tuple[str, str, str, str, bytes]]) -> None:
    one, two = (statement(p, server_pin=s, nonce=n, name=m, spki=k) for p, s, n, m, k in parts)
    assert one != two
