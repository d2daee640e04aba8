"""The few TPM 2.0 structures that node attestation reads from bytes, and TPM2_MakeCredential (TPM 2.0 Part 1 §24).

Big-endian, with two-byte lengths before buffers (TPM2B). What is read is read to its end: trailing bytes are an error.
"""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import struct

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.decrepit.ciphers.modes import CFB
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

ALG_RSA, ALG_SHA256, ALG_AES, ALG_CFB, ALG_NULL, ALG_ECC = 0x0001, 0x000B, 0x0006, 0x0043, 0x0010, 0x0023
ALG_RSASSA, ALG_RSAPSS, ALG_ECDSA = 0x0014, 0x0016, 0x0018
FIXED_TPM, FIXED_PARENT, SENSITIVE_ORIGIN = 1 << 1, 1 << 4, 1 << 5
RESTRICTED, DECRYPT, SIGN = 1 << 16, 1 << 17, 1 << 18
_P256 = 0x0003
_MAGIC, _QUOTE = 0xFF544347, 0x8018
MAX_BYTES = 4096


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Public:
    """A key of a TPM: its attributes, its algorithm and its name (the hash by which a TPM knows it)."""

    attributes: int
    name: bytes
    key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey
    scheme: int
    symmetric_bits: int


class Reader:
    """Reads numbers and buffers from the front of bytes."""

    def __init__(self, data: bytes) -> None:
        if len(data) > MAX_BYTES:
            raise ValueError("a TPM structure is shorter")
        self._data, self._at = data, 0

    def take(self, size: int) -> bytes:
        """So many bytes.

        Raises ValueError when there are fewer.
        """
        found = self._data[self._at : self._at + size]
        if len(found) != size:
            raise ValueError("a TPM structure ends too early")
        self._at += size
        return found

    def u16(self) -> int:
        """A number of two bytes."""
        return int.from_bytes(self.take(2), "big")

    def u32(self) -> int:
        """A number of four bytes."""
        return int.from_bytes(self.take(4), "big")

    def buffer(self) -> bytes:
        """A TPM2B: two bytes of length, then so many bytes."""
        return self.take(self.u16())

    def end(self) -> None:
        """Check that nothing is left.

        Raises ValueError.
        """
        if self._at != len(self._data):
            raise ValueError("a TPM structure has trailing bytes")


def read_public(data: bytes) -> Public:
    """Read a TPM2B_PUBLIC: an RSA key, or an EC key on P-256, whose name is made with SHA-256.

    Raises ValueError with a sentence.
    """
    outer = Reader(data)
    area = outer.buffer()
    outer.end()
    found = Reader(area)
    kind, name_hash, attributes = found.u16(), found.u16(), found.u32()
    found.buffer()  # the policy: only the TPM itself has a use for it
    if name_hash != ALG_SHA256:
        raise ValueError("a TPM key's name is made with SHA-256")
    symmetric = found.u16()
    symmetric_bits = 0
    if symmetric == ALG_AES:
        symmetric_bits, mode = found.u16(), found.u16()
        if mode != ALG_CFB:
            raise ValueError("a TPM key's inner cipher is AES-CFB")
    elif symmetric != ALG_NULL:
        raise ValueError("a TPM key's inner cipher is AES-CFB")
    scheme = found.u16()
    if scheme != ALG_NULL and found.u16() != ALG_SHA256:
        raise ValueError("a TPM key signs with SHA-256")
    key = _rsa(found) if kind == ALG_RSA else _ecc(found) if kind == ALG_ECC else None
    if key is None:
        raise ValueError("a TPM key is RSA, or EC on P-256")
    found.end()
    name = ALG_SHA256.to_bytes(2, "big") + hashlib.sha256(area).digest()
    return Public(attributes=attributes, name=name, key=key, scheme=scheme, symmetric_bits=symmetric_bits)


def _rsa(found: Reader) -> rsa.RSAPublicKey:
    bits, exponent = found.u16(), found.u32() or 65537
    modulus = int.from_bytes(found.buffer(), "big")
    if bits not in {2048, 3072, 4096} or modulus.bit_length() != bits or exponent != 65537:
        raise ValueError("a TPM's RSA key has 2048, 3072 or 4096 bits")
    return rsa.RSAPublicNumbers(exponent, modulus).public_key()


def _ecc(found: Reader) -> ec.EllipticCurvePublicKey:
    curve = found.u16()
    if found.u16() != ALG_NULL:
        found.u16()
    x, y = (int.from_bytes(found.buffer(), "big") for _ in range(2))
    if curve != _P256:
        raise ValueError("a TPM's EC key is on P-256")
    return ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Quote:
    """What a TPM said in a quote: the caller's bytes, and the digest over the selected registers."""

    extra: bytes
    signer: bytes
    registers: bytes
    digest: bytes


def read_quote(data: bytes) -> Quote:
    """Read a TPMS_ATTEST that is a quote.

    Raises ValueError for anything that a TPM did not make itself, or that is of another kind.
    """
    found = Reader(data)
    if found.u32() != _MAGIC:
        raise ValueError("a TPM did not make this quote")
    if found.u16() != _QUOTE:
        raise ValueError("this is no quote")
    signer, extra = found.buffer(), found.buffer()
    found.take(17)  # clock, resets, restarts, whether it is safe
    found.take(8)  # firmware
    before = found.u32()
    if before > 8:
        raise ValueError("a quote selects fewer banks")
    selection = bytearray(before.to_bytes(4, "big"))
    for _ in range(before):
        selection += found.take(2)
        size = found.take(1)
        selection += size + found.take(size[0])
    digest = found.buffer()
    found.end()
    return Quote(extra=extra, signer=signer, registers=bytes(selection), digest=digest)


def is_signed(public: Public, signature: bytes, data: bytes) -> bool:
    """Whether a TPMT_SIGNATURE over bytes is a key's."""
    try:
        found = Reader(signature)
        scheme, digest = found.u16(), found.u16()
        if digest != ALG_SHA256:
            return False
        key = public.key
        if scheme == ALG_ECDSA and isinstance(key, ec.EllipticCurvePublicKey):
            r, s = (int.from_bytes(found.buffer(), "big") for _ in range(2))
            found.end()
            key.verify(encode_dss_signature(r, s), data, ec.ECDSA(hashes.SHA256()))
        elif scheme in {ALG_RSASSA, ALG_RSAPSS} and isinstance(key, rsa.RSAPublicKey):
            text = found.buffer()
            found.end()
            pss = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=padding.PSS.AUTO)
            key.verify(text, data, padding.PKCS1v15() if scheme == ALG_RSASSA else pss, hashes.SHA256())
        else:
            return False
    except (InvalidSignature, ValueError):
        return False
    return True


def make_credential(endorsement: Public, name: bytes, secret: bytes, seed: bytes) -> bytes:
    """Seal a secret so that only the TPM with this endorsement key opens it, and only with the named key loaded.

    1. The seed (32 fresh bytes) is encrypted to the endorsement key: OAEP with SHA-256 and the label IDENTITY.
    2. The secret is encrypted with a key derived from seed and name: AES-CFB.
    3. An HMAC over it and the name, with another key derived from the seed, stands before it.

    Returns TPM2B_ID_OBJECT and TPM2B_ENCRYPTED_SECRET behind the head that tpm2-tools reads. Raises ValueError for an
    endorsement key that is not RSA with AES.
    """
    if not isinstance(endorsement.key, rsa.RSAPublicKey) or endorsement.symmetric_bits not in {128, 256}:
        raise ValueError("an endorsement key is RSA with AES")
    # (1)
    oaep = padding.OAEP(mgf=padding.MGF1(hashes.SHA256()), algorithm=hashes.SHA256(), label=b"IDENTITY\0")
    sealed_seed = endorsement.key.encrypt(seed, oaep)
    # (2)
    storage = _kdfa(seed, b"STORAGE", name, endorsement.symmetric_bits)
    cipher = Cipher(algorithms.AES(storage), CFB(bytes(16))).encryptor()
    sealed = cipher.update(_buffer(secret)) + cipher.finalize()
    # (3)
    outer = hmac.digest(_kdfa(seed, b"INTEGRITY", b"", 256), sealed + name, hashlib.sha256)
    blob = _buffer(_buffer(outer) + sealed)
    return struct.pack(">II", 0xBADCC0DE, 1) + blob + _buffer(sealed_seed)


def _kdfa(key: bytes, label: bytes, context: bytes, bits: int) -> bytes:
    """TPM 2.0 Part 1 §11.4.10.2 for one round of HMAC-SHA-256."""
    text = (1).to_bytes(4, "big") + label + b"\0" + context + bits.to_bytes(4, "big")
    return hmac.digest(key, text, hashlib.sha256)[: bits // 8]


def _buffer(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data
