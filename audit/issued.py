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
    name = wanted.lower().lstrip("0") or "0"
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

    def look(self, certificate: x509.Certificate) -> Seen:
        """Say of a certificate what the log says.

        1. Its hash stands in a record: it is one of ours, and was given out.
        2. One of our signing certificates signed it: our key was used outside the log.
        3. Else it is somebody else's.
        """
        digest = certificate.fingerprint(hashes.SHA256()).hex()
        index = self._known.get(digest)
        signer = self._signer(certificate)
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


def read_certificates(data: bytes) -> Iterator[x509.Certificate]:
    """The certificates of a file: PEM, or one in DER.

    Raises Invalid LM6057 for bytes that hold none.
    """
    if len(data) > MAX_CERTIFICATE_BYTES:
        raise Invalid("LM6057", reason="it is larger than 1 MiB")
    try:
        if b"-----BEGIN" in data:
            yield from x509.load_pem_x509_certificates(data)
        else:
            yield x509.load_der_x509_certificate(data)
    except ValueError as err:
        raise Invalid("LM6057", reason="it is neither PEM nor DER") from err


def _name(certificate: x509.Certificate) -> str:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        found = names.get_values_for_type(x509.UniformResourceIdentifier)
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        return ""
    return found[0] if found else ""
