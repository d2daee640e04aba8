"""DSSE v1 envelopes with Ed25519: the form in which every signature of a person travels.

Follows the Dead Simple Signing Envelope, protocol v1.0.2: signatures are over the pre-authentication encoding
of type and payload, the `keyid` is only a hint, and a payload means nothing before its signatures verified.
This module holds no keys and gives no meaning to payloads.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import hashlib
import json
from collections.abc import Iterable, Sequence

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from mesh.problems import Invalid

MAX_PAYLOAD_BYTES = 1 << 20
MAX_SIGNATURES = 64
_PUBLIC_KEY_BYTES = 32
_SIGNATURE_BYTES = 64


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """One signature of an envelope. ``key_id`` is a hint and proves nothing."""

    key_id: str
    signature: bytes


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """A typed payload with its signatures. Read ``payload`` only after `signers` said who signed it."""

    payload_type: str
    payload: bytes
    signatures: tuple[Signature, ...]

    def to_json(self) -> dict[str, object]:
        """The envelope's JSON object (DSSE envelope.md)."""
        return {
            "payloadType": self.payload_type,
            "payload": _b64(self.payload),
            "signatures": [{"keyid": item.key_id, "sig": _b64(item.signature)} for item in self.signatures],
        }


def pae(payload_type: str, payload: bytes) -> bytes:
    """The pre-authentication encoding: `DSSEv1 LEN(type) type LEN(body) body` (protocol.md)."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def public_bytes(key: Ed25519PrivateKey | Ed25519PublicKey) -> bytes:
    """The 32 raw bytes of a key's public half."""
    public = key.public_key() if isinstance(key, Ed25519PrivateKey) else key
    return public.public_bytes(Encoding.Raw, PublicFormat.Raw)


def key_id(public: bytes) -> str:
    """The name of a key: `sha256:` and the hash of its DER SubjectPublicKeyInfo."""
    spki = Ed25519PublicKey.from_public_bytes(public).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return "sha256:" + hashlib.sha256(spki).hexdigest()


def sign(payload_type: str, payload: bytes, keys: Sequence[Ed25519PrivateKey]) -> Envelope:
    """Sign a payload with every key."""
    message = pae(payload_type, payload)
    return Envelope(
        payload_type=payload_type,
        payload=payload,
        signatures=tuple(Signature(key_id=key_id(public_bytes(key)), signature=key.sign(message)) for key in keys),
    )


def signers(envelope: Envelope, payload_type: str, keys: Iterable[bytes]) -> frozenset[bytes]:
    """Say which of the given public keys signed the envelope.

    1. The payload type is the expected one, else nobody signed *this*.
    2. A signature counts for ANY given key it verifies under; its `keyid` only chooses the first try.
    3. A key counts once, however many signatures it made; a signature of an unknown key counts for nobody.
    """
    # (1)
    if envelope.payload_type != payload_type:
        return frozenset()
    message = pae(envelope.payload_type, envelope.payload)
    by_id = {key_id(public): public for public in keys}
    found: set[bytes] = set()
    for item in envelope.signatures:
        # (2)
        hinted = by_id.get(item.key_id)
        tries = [hinted] if hinted is not None else []
        tries += [public for public in by_id.values() if public != hinted]
        for public in tries:
            if _verifies(public, item.signature, message):
                # (3) a set: the second signature of one key adds nothing
                found.add(public)
                break
    return frozenset(found)


def envelope_from_json(value: object) -> Envelope:
    """Read an envelope strictly: no unknown field, nothing missing, bounded sizes.

    Raises Invalid (LM2400) for anything else.
    """
    fields = exact_fields(value, ("payloadType", "payload", "signatures"), "LM2400")
    kind = fields["payloadType"]
    if not isinstance(kind, str) or not kind or not kind.isascii():
        raise Invalid("LM2400", reason="`payloadType` must be ASCII text")
    listed = fields["signatures"]
    if not isinstance(listed, list) or len(listed) > MAX_SIGNATURES:
        raise Invalid("LM2400", reason=f"`signatures` must be a list of at most {MAX_SIGNATURES}")
    found = []
    for row in listed:
        item = exact_fields(row, ("keyid", "sig"), "LM2400")
        if not isinstance(item["keyid"], str):
            raise Invalid("LM2400", reason="`keyid` must be text")
        signature = _unb64(item["sig"], "sig")
        if len(signature) != _SIGNATURE_BYTES:
            raise Invalid("LM2400", reason="an Ed25519 signature has 64 bytes")
        found.append(Signature(key_id=item["keyid"], signature=signature))
    payload = _unb64(fields["payload"], "payload")
    return Envelope(payload_type=kind, payload=payload, signatures=tuple(found))


def strict_json(data: bytes, code: str) -> object:
    """Parse JSON in which no key stands twice and no number is NaN or infinite.

    Raises Invalid with the given code.
    """

    def once(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a key stands twice in one object")
        return found

    def refuse(text: str) -> object:
        raise ValueError(f"`{text}` is no JSON number")

    try:
        value: object = json.loads(data.decode("utf-8"), object_pairs_hook=once, parse_constant=refuse)
    except (ValueError, RecursionError) as err:
        raise Invalid(code, reason=f"not strict JSON: {err}") from err
    return value


def exact_fields(value: object, names: Sequence[str], code: str) -> dict[str, object]:
    """Check that a value is an object with exactly these fields.

    Raises Invalid with the given code.
    """
    if not isinstance(value, dict):
        raise Invalid(code, reason="an object is expected")
    unknown = sorted(str(name) for name in value.keys() - set(names))
    missing = [name for name in names if name not in value]
    if unknown or missing:
        reason = f"unknown field `{unknown[0]}`" if unknown else f"field `{missing[0]}` is missing"
        raise Invalid(code, reason=reason)
    return value


def _verifies(public: bytes, signature: bytes, message: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except InvalidSignature:
        return False
    return True


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _unb64(value: object, name: str) -> bytes:
    """Decode base64, standard or URL-safe: the protocol lets signers use either."""
    if not isinstance(value, str) or len(value) > 2 * MAX_PAYLOAD_BYTES:
        raise Invalid("LM2400", reason=f"`{name}` must be base64 text of bounded size")
    try:
        return base64.b64decode(value.replace("-", "+").replace("_", "/"), validate=True)
    except (binascii.Error, ValueError) as err:
        raise Invalid("LM2400", reason=f"`{name}` is no base64: {err}") from err


def is_public_key(data: bytes) -> bool:
    """Whether the bytes can be an Ed25519 public key."""
    return len(data) == _PUBLIC_KEY_BYTES
