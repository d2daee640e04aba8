"""Checkpoints: the size and root of a log, signed as a C2SP signed note, and cosigned by witnesses.

The text is the lines origin, size and base64(root); a signature line is ``— name base64(key hash ‖ signature)``. A
public key is written as a note verifier key: ``name+hash+base64(algorithm ‖ key)``. Three algorithms are read: Ed25519
over the text (0x01), and the timestamped cosignatures of tlog-cosignature by Ed25519 (0x04) and ML-DSA-44 (0x06). Our
log signs with the first one; a log that signs with the last one is read as well.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import enum
import hashlib
import re

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey, MLDSA44PublicKey

from mesh.problems import Invalid

PublicKey = Ed25519PublicKey | MLDSA44PublicKey
PrivateKey = Ed25519PrivateKey | MLDSA44PrivateKey
_TIME_BYTES = 8
_MAX_TIME = (1 << 63) - 1
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


class Algorithm(enum.IntEnum):
    """What a signature line is: the byte before the key in a verifier key (signed-note, tlog-cosignature)."""

    NOTE = 0x01
    COSIGNATURE = 0x04
    ML_DSA_44 = 0x06

    @property
    def is_timed(self) -> bool:
        """Whether the signature says when it was made."""
        return self is not Algorithm.NOTE


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class VerifierKey:
    """A named public key, of a log or of a witness."""

    name: str
    key: PublicKey
    algorithm: Algorithm = Algorithm.NOTE

    @classmethod
    def parse(cls, text: str) -> VerifierKey:
        """Read a note verifier key.

        Raises Invalid LM6030.
        """
        name, _, rest = text.removesuffix("\n").partition("+")
        digest, _, encoded = rest.partition("+")
        data = _decode(encoded) or b""
        try:
            algorithm = Algorithm(data[0])
            kind = MLDSA44PublicKey if algorithm is Algorithm.ML_DSA_44 else Ed25519PublicKey
            found = cls(name=name, key=kind.from_public_bytes(data[1:]), algorithm=algorithm)
        except (ValueError, IndexError) as err:
            raise Invalid("LM6030") from err
        if not _NAME.match(name) or found.hash.hex() != digest:
            raise Invalid("LM6030")
        return found

    @property
    def _data(self) -> bytes:
        return bytes([self.algorithm]) + self.key.public_bytes_raw()

    @property
    def hash(self) -> bytes:
        """The four bytes that name the key in signature lines."""
        return hashlib.sha256(self.name.encode() + b"\n" + self._data).digest()[:4]

    def __str__(self) -> str:
        return f"{self.name}+{self.hash.hex()}+{base64.b64encode(self._data).decode()}"

    def verifies(self, signature: bytes, text: str) -> bool:
        """Whether a signature over the text of a checkpoint holds."""
        at, rest = 0, signature
        if self.algorithm.is_timed:
            at, rest = int.from_bytes(signature[:_TIME_BYTES], "big"), signature[_TIME_BYTES:]
        if at > _MAX_TIME:
            return False
        try:
            self.key.verify(rest, _message(self.name, self.algorithm, text, at))
        except InvalidSignature:
            return False
        return True


def _message(name: str, algorithm: Algorithm, text: str, at: int) -> bytes:
    """What is signed: the text; or the text under its time; or, by ML-DSA-44, a structure of what it says."""
    if algorithm is Algorithm.NOTE:
        return text.encode()
    if algorithm is Algorithm.COSIGNATURE:
        return f"cosignature/v1\ntime {at}\n{text}".encode()
    said = _said(text)
    parts = [bytes([len(part)]) + part for part in (name.encode()[:255], said.origin.encode()[:255])]
    numbers = [number.to_bytes(8, "big") for number in (at, 0, said.size)]
    return b"subtree/v1\n\x00" + parts[0] + numbers[0] + parts[1] + numbers[1] + numbers[2] + said.root


def cosign(text: str, name: str, key: PrivateKey, *, at: int) -> str:
    """A cosignature line over the text of a checkpoint, made at a POSIX time in seconds.

    Raises Invalid LM6031 for a text that is no checkpoint's.
    """
    algorithm = Algorithm.COSIGNATURE if isinstance(key, Ed25519PrivateKey) else Algorithm.ML_DSA_44
    verifier = VerifierKey(name=name, key=key.public_key(), algorithm=algorithm)
    data = verifier.hash + at.to_bytes(_TIME_BYTES, "big") + key.sign(_message(name, algorithm, text, at))
    return f"— {name} {base64.b64encode(data).decode()}\n"


def cosigned_at(note: bytes, witness: VerifierKey) -> int | None:
    """When a witness cosigned a note, in POSIX seconds; None when it did not.

    EVERY line that carries the witness's name and key hash must verify.

    Raises Invalid LM6031 for a note that is none, LM6032 for a line of the witness that does not verify.
    """
    text, signatures = read_note(note)
    own = [data[4:] for name, data in signatures if name == witness.name and data[:4] == witness.hash]
    if not all(witness.verifies(found, text) for found in own):
        raise Invalid("LM6032", name=witness.name)
    return max((int.from_bytes(found[:_TIME_BYTES], "big") for found in own), default=None)


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
    text, signatures = read_note(note)
    # (2)
    own = [data[4:] for name, data in signatures if name == verifier.name and data[:4] == verifier.hash]
    if not own or not all(verifier.verifies(signature, text) for signature in own):
        raise Invalid("LM6032", name=verifier.name)
    # (3)
    found = _said(text)
    if found.origin != verifier.name:
        raise Invalid("LM6031", reason="it is not origin, size and root of this log")
    return found


def read_note(note: bytes) -> tuple[str, list[tuple[str, bytes]]]:
    """The text of a signed note, and of each signature line the name and the bytes; nothing is verified.

    Raises Invalid LM6031.
    """
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
    return text + "\n", [_signature_line(line) for line in rest[:-1].split("\n")]


def claimed(note: bytes) -> Checkpoint:
    """What a note says of which log, signed or not: to know whose key has to verify it.

    Raises Invalid LM6031.
    """
    return _said(read_note(note)[0])


def _said(text: str) -> Checkpoint:
    parts = text.split("\n")
    if len(parts) < 4 or not parts[0] or not _SIZE.match(parts[1]):
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


def _decode(encoded: str) -> bytes | None:
    """Base64 in its one canonical form: unused bits are zero, so that every changed character is seen."""
    try:
        data = base64.b64decode(encoded, validate=True)
    except (ValueError, binascii.Error):
        return None
    return data if base64.b64encode(data).decode() == encoded else None
