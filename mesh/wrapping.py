"""Secrets at rest: wrapped with a key that should not lie beside them.

A wrapped secret is ``version byte | nonce (12) | AES-256-GCM ciphertext``; its name is the associated data, so that
one wrapped secret cannot stand in for another. This module keeps nothing.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import secrets

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from mesh.problems import Invalid

_VERSION = b"\x01"
_NONCE_BYTES = 12
KEY_FILE_BYTES = 32


@dataclasses.dataclass(frozen=True, slots=True)
class WrappingKey:
    """The key that wraps the others. ``beside_state`` says that whoever has the state has this key too."""

    secret: bytes = dataclasses.field(repr=False)
    beside_state: bool

    def wrap(self, name: str, plain: bytes, nonce: bytes) -> bytes:
        """Wrap a key under its name with a fresh nonce of 12 bytes."""
        return _VERSION + nonce + AESGCM(self._derived()).encrypt(nonce, plain, name.encode())

    def unwrap(self, name: str, wrapped: bytes) -> bytes:
        """Unwrap the key of a name.

        Raises Invalid LM1201 when the wrapping key is another one or the bytes were changed.
        """
        nonce, sealed = wrapped[1 : 1 + _NONCE_BYTES], wrapped[1 + _NONCE_BYTES :]
        if wrapped[:1] != _VERSION or len(nonce) != _NONCE_BYTES:
            raise Invalid("LM1201", name=name)
        try:
            return AESGCM(self._derived()).decrypt(nonce, sealed, name.encode())
        except InvalidTag as err:
            raise Invalid("LM1201", name=name) from err

    def _derived(self) -> bytes:
        return HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=b"limen/wrap/1").derive(self.secret)


def load_wrapping_key(folder: pathlib.Path, key_file: pathlib.Path | None) -> WrappingKey:
    """Read the wrapping key from a file, or from ``wrap.key`` in the state, which is made when it is missing.

    Raises Invalid LM1202 when the file cannot be read, is open to others or does not hold 32 bytes.
    """
    path = key_file or folder / "wrap.key"
    if key_file is None and not path.exists():
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(secrets.token_bytes(KEY_FILE_BYTES))
            file.flush()
            os.fsync(file.fileno())
    try:
        mode = path.stat().st_mode
        secret = path.read_bytes()
    except OSError as err:
        raise Invalid("LM1202", path=str(path), reason=err.strerror or str(err)) from err
    if mode & 0o077:
        raise Invalid("LM1202", path=str(path), reason="others may read it")
    if len(secret) != KEY_FILE_BYTES:
        raise Invalid("LM1202", path=str(path), reason=f"it holds {len(secret)} bytes")
    return WrappingKey(secret, beside_state=key_file is None)
