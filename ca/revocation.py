"""Certificate revocation lists (RFC 5280 §5) and OCSP answers (RFC 6960), from values. No database, no network."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from ca.keys import hash_for
from ca.mint import Issuer
from ca.slotstore import Revocation
from mesh.problems import Invalid

CRL_LIFE = dt.timedelta(hours=24)
OCSP_LIFE = dt.timedelta(minutes=5)
BACKDATING = dt.timedelta(minutes=5)
MAX_OCSP_BYTES = 4096


def build_crl(issuer: Issuer, revocations: Sequence[Revocation], *, number: int, now: dt.datetime) -> bytes:
    """Sign the list of what an authority signed and what was revoked; DER.

    ``number`` grows with every list of this issuer (RFC 5280 §5.2.3). Valid for 24 hours.
    """
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.certificate.subject)
        .last_update(now - BACKDATING)
        .next_update(now + CRL_LIFE)
        .add_extension(x509.CRLNumber(number), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(
                issuer.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
            ),
            critical=False,
        )
    )
    for found in revocations:
        entry = x509.RevokedCertificateBuilder().serial_number(int(found.serial, 16)).revocation_date(found.revoked)
        builder = builder.add_revoked_certificate(entry.build())
    return builder.sign(issuer.key, hash_for(issuer.key)).public_bytes(Encoding.DER)


def stale_at(crl: bytes) -> dt.datetime | None:
    """When a list has half of its life left; None when it says no end."""
    ends = x509.load_der_x509_crl(crl).next_update_utc
    return None if ends is None else ends - CRL_LIFE / 2


def is_fresh(crl: bytes, revocations: Sequence[Revocation], now: dt.datetime) -> bool:
    """Whether a list says exactly what is revoked and has half of its life left."""
    found = x509.load_der_x509_crl(crl)
    listed = {item.serial_number for item in found}
    stale = stale_at(crl)
    return stale is not None and now < stale and listed == {int(item.serial, 16) for item in revocations}


def answer_ocsp(
    request: bytes,
    issuers: Sequence[Issuer],
    look_up: Callable[[Issuer, int], tuple[bool, dt.datetime | None]],
    now: dt.datetime,
) -> bytes:
    """Answer an OCSP request for one certificate; DER, whatever happens.

    ``look_up`` says of an issuer's serial number whether it was issued, and when it was revoked. The answer is good,
    revoked, or unknown for one that was never issued; UNAUTHORIZED for an issuer that is none of ours, and
    MALFORMED_REQUEST for what cannot be read.
    """
    status = ocsp.OCSPResponseStatus
    if len(request) > MAX_OCSP_BYTES:
        return _failed(status.MALFORMED_REQUEST)
    try:
        asked = ocsp.load_der_ocsp_request(request)
        serial, algorithm = asked.serial_number, asked.hash_algorithm
        name_hash, key_hash = asked.issuer_name_hash, asked.issuer_key_hash
        extensions = list(asked.extensions)
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.DuplicateExtension, x509.InvalidVersion):
        return _failed(status.MALFORMED_REQUEST)
    for issuer in issuers:
        if not _is_of(issuer, name_hash, key_hash, algorithm):
            continue
        builder = ocsp.OCSPResponseBuilder()
        issued, revoked = look_up(issuer, serial)
        state = ocsp.OCSPCertStatus.GOOD if issued else ocsp.OCSPCertStatus.UNKNOWN
        if revoked is not None:
            # also of what a restored backup does not know: its revocation was taken over from agents
            state = ocsp.OCSPCertStatus.REVOKED
        made = builder.add_response_by_hash(
            issuer_name_hash=name_hash,
            issuer_key_hash=key_hash,
            serial_number=serial,
            algorithm=algorithm,
            cert_status=state,
            this_update=now - BACKDATING,
            next_update=now + OCSP_LIFE,
            revocation_time=revoked,
            revocation_reason=None,
        ).responder_id(ocsp.OCSPResponderEncoding.HASH, issuer.certificate)
        for extension in extensions:
            if isinstance(extension.value, x509.OCSPNonce):
                made = made.add_extension(extension.value, critical=False)
        return made.sign(issuer.key, hash_for(issuer.key)).public_bytes(Encoding.DER)
    return _failed(status.UNAUTHORIZED)


def _is_of(issuer: Issuer, name_hash: bytes, key_hash: bytes, algorithm: hashes.HashAlgorithm) -> bool:
    """Whether a request's hashes name an issuer: of its name, and of its key's bits (RFC 6960 §4.1.1)."""
    digest = hashes.Hash(algorithm)
    digest.update(issuer.certificate.subject.public_bytes())
    # the library hashes the key; the certificate that it is asked for plays no part in that
    probe = ocsp.OCSPRequestBuilder().add_certificate(issuer.certificate, issuer.certificate, algorithm).build()
    return digest.finalize() == name_hash and probe.issuer_key_hash == key_hash


def _failed(status: ocsp.OCSPResponseStatus) -> bytes:
    return ocsp.OCSPResponseBuilder.build_unsuccessful(status).public_bytes(Encoding.DER)


def read_crl(der: bytes) -> x509.CertificateRevocationList:
    """Read a list.

    Raises Invalid LM1305 for bytes that are none.
    """
    try:
        return x509.load_der_x509_crl(der)
    except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion) as err:
        raise Invalid("LM1305") from err
