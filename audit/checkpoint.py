"""Checkpoints: the size and root of a log, signed as a C2SP signed note (Ed25519).

The text is the lines origin, size and base64(root); a signature line is ``— name base64(key hash ‖ signature)``. The
public key stands in `key.pub` as a note verifier key: ``name+hash+base64(0x01 ‖ key)``.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import hashlib
import re

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from mesh.problems import Invalid

_ALGORITHM = b"\x01"
_SIZE = re.compile(r"(0|[1-9][0-9]{0,18})\Z")
_NAME = re.compile(r"[^\s+\x00-\x1f\x7f]+\Z")
MAX_CHECKPOINT_BYTES = 64 * 1024


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What a log says of itself."""

    origin: str
    size: int
    root: bytes

    def text(self) -> str:
        """The text that is signed."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class VerifierKey:
    """A named public key."""

    name: str
    key: Ed25519PublicKey

    @classmethod
    def parse(cls, text: str) -> VerifierKey:
        """Read a note verifier key.

        Raises Invalid LM6030.
        """
        name, _, rest = text.removesuffix("\n").partition("+")
        digest, _, encoded = rest.partition("+")
        data = _decode(encoded) or b""
        try:
            found = cls(name=name, key=Ed25519PublicKey.from_public_bytes(data[1:]))
        except ValueError as err:
            raise Invalid("LM6030") from err
        if data[:1] != _ALGORITHM or not _NAME.match(name) or found.hash.hex() != digest:
            raise Invalid("LM6030")
        return found

    @property
    def hash(self) -> bytes:
        """The four bytes that name the key in signature lines."""
        data = self.name.encode() + b"\n" + _ALGORITHM + self.key.public_bytes_raw()
        return hashlib.sha256(data).digest()[:4]

    def __str__(self) -> str:
        encoded = base64.b64encode(_ALGORITHM + self.key.public_bytes_raw()).decode()
        return f"{self.name}+{self.hash.hex()}+{encoded}"


def sign_checkpoint(checkpoint: Checkpoint, key: Ed25519PrivateKey) -> bytes:
    """The signed note of a checkpoint; the key's name is the log's origin."""
    verifier = VerifierKey(name=checkpoint.origin, key=key.public_key())
    signature = verifier.hash + key.sign(checkpoint.text().encode())
    line = f"\n— {verifier.name} {base64.b64encode(signature).decode()}\n"
    return (checkpoint.text() + line).encode()


def read_checkpoint(note: bytes, verifier: VerifierKey) -> Checkpoint:
    """Read a checkpoint that a key signed.

    1. The note is text without control characters, an empty line, and signature lines; EVERY one is well-formed.
    2. SOME signature line carries the key's name and hash, and EVERY line that does verifies over the text.
    3. The text is origin, size and root, and the origin is the key's name.

    Raises Invalid LM6031 for (1) and (3), LM6032 for (2).
    """
    # (1)
    if len(note) > MAX_CHECKPOINT_BYTES:
        raise Invalid("LM6031", reason="it is too large")
    try:
        text, empty, rest = note.decode("utf-8").partition("\n\n")
    except UnicodeDecodeError as err:
        raise Invalid("LM6031", reason="it is no UTF-8 text") from err
    if not empty or not rest.endswith("\n"):
        raise Invalid("LM6031", reason="it has no signatures")
    if any(found < " " and found != "\n" for found in text):
        raise Invalid("LM6031", reason="it has control characters")
    text += "\n"
    signatures = [_signature_line(line) for line in rest[:-1].split("\n")]
    # (2)
    own = [data[4:] for name, data in signatures if name == verifier.name and data[:4] == verifier.hash]
    if not own or not all(_verifies(signature, text, verifier) for signature in own):
        raise Invalid("LM6032", name=verifier.name)
    # (3)
    parts = text.split("\n")
    if len(parts) < 4 or not _SIZE.match(parts[1]) or parts[0] != verifier.name:
        raise Invalid("LM6031", reason="it is not origin, size and root of this log")
    root = _decode(parts[2])
    if root is None or len(root) != 32:
        raise Invalid("LM6031", reason="its root is no SHA-256 hash in base64")
    return Checkpoint(origin=parts[0], size=int(parts[1]), root=root)


def _signature_line(line: str) -> tuple[str, bytes]:
    """The name and the bytes (key hash and signature) of a signature line."""
    mark, _, rest = line.partition(" ")
    name, _, encoded = rest.partition(" ")
    data = _decode(encoded)
    if mark != "—" or not _NAME.match(name) or data is None or len(data) < 5:
        raise Invalid("LM6031", reason="a signature line is a dash, a name and base64")
    return name, data


def _verifies(signature: bytes, text: str, verifier: VerifierKey) -> bool:
    try:
        verifier.key.verify(signature, text.encode())
    except InvalidSignature:
        return False
    return True


def _decode(encoded: str) -> bytes | None:
    """Base64 in its one canonical form: unused bits are zero, so that every changed character is seen."""
    try:
        data = base64.b64decode(encoded, validate=True)
    except (ValueError, binascii.Error):
        return None
    return data if base64.b64encode(data).decode() == encoded else None
