"""Against SoftHSM, as it is."""

import os
import pathlib

import pytest

from ca.keys import KeyAlgorithm, spki_der
from ca.pkcs11token import Token
from ca.pkcs11uri import parse_token_uri
from mesh.problems import Forbidden, Invalid, NotFound, Unavailable
from tests.ca.softhsm import make_token

pytestmark = pytest.mark.peer
pkcs11 = pytest.importorskip("pkcs11")
SIGNING = [KeyAlgorithm.P256, KeyAlgorithm.P384, KeyAlgorithm.RSA_2048, KeyAlgorithm.RSA_3072]


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_token(tmp_path_factory.mktemp("softhsm"), "limen-token")


@pytest.fixture(scope="module")
def token(uri: str) -> Token:
    return Token(parse_token_uri(uri))


@pytest.mark.parametrize("algorithm", SIGNING)
def test_a_key_is_made_found_used_and_destroyed(token: Token, algorithm: KeyAlgorithm) -> None:
    made = token.generate(f"k-{algorithm}", algorithm)
    assert made.algorithm is algorithm
    assert made.sign(b"data")
    found = token.find(f"k-{algorithm}")
    assert found is not None
    assert spki_der(found.public_key) == spki_der(made.public_key)
    assert f"k-{algorithm}" in token.labels()
    token.destroy(f"k-{algorithm}")
    assert token.find(f"k-{algorithm}") is None
    with pytest.raises(NotFound, match="LM1600"):
        found.sign(b"data")


def test_what_the_token_made_it_never_gives_away(token: Token) -> None:
    token.generate("kept", KeyAlgorithm.P256)
    at = pkcs11.Attribute
    (private,) = list(token._open().get_objects({at.CLASS: pkcs11.ObjectClass.PRIVATE_KEY, at.LABEL: "kept"}))
    facts = (at.SENSITIVE, at.ALWAYS_SENSITIVE, at.NEVER_EXTRACTABLE, at.LOCAL, at.PRIVATE)
    assert all(private[found] for found in facts)
    assert not private[at.EXTRACTABLE]
    with pytest.raises(pkcs11.PKCS11Error):
        _ = private[at.VALUE]


def test_a_key_that_could_be_taken_out_is_never_used(token: Token) -> None:
    at = pkcs11.Attribute
    loose = {at.EXTRACTABLE: True, at.SENSITIVE: False}
    token._open().generate_keypair(pkcs11.KeyType.RSA, 2048, store=True, label="loose", private_template=loose)
    with pytest.raises(Invalid, match="LM1604"):
        token.find("loose")
    token.destroy("loose")


def test_two_keys_of_one_label_are_refused(token: Token) -> None:
    token.generate("twin", KeyAlgorithm.P256)
    with pytest.raises(Invalid, match="LM1604"):
        token.generate("twin", KeyAlgorithm.P256)
    token.destroy("twin")
    assert token.find("twin") is None


def test_post_quantum_keys_are_refused_by_name(token: Token) -> None:
    with pytest.raises(Invalid, match="LM1606"):
        token.generate("pq", KeyAlgorithm.ML_DSA_65)


# the Python library tidies up an operation of a session that is gone, and says so
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_session_that_ended_is_opened_again(token: Token) -> None:
    made = token.generate("again", KeyAlgorithm.P256)
    token._open().close()
    assert made.sign(b"data")
    token.close()
    assert made.sign(b"data")


def test_a_forked_process_begins_anew(token: Token) -> None:
    made = token.generate("forked", KeyAlgorithm.P256)
    made.sign(b"parent")
    child = os.fork()
    if child == 0:
        try:
            made.sign(b"child")
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert made.sign(b"parent")


def test_errors_that_the_library_leaves_behind_are_not_pythons(token: Token) -> None:
    import ssl

    from tests.ca.upstream.chains import root

    library = pkcs11.lib(str(token.uri.module))
    token.close()
    library.reinitialize()
    token.labels()
    ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=root().der)


def test_a_wrong_pin_is_tried_once(tmp_path: pathlib.Path) -> None:
    text = make_token(tmp_path, "locked")
    pin = tmp_path / "pin-locked"
    pin.write_text("00000000")
    wrong = Token(parse_token_uri(text))
    with pytest.raises(Forbidden, match="LM1605"):
        wrong.labels()
    pin.write_text("87654321")
    with pytest.raises(Forbidden, match="LM1605"):
        wrong.labels()
    assert Token(parse_token_uri(text)).labels() == []


def test_a_token_that_is_not_there_is_said(uri: str) -> None:
    with pytest.raises(Unavailable, match="LM1603"):
        Token(parse_token_uri(uri.replace("limen-token?", "nowhere?"))).labels()
    with pytest.raises(Unavailable, match="LM1603"):
        Token(parse_token_uri("pkcs11:token=a?module-path=/nowhere/lib.so")).labels()


def test_a_library_that_is_none_is_said(tmp_path: pathlib.Path) -> None:
    (tmp_path / "lib.so").write_bytes(b"\x7fELF not really")
    with pytest.raises(Unavailable, match="LM1603"):
        Token(parse_token_uri(f"pkcs11:token=a?module-path={tmp_path / 'lib.so'}")).labels()


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, uri: str) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pkcs11", None)
    with pytest.raises(Invalid, match="LM1609"):
        Token(parse_token_uri(uri))


def test_two_of_us_in_one_process_share_the_login(uri: str) -> None:
    first, second = Token(parse_token_uri(uri)), Token(parse_token_uri(uri))
    first.close()
    kept = first.generate("shared", KeyAlgorithm.P256)
    found = second.find("shared")
    assert found is not None
    assert found.sign(b"data")
    assert kept.sign(b"data")
    second.destroy("shared")


def test_a_key_of_a_kind_that_no_authority_signs_with_is_refused(token: Token) -> None:
    session = token._open()
    # PKCS#11 3.0 §2.3.5: the curve by name, as a PrintableString
    curve = b"\x13\x0cedwards25519"
    parameters = session.create_domain_parameters(
        pkcs11.KeyType.EC_EDWARDS, {pkcs11.Attribute.EC_PARAMS: curve}, local=True
    )
    kept = {pkcs11.Attribute.SENSITIVE: True, pkcs11.Attribute.EXTRACTABLE: False}
    parameters.generate_keypair(
        mechanism=pkcs11.Mechanism.EC_EDWARDS_KEY_PAIR_GEN, store=True, label="edwards", private_template=kept
    )
    with pytest.raises(Invalid, match="LM1604"):
        token.find("edwards")
    token.destroy("edwards")


def test_a_curve_that_no_authority_uses_is_refused(token: Token) -> None:
    session = token._open()
    named = pkcs11.util.ec.encode_named_curve_parameters("secp256k1")
    curve = session.create_domain_parameters(pkcs11.KeyType.EC, {pkcs11.Attribute.EC_PARAMS: named}, local=True)
    kept = {pkcs11.Attribute.SENSITIVE: True, pkcs11.Attribute.EXTRACTABLE: False}
    curve.generate_keypair(store=True, label="koblitz", private_template=kept)
    with pytest.raises(Invalid, match="LM1602"):
        token.find("koblitz")
    token.destroy("koblitz")
