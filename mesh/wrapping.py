"""Secrets at rest: wrapped with a key that should not lie beside them.

A wrapped secret is ``version byte | nonce (12) | AES-256-GCM ciphertext``; its name is the associated data, so that
one wrapped secret cannot stand in for another. This module keeps nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import secrets
import tempfile

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from mesh.disk import sync
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
        _make_key_file(path)
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            secret = file.read(KEY_FILE_BYTES + 1)
    except OSError as err:
        raise Invalid("LM1202", path=str(path), reason=err.strerror or str(err)) from err
    if mode & 0o077:
        raise Invalid("LM1202", path=str(path), reason="others may read it")
    if len(secret) != KEY_FILE_BYTES:
        size = "more" if len(secret) > KEY_FILE_BYTES else f"{len(secret)} bytes"
        raise Invalid("LM1202", path=str(path), reason=f"it holds {size}")
    return WrappingKey(secret, beside_state=key_file is None)


def _make_key_file(path: pathlib.Path) -> None:
    """Make a key file whole and durable, or not at all: what it wraps is lost with it.

    Whoever links first wins; the other one reads the winner's key.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".wrap-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(secrets.token_bytes(KEY_FILE_BYTES))
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(name)
    finally:
        pathlib.Path(name).unlink()
    sync(path.parent)
