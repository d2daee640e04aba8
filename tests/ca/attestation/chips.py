"""A TPM in a few lines, for tests: keys as a TPM would show them, and what it would say with them."""

import dataclasses
import hashlib
import hmac
import struct

from cryptography.hazmat.decrepit.ciphers.modes import CFB
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

from tests.rsakeys import rsa_key

EK_ATTRIBUTES, AK_ATTRIBUTES = 0x000300B2, 0x00050072
EK_KEY = rsa_key()


def sized(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data


def ek_public(key: rsa.RSAPrivateKey = EK_KEY, attributes: int = EK_ATTRIBUTES) -> bytes:
    modulus = key.public_key().public_numbers().n.to_bytes(256, "big")
    head = struct.pack(">HHI", 1, 0xB, attributes) + sized(bytes(32))
    return sized(head + struct.pack(">HHHHHI", 6, 128, 0x43, 0x10, 2048, 0) + sized(modulus))


def ak_public(key: ec.EllipticCurvePrivateKey, attributes: int = AK_ATTRIBUTES) -> bytes:
    numbers = key.public_key().public_numbers()
    head = struct.pack(">HHI", 0x23, 0xB, attributes) + sized(b"")
    point = sized(numbers.x.to_bytes(32, "big")) + sized(numbers.y.to_bytes(32, "big"))
    return sized(head + struct.pack(">HHHHH", 0x10, 0x18, 0xB, 3, 0x10) + point)


def name_of(public: bytes) -> bytes:
    return b"\x00\x0b" + hashlib.sha256(public[2:]).digest()


def kdfa(key: bytes, label: bytes, context: bytes, bits: int) -> bytes:
    text = b"\0\0\0\1" + label + b"\0" + context + bits.to_bytes(4, "big")
    return hmac.digest(key, text, hashlib.sha256)[: bits // 8]


@dataclasses.dataclass
class Chip:
    """EK and AK of one chip."""

    ek: rsa.RSAPrivateKey = dataclasses.field(default=EK_KEY)
    ak: ec.EllipticCurvePrivateKey = dataclasses.field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    def activate(self, credential: bytes) -> bytes:
        """TPM2_ActivateCredential."""
        assert credential[:8] == bytes.fromhex("badcc0de00000001")
        size = int.from_bytes(credential[8:10], "big")
        blob, sealed_seed = credential[10 : 10 + size], credential[12 + size :]
        oaep = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), b"IDENTITY\0")
        seed = self.ek.decrypt(sealed_seed, oaep)
        outer, sealed = blob[2:34], blob[34:]
        name = name_of(ak_public(self.ak))
        assert outer == hmac.digest(kdfa(seed, b"INTEGRITY", b"", 256), sealed + name, hashlib.sha256)
        cipher = Cipher(algorithms.AES(kdfa(seed, b"STORAGE", name, 128)), CFB(bytes(16))).decryptor()
        return cipher.update(sealed)[2:]

    def quote(self, data: bytes, *, kind: int = 0x8018, magic: int = 0xFF544347) -> tuple[bytes, bytes]:
        found = struct.pack(">IH", magic, kind) + sized(name_of(ak_public(self.ak)))
        found += sized(hashlib.sha256(data).digest()) + bytes(25)
        found += struct.pack(">IHB", 1, 0xB, 3) + b"\xff\0\0" + sized(bytes(32))
        r, s = decode_dss_signature(self.ak.sign(found, ec.ECDSA(hashes.SHA256())))
        return found, struct.pack(">HH", 0x18, 0xB) + sized(r.to_bytes(32, "big")) + sized(s.to_bytes(32, "big"))
