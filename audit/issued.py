"""What the log says of issued SVIDs: where one was recorded, and which certificates our keys signed outside of it.

Every SVID is a record before it leaves the server (its serial number or token id, and its hash), and so is every
signing certificate, whole. A certificate that one of those signed and that no record names was made by somebody else
with our key. Reads records; fetches and signs nothing.
"""

from __future__ import annotations

import base64
import dataclasses
import enum
import hashlib
import json
from collections.abc import Iterable, Iterator
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding

from mesh.certpath import read_pem
from mesh.crl import UNREADABLE
from mesh.der import wrap
from mesh.problems import Invalid, NotFound

MAX_CERTIFICATE_BYTES = 1 << 20


class Standing(enum.StrEnum):
    """What the log says of a certificate."""

    LOGGED = "logged"
    NOT_LOGGED = "not-logged"
    FOREIGN = "foreign"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A certificate and its standing; ``index`` is its record's, ``authority`` the one that signed it."""

    standing: Standing
    serial: str
    sha256: str
    spiffe_id: str
    index: int | None
    authority: str


def find_issuance(records: Iterable[tuple[int, bytes]], wanted: str) -> tuple[int, dict[str, Any]]:
    """The record of a serial number (hexadecimal) or token id: its index, and what it says.

    Raises NotFound LM6056 when the log has none.
    """
    wanted = wanted.strip()
    name = wanted.replace(":", "").lower().lstrip("0") or "0"
    needles = [json.dumps(item).encode() for item in {wanted, name}]
    for index, data in records:
        # most records are something else: nothing is parsed before the bytes are there
        if any(needle in data for needle in needles):
            row = json.loads(data)
            if row.get("serial") in {wanted, name} or row.get("jti") == wanted:
                return index, row
    raise NotFound("LM6056", given=wanted[:200])


class Watch:
    """The issued SVIDs and the signing certificates of a log."""

    def __init__(self, records: Iterable[tuple[int, bytes]]) -> None:
        """Read the log once: about 150 bytes are kept for each SVID."""
        self._known: dict[str, int] = {}
        self._authorities: dict[str, x509.Certificate] = {}
        for index, data in records:
            if b'"sha256"' not in data and b'"certificate"' not in data:
                continue
            row = json.loads(data)
            digest, certificate = row.get("sha256"), row.get("certificate")
            if isinstance(digest, str) and row["kind"] in {"issuance", "agent"}:
                self._known[digest] = index
            if isinstance(certificate, str) and row["kind"] == "ca":
                der = base64.b64decode(certificate)
                self._authorities[str(row["authority"])] = x509.load_der_x509_certificate(der)
                self._known[hashlib.sha256(der).hexdigest()] = index
                for other in row.get("crossed", ()):
                    # the first record of it is the one that made it
                    self._known.setdefault(hashlib.sha256(base64.b64decode(other)).hexdigest(), index)

    def look(self, certificate: x509.Certificate) -> Seen:
        """Say of a certificate what the log says.

        1. The hash of it, or of another spelling of its signature, stands in a record: it is ours, and was given out.
        2. One of our signing certificates signed it: our key was used outside the log.
        3. Else it is somebody else's.
        """
        digest = certificate.fingerprint(hashes.SHA256()).hex()
        index = self._known.get(digest)
        signer = self._signer(certificate)
        if index is None and signer:
            found = (hashlib.sha256(der).hexdigest() for der in _spellings(certificate, self._authorities[signer]))
            index = next((self._known[item] for item in found if item in self._known), None)
        # (1)
        standing = Standing.LOGGED if index is not None else Standing.NOT_LOGGED
        # (2), (3)
        if index is None and not signer:
            standing = Standing.FOREIGN
        return Seen(
            standing=standing,
            serial=f"{certificate.serial_number:x}",
            sha256=digest,
            spiffe_id=_name(certificate),
            index=index,
            authority=signer,
        )

    def _signer(self, certificate: x509.Certificate) -> str:
        for name, authority in self._authorities.items():
            try:
                certificate.verify_directly_issued_by(authority)
            except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
                continue
            return name
        return ""


def _spellings(certificate: x509.Certificate, signer: x509.Certificate) -> Iterator[bytes]:
    """What one certificate may look like without the signer's key: its signature is not part of what is signed.

    Whoever has a certificate can make another of the same content that verifies: with unused bits in the BIT STRING,
    and for ECDSA with n - s in the place of s. Neither says that a key was stolen.
    """
    der, signed = certificate.public_bytes(Encoding.DER), certificate.tbs_certificate_bytes
    algorithm = der[der.index(signed) + len(signed) :]
    # an algorithm identifier is shorter than 128 bytes (RFC 5280 §4.1.1.2)
    algorithm = algorithm[: 2 + algorithm[1]]
    signatures, key = [certificate.signature], signer.public_key()
    if isinstance(key, ec.EllipticCurvePublicKey):
        r, s = decode_dss_signature(certificate.signature)
        signatures.append(encode_dss_signature(r, key.curve.group_order - s))
    for signature in signatures:
        yield wrap(0x30, signed + algorithm + wrap(0x03, b"\0" + signature))


def read_certificates(data: bytes) -> Iterator[x509.Certificate]:
    """The certificates of a file: PEM, or one in DER.

    Raises Invalid LM6057 for bytes that hold none.
    """
    if len(data) > MAX_CERTIFICATE_BYTES:
        raise Invalid("LM6057", reason="it is larger than 1 MiB")
    try:
        found = read_pem(data) if b"-----BEGIN" in data else [x509.load_der_x509_certificate(data)]
        for certificate in found:
            # parsing is lazy: what is wrong inside must show here
            _ = certificate.extensions, certificate.serial_number, certificate.subject, certificate.public_key()
    except UNREADABLE as err:
        raise Invalid("LM6057", reason="it is neither PEM nor DER") from err
    yield from found


def _name(certificate: x509.Certificate) -> str:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        found = names.get_values_for_type(x509.UniformResourceIdentifier)
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        return ""
    return found[0] if found else ""
