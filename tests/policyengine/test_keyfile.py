import os
import stat
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from mesh.problems import Conflict, Invalid
from policyengine import dsse
from policyengine.keyfile import is_encrypted, read_key, write_key

KEY = Ed25519PrivateKey.from_private_bytes(b"\x05" * 32)


def test_writes_a_key_that_only_its_owner_can_read(tmp_path: Any) -> None:
    old = os.umask(0)
    try:
        write_key(tmp_path / "key.pem", KEY, None)
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "key.pem").stat().st_mode) == 0o600
    assert dsse.public_bytes(read_key(tmp_path / "key.pem", None)) == dsse.public_bytes(KEY)
    assert not is_encrypted(tmp_path / "key.pem")


def test_encrypts_with_a_passphrase(tmp_path: Any) -> None:
    path = tmp_path / "key.pem"
    write_key(path, KEY, b"correct horse")
    assert is_encrypted(path)
    assert dsse.public_bytes(read_key(path, b"correct horse")) == dsse.public_bytes(KEY)


@pytest.mark.parametrize("passphrase", [None, b"wrong", b""], ids=str)
def test_refuses_a_wrong_passphrase(tmp_path: Any, passphrase: Any) -> None:
    path = tmp_path / "key.pem"
    write_key(path, KEY, b"correct horse")
    with pytest.raises(Invalid) as caught:
        read_key(path, passphrase)
    assert caught.value.code == "LM2407"


def test_ignores_a_passphrase_for_a_key_without_one(tmp_path: Any) -> None:
    write_key(tmp_path / "key.pem", KEY, None)
    read_key(tmp_path / "key.pem", b"set in the environment")


def test_never_overwrites(tmp_path: Any) -> None:
    path = tmp_path / "key.pem"
    path.write_text("something")
    with pytest.raises(Conflict) as caught:
        write_key(path, KEY, None)
    assert caught.value.code == "LM2408"
    assert path.read_text() == "something"


def test_does_not_write_through_a_symbolic_link(tmp_path: Any) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Conflict):
        write_key(tmp_path / "link", KEY, None)
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660], ids=oct)
def test_refuses_a_file_that_others_can_read(tmp_path: Any, mode: Any) -> None:
    path = tmp_path / "key.pem"
    write_key(path, KEY, None)
    path.chmod(mode)
    with pytest.raises(Invalid) as caught:
        read_key(path, None)
    assert caught.value.code == "LM2409"


@pytest.mark.parametrize(
    "text", [b"", b"nonsense", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"], ids=str
)
def test_refuses_a_file_without_a_key(tmp_path: Any, text: Any) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(text)
    path.chmod(0o600)
    with pytest.raises(Invalid) as caught:
        read_key(path, None)
    assert caught.value.code == "LM2407"


def test_refuses_a_key_of_another_kind(tmp_path: Any) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(generate_private_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    path.chmod(0o600)
    with pytest.raises(Invalid) as caught:
        read_key(path, None)
    assert caught.value.code == "LM2407"


def test_refuses_what_is_no_file(tmp_path: Any) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    for path in (tmp_path / "absent", tmp_path, tmp_path / "pipe"):
        with pytest.raises(Invalid) as caught:
            read_key(path, None)
        assert caught.value.code == "LM2407"


def test_says_why_a_key_cannot_be_written(tmp_path: Any) -> None:
    with pytest.raises(Invalid) as caught:
        write_key(tmp_path / "no" / "key.pem", KEY, None)
    assert caught.value.code == "LM2407"
