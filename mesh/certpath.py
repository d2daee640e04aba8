"""Paths from a certificate up to an authority (RFC 5280 §6), as SPIFFE narrows them: step 8 of the X.509-SVID verifier.

A signature between signing certificates is checked once and remembered, by digest and in bounded space, so that a new
leaf under a known issuer costs one signature. Pinned intermediates and revocation lists are honoured on every step of
a path. This module knows nothing of leaves but their ID.
"""

from __future__ import annotations

import datetime as dt
import functools
import hashlib
import re
import threading
from collections.abc import Iterator, Sequence

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtensionOID

from mesh.bundle import TrustBundle
from mesh.crl import UNREADABLE, is_listed
from mesh.problems import Invalid
from mesh.spiffe import SpiffeId, SpiffeIdError

MAX_CERTIFICATE_BYTES = 64 * 1024
MIN_RSA_BITS = 2048
MAX_SIGNATURES_KEPT = 4096
Window = tuple[dt.datetime, dt.datetime]
_CURVES = ("secp256r1", "secp384r1", "secp521r1")
_HASHES = (hashes.SHA256, hashes.SHA384, hashes.SHA512)
_OTHER_KEYS = (ed25519.Ed25519PublicKey, mldsa.MLDSA44PublicKey, mldsa.MLDSA65PublicKey, mldsa.MLDSA87PublicKey)
_CONSTRAINT = re.compile(r"\.?[a-z0-9_-]+(\.[a-z0-9_-]+)*\Z")
_HANDLED = frozenset(
    {
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
        ExtensionOID.NAME_CONSTRAINTS,
        ExtensionOID.SUBJECT_KEY_IDENTIFIER,
        ExtensionOID.AUTHORITY_KEY_IDENTIFIER,
    }
)


class SvidError(Invalid):
    """A chain that is no X.509-SVID of a trusted domain; ``code`` names the rule that it breaks."""


def read_pem(data: bytes) -> list[x509.Certificate]:
    """The certificates of a PEM text, not looked into.

    Raises ValueError for a text without any, or with one that the library refuses for whatever reason.
    """
    try:
        return x509.load_pem_x509_certificates(data)
    except UNREADABLE as err:
        raise ValueError("it holds no PEM certificates that can be read") from err


def parse(der: bytes) -> x509.Certificate:
    """Read one certificate to its last field.

    Raises SvidError LM1010.
    """
    if len(der) > MAX_CERTIFICATE_BYTES:
        raise SvidError("LM1010", reason="a certificate is larger than 64 KiB")
    try:
        found = x509.load_der_x509_certificate(der)
        # parsing is lazy: what is wrong inside must show here
        _ = found.version, found.extensions, found.serial_number, found.subject, found.issuer
        found.public_key()
    except UNREADABLE as err:
        raise SvidError("LM1010", reason="a certificate does not parse") from err
    if found.serial_number <= 0:
        raise SvidError("LM1010", reason="a serial number is positive (RFC 5280 §4.1.2.2)")
    if found.version is not x509.Version.v3:
        raise SvidError("LM1010", reason="a certificate is not X.509 v3")
    if not ends_whole(der, found.signature):
        raise SvidError("LM1010", reason="a signature has unused bits")
    return found


def ends_whole(der: bytes, signature: bytes) -> bool:
    """Whether a certificate or request ends in its signature, all bits of it (X.690 §8.6.2).

    The number of unused bits stands outside what is signed, and pyca passes over it: without this, the bytes of a
    certificate could be changed, and its hash with them, while it still verifies.
    """
    return der.endswith(b"\0" + signature)


@functools.lru_cache(maxsize=64)
def readable(authorities: tuple[bytes, ...]) -> tuple[x509.Certificate, ...]:
    """The authorities that parse: one that nobody can read vouches for nobody, and does not silence the others."""
    found = []
    for der in authorities:
        try:
            found.append(parse(der))
        except SvidError:
            continue
    return tuple(found)


parse_signer = functools.lru_cache(maxsize=256)(parse)


def uris(certificate: x509.Certificate) -> list[str]:
    """The URI SANs."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return names.get_values_for_type(x509.UniformResourceIdentifier)


def usage(certificate: x509.Certificate) -> x509.Extension[x509.KeyUsage] | None:
    """The key usage extension."""
    try:
        return certificate.extensions.get_extension_for_class(x509.KeyUsage)
    except x509.ExtensionNotFound:
        return None


def constraints(certificate: x509.Certificate) -> x509.BasicConstraints | None:
    """The basic constraints."""
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound:
        return None


def climb(
    leaf: x509.Certificate,
    presented: Sequence[x509.Certificate],
    bundle: TrustBundle,
    spiffe_id: SpiffeId,
    now: dt.datetime,
) -> Window:
    """Step 8 of `verify_x509_svid`: climb from the leaf, from issuers to their issuers, to an authority.

    The presented order is not trusted, and ALL ways up are tried: a root that was renewed with its key stands beside
    the old one, and so does a cross-signed intermediate. The search is bounded by looking at each certificate once at
    each depth. When no way leads up, the first rule that was broken on one is reported.

    Returns the time within which EVERY certificate of the path that was found is valid.
    """
    authorities = readable(bundle.x509_authorities)
    window = _check_each(leaf, now)
    first: SvidError | None = None
    level, depth = {leaf: window}, 0
    # a signature is verified once, however many ways pass it
    known: dict[x509.Certificate, tuple[x509.Certificate, ...]] = {}
    while level and depth <= len(presented):
        above: dict[x509.Certificate, Window] = {}
        for current, (begin, end) in level.items():
            if current not in known:
                known[current] = tuple(_issuers_among(current, [*authorities, *presented], is_kept=depth > 0))
            for signer in known[current]:
                try:
                    _check_revoked(current, signer, bundle)
                    since, until = _check_each(signer, now)
                    _check_signer(signer, depth, spiffe_id)
                    if signer in authorities:
                        return max(begin, since), min(end, until)
                    _check_pinned(signer, bundle)
                except SvidError as err:
                    first = first or err
                    continue
                above.setdefault(signer, (max(begin, since), min(end, until)))
        level, depth = above, depth + 1
    raise first or SvidError("LM1019", spiffe_id=str(spiffe_id))


def _check_revoked(subject: x509.Certificate, signer: x509.Certificate, bundle: TrustBundle) -> None:
    """A certificate that a revocation list of its issuer names is refused, also when that list is stale."""
    if any(is_listed(subject.serial_number, crl, signer) for crl in bundle.crls):
        raise SvidError("LM1034", serial=f"{subject.serial_number:x}")


def _check_pinned(signer: x509.Certificate, bundle: TrustBundle) -> None:
    """An intermediate that a peer sends counts only when it is pinned, if any is."""
    if bundle.intermediates is None:
        return
    digest = hashlib.sha256(signer.public_bytes(Encoding.DER)).hexdigest()
    if digest not in bundle.intermediates:
        raise SvidError("LM1033", digest=digest)


class _Signatures:
    """The signatures between signing certificates that were verified, by both digests; the oldest is forgotten."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._good: dict[bytes, None] = {}

    def check(self, subject: x509.Certificate, issuer: x509.Certificate) -> None:
        """Verify one, unless that was done before. Raises what pyca raises when it is bad."""
        key = subject.fingerprint(hashes.SHA256()) + issuer.fingerprint(hashes.SHA256())
        if key in self._good:
            return
        subject.verify_directly_issued_by(issuer)
        with self._lock:
            self._good[key] = None
            if len(self._good) > MAX_SIGNATURES_KEPT:
                del self._good[next(iter(self._good))]


_SIGNATURES = _Signatures()


def _issuers_among(
    subject: x509.Certificate, candidates: Sequence[x509.Certificate], *, is_kept: bool
) -> Iterator[x509.Certificate]:
    """The candidates that signed a certificate: names chain, keys are strong, the signature verifies."""
    for candidate in candidates:
        if candidate.subject != subject.issuer or not _is_strong(subject, candidate):
            continue
        try:
            if is_kept:
                _SIGNATURES.check(subject, candidate)
            else:
                subject.verify_directly_issued_by(candidate)
        except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
            continue
        yield candidate


def _is_strong(subject: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Whether signature hash and both keys are of today's strength."""
    for key in (subject.public_key(), issuer.public_key()):
        if isinstance(key, rsa.RSAPublicKey):
            if key.key_size < MIN_RSA_BITS:
                return False
        elif isinstance(key, ec.EllipticCurvePublicKey):
            if key.curve.name not in _CURVES:
                return False
        elif not isinstance(key, _OTHER_KEYS):
            return False
    try:
        algorithm = subject.signature_hash_algorithm
    except UnsupportedAlgorithm:
        return False
    return algorithm is None or isinstance(algorithm, _HASHES)


def _check_each(certificate: x509.Certificate, now: dt.datetime) -> Window:
    """What holds for EVERY certificate on the path; returns when it is valid."""
    if now < certificate.not_valid_before_utc or now > certificate.not_valid_after_utc:
        raise SvidError(
            "LM1020",
            now=now.isoformat(),
            begin=certificate.not_valid_before_utc.isoformat(),
            end=certificate.not_valid_after_utc.isoformat(),
        )
    for extension in certificate.extensions:
        if extension.critical and extension.oid not in _HANDLED:
            raise SvidError("LM1021", oid=extension.oid.dotted_string)
    return certificate.not_valid_before_utc, certificate.not_valid_after_utc


def _check_signer(signer: x509.Certificate, depth: int, leaf_id: SpiffeId) -> None:
    """What holds for EVERY signer: ``depth`` counts the intermediates below it."""
    limit, use = constraints(signer), usage(signer)
    if limit is None or not limit.ca:
        raise SvidError("LM1022", reason="it is not a CA certificate")
    if use is None or not use.value.key_cert_sign:
        raise SvidError("LM1022", reason="its key usage lacks keyCertSign")
    if limit.path_length is not None and depth > limit.path_length:
        raise SvidError("LM1022", reason="the chain is longer than its path length allows")
    for name in uris(signer):
        try:
            found = SpiffeId.parse(name)
        except SpiffeIdError:
            # a signing certificate MAY carry other URIs; only a SPIFFE ID is held to SPIFFE's rules
            if name.lower().startswith("spiffe:"):
                raise SvidError("LM1022", reason="its SPIFFE ID is malformed") from None
            continue
        if found.path or found.trust_domain != leaf_id.trust_domain:
            raise SvidError("LM1022", reason="its SPIFFE ID is not the trust domain's own")
    try:
        limits = signer.extensions.get_extension_for_class(x509.NameConstraints).value
    except x509.ExtensionNotFound:
        return
    _check_names(limits, leaf_id)


def _check_names(limits: x509.NameConstraints, leaf_id: SpiffeId) -> None:
    """URI name constraints (RFC 5280 §4.2.1.10): they speak of the URI's host, which is the trust domain.

    A constraint with a leading dot means every name below it, without one exactly that host.
    """
    host = leaf_id.trust_domain.name
    every = [*(limits.permitted_subtrees or ()), *(limits.excluded_subtrees or ())]
    if not all(isinstance(name, x509.UniformResourceIdentifier) for name in every):
        # a constraint of another kind would have to be applied to other names; nobody here can
        raise SvidError("LM1021", oid=ExtensionOID.NAME_CONSTRAINTS.dotted_string)
    permitted = [str(name.value).lower() for name in limits.permitted_subtrees or ()]
    excluded = [str(name.value).lower() for name in limits.excluded_subtrees or ()]
    if not all(_CONSTRAINT.match(name) for name in [*permitted, *excluded]):
        # a constraint that is no host admits nothing when it permits, and must not admit everything when it excludes
        raise SvidError("LM1021", oid=ExtensionOID.NAME_CONSTRAINTS.dotted_string)

    def admits(constraint: str) -> bool:
        return host.endswith(constraint) and host != constraint if constraint.startswith(".") else host == constraint

    if permitted and not any(admits(found) for found in permitted):
        raise SvidError("LM1023", trust_domain=host)
    if any(admits(found) for found in excluded):
        raise SvidError("LM1023", trust_domain=host)
