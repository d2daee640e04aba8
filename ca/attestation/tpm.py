"""Node attestation by TPM 2.0: this very chip holds the key that signed, and a manufacturer or an operator knows it.

Two turns. The agent shows its endorsement key (EK) and an attestation key (AK); the server seals a secret to the EK
that opens only beside that AK. The agent opens it and has the AK quote the statement: both happen in one chip.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import hmac

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ca.attestation import tpmwire
from ca.attestation.certificates import verify_path
from ca.attestation.evidence import Attested, collect
from ca.attestation.tpmwire import Public
from mesh.problems import Forbidden

FIELDS = ("tpm-ek", "tpm-ek-issuer", "tpm-pcr-digest")
DEFAULT_NODE = "{tpm-ek}"
_EK = tpmwire.FIXED_TPM | tpmwire.FIXED_PARENT | tpmwire.SENSITIVE_ORIGIN | tpmwire.RESTRICTED | tpmwire.DECRYPT
_AK = tpmwire.FIXED_TPM | tpmwire.FIXED_PARENT | tpmwire.SENSITIVE_ORIGIN | tpmwire.RESTRICTED | tpmwire.SIGN


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Tpm:
    """An attestor by TPM: EKs that ``authorities`` certified, or whose hashes (SHA-256 of SPKI) are listed."""

    name: str
    node: str
    authorities: tuple[bytes, ...] = ()
    ek_hashes: frozenset[str] = frozenset()
    type: str = "tpm"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """What a TPM shows: EK and AK as TPM2B_PUBLIC, and the EK's certificate, DER, empty without one."""

    ek: bytes
    ak: bytes
    certificate: bytes

    @property
    def purpose(self) -> bytes:
        """What a challenge is bound to: these keys and no others."""
        return b"tpm\0" + hashlib.sha256(self.ek).digest() + hashlib.sha256(self.ak).digest()


def check_keys(attestor: Tpm, keys: Keys, now: dt.datetime) -> tuple[Public, Public, tuple[tuple[str, str], ...]]:
    """Check whose TPM it is; return EK, AK and facts.

    1. The EK can only decrypt, the AK only sign what the TPM itself made; both were made in the TPM and never leave it.
    2. The EK's hash is listed, or its certificate leads to a configured authority and is of exactly this key.

    Raises Forbidden LM1247.
    """
    try:
        # (1)
        ek, ak = tpmwire.read_public(keys.ek), tpmwire.read_public(keys.ak)
        if ek.attributes & _EK != _EK or ek.attributes & tpmwire.SIGN:
            raise ValueError("the endorsement key is none: its attributes are others")
        if ak.attributes & _AK != _AK or ak.attributes & tpmwire.DECRYPT:
            raise ValueError("the attestation key could sign what the TPM did not make")
        # (2)
        spki = ek.key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        digest = hashlib.sha256(spki).hexdigest()
        issuer = None
        if digest not in attestor.ek_hashes:
            if not keys.certificate or not attestor.authorities:
                raise ValueError(f"the endorsement key {digest} is not listed, and has no certificate")
            leaf = verify_path([keys.certificate], attestor.authorities, now)
            if leaf.public_key() != ek.key:
                raise ValueError("the endorsement certificate is of another key")
            issuer = _common_name(leaf.issuer)
        facts = collect({"tpm-ek": digest, "tpm-ek-issuer": issuer})
    except ValueError as err:
        raise Forbidden("LM1247", attestor=attestor.name, reason=str(err)) from err
    return ek, ak, facts


def challenge(attestor: Tpm, keys: Keys, *, secret: bytes, seed: bytes, now: dt.datetime) -> bytes:
    """Seal a secret for a TPM; ``seed`` is 32 fresh bytes. Raises Forbidden LM1247 as `check_keys` does."""
    ek, ak, _ = check_keys(attestor, keys, now)
    try:
        return tpmwire.make_credential(ek, ak.name, secret, seed)
    except ValueError as err:
        raise Forbidden("LM1247", attestor=attestor.name, reason=str(err)) from err


def verify(
    attestor: Tpm,
    *,
    keys: Keys,
    secret: bytes,
    expected: bytes,
    quote: bytes,
    signature: bytes,
    data: bytes,
    now: dt.datetime,
) -> Attested:
    """Verify what a TPM answered.

    1. It is the TPM of the challenge, and still one that is let in.
    2. It opened the challenge: EK and AK are in one TPM.
    3. The AK signed the quote, and the quote holds the hash of the statement.

    Raises Forbidden LM1247.
    """
    # (1)
    _, ak, facts = check_keys(attestor, keys, now)
    # (2)
    if not hmac.compare_digest(secret, expected):
        raise Forbidden("LM1247", attestor=attestor.name, reason="the challenge was not opened")
    # (3)
    try:
        found = tpmwire.read_quote(quote)
    except ValueError as err:
        raise Forbidden("LM1247", attestor=attestor.name, reason=str(err)) from err
    if not tpmwire.is_signed(ak, signature, quote):
        raise Forbidden("LM1247", attestor=attestor.name, reason="the quote is not signed with the attestation key")
    if not hmac.compare_digest(found.extra, hashlib.sha256(data).digest()):
        raise Forbidden("LM1247", attestor=attestor.name, reason="the quote is of another nonce")
    return Attested(facts=(*facts, ("node:tpm-pcr-digest", found.digest.hex())))


def _common_name(name: x509.Name) -> str | None:
    found = name.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return str(found[0].value) if found else None
