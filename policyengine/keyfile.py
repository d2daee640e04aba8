"""Reviewers' key files: Ed25519 as PKCS#8 PEM, readable by their owner alone, encrypted when a passphrase is given.

A rim: the only module of this package that touches key files. It asks nobody for a passphrase and signs nothing.
"""

from __future__ import annotations

import os
import pathlib
import stat

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from mesh.problems import Conflict, Invalid

LOCAL_KEY = "reviewer.key"
"""The name of a local installation's key file in its state directory."""

_MAX_KEY_FILE_BYTES = 64 * 1024


def write_key(path: pathlib.Path, key: Ed25519PrivateKey, passphrase: bytes | None) -> None:
    """Write a new key file with mode 0600. A file that is there is never overwritten.

    Raises Conflict (LM2408) when the file exists, Invalid (LM2407) when it cannot be made.
    """
    encryption: KeySerializationEncryption = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    text = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
    try:
        # O_EXCL and the mode together: no moment at which another user could open it, no symlink followed
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError as err:
        raise Conflict("LM2408", file=str(path)) from err
    except OSError as err:
        raise Invalid("LM2407", file=str(path), reason=err.strerror or str(err)) from err
    with os.fdopen(descriptor, "wb") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())


def is_encrypted(path: pathlib.Path) -> bool:
    """Whether the key file asks for a passphrase.

    Raises Invalid (LM2407, LM2409) when it cannot or must not be read.
    """
    return b"BEGIN ENCRYPTED PRIVATE KEY" in _read(path)


def read_key(path: pathlib.Path, passphrase: bytes | None) -> Ed25519PrivateKey:
    """Read a reviewer's key. A file that others can read is refused: its key is not one person's.

    Raises Invalid (LM2407, LM2409).
    """
    text = _read(path)
    protected = b"BEGIN ENCRYPTED PRIVATE KEY" in text
    try:
        key = load_pem_private_key(text, passphrase if protected else None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as err:
        reason = "the passphrase is missing or wrong" if protected else "it holds no PKCS#8 PEM private key"
        raise Invalid("LM2407", file=str(path), reason=reason) from err
    if not isinstance(key, Ed25519PrivateKey):
        raise Invalid("LM2407", file=str(path), reason="the key is not Ed25519")
    return key


def _read(path: pathlib.Path) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            # of the open file, not of the path: nobody swaps it between the look and the read
            mode = os.fstat(file.fileno()).st_mode
            if not stat.S_ISREG(mode):
                raise Invalid("LM2407", file=str(path), reason="it is no regular file")
            if mode & 0o077:
                raise Invalid("LM2409", file=str(path), mode=f"{stat.S_IMODE(mode):04o}")
            return file.read(_MAX_KEY_FILE_BYTES)
    except OSError as err:
        raise Invalid("LM2407", file=str(path), reason=err.strerror or str(err)) from err
