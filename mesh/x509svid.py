"""The one X.509-SVID verifier: CA, agent, sidecars, federation and conformance all ask it.

X509-SVID.md §5 and RFC 5280 §6, narrowed to what SPIFFE needs and stricter than pyca's verifier, which accepts two
URI SANs, other schemes, a root path and missing key usages, and refuses every URI name constraint. The order of
checks is part of the answer: the first broken rule is the one reported. This module opens no connection.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import functools
import re
from collections.abc import Iterator, Mapping, Sequence

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID

from mesh.bundle import TrustBundle
from mesh.problems import Invalid
from mesh.spiffe import SpiffeId, SpiffeIdError, TrustDomain

MAX_CHAIN = 6
MAX_CERTIFICATE_BYTES = 64 * 1024
MIN_RSA_BITS = 2048
_CURVES = ("secp256r1", "secp384r1", "secp521r1")
_HASHES = (hashes.SHA256, hashes.SHA384, hashes.SHA512)
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


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class X509Svid:
    """An X.509-SVID with its private key. The key never shows in a repr."""

    spiffe_id: SpiffeId
    chain_der: tuple[bytes, ...]
    key_pkcs8_der: bytes = dataclasses.field(repr=False)
    not_after: dt.datetime


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedSvid:
    """What a verified chain says. ``serial`` and ``leaf_der`` name the certificate for records."""

    spiffe_id: SpiffeId
    leaf_der: bytes
    not_after: dt.datetime
    serial: int


def split_chain(data: bytes) -> tuple[bytes, ...]:
    """Cut concatenated DER certificates apart.

    Raises SvidError LM1010 when the bytes are not whole certificates.
    """
    found: list[bytes] = []
    while data:
        size = _der_size(data)
        if size is None or size > len(data) or len(found) >= MAX_CHAIN:
            raise SvidError("LM1010", reason="the bytes are not a short list of whole DER certificates")
        found.append(data[:size])
        data = data[size:]
    return tuple(found)


def _der_size(data: bytes) -> int | None:
    """The size of the DER SEQUENCE at the front, None when there is none."""
    if len(data) < 2 or data[0] != 0x30:
        return None
    first = data[1]
    if first < 0x80:
        return 2 + first
    count = first & 0x7F
    if not 1 <= count <= 4 or len(data) < 2 + count:
        return None
    return 2 + count + int.from_bytes(data[2 : 2 + count], "big")


def verify_x509_svid(
    chain_der: Sequence[bytes], bundles: Mapping[TrustDomain, TrustBundle], now: dt.datetime
) -> VerifiedSvid:
    """Verify a presented chain, leaf first, and return whose it is.

    1. The chain has 1 to 6 certificates of bounded size, and ALL parse as X.509 v3.
    2. The leaf has exactly one URI SAN; it is a SPIFFE ID with a path (X-17, X-21, X-22, X-23).
    3. The leaf is no signing certificate: not a CA, neither keyCertSign nor cRLSign (X-14, X-18, X-19, X-20).
    4. The leaf's key usage is present, critical and has digitalSignature (X-8, X-10).
    5. The leaf's extended key usage, when present, has both serverAuth and clientAuth (X-13).
    6. An empty subject needs a critical SAN (X-3, RFC 5280 §4.1.2.6).
    7. Only the bundle of the leaf's OWN trust domain is looked at (X-24); it holds an authority (X-31, B-8).
    8. A path leads from the leaf through the presented intermediates to SOME authority of that bundle, and on it:
       EVERY certificate is valid now; EVERY signature verifies with a strong key and hash; EVERY signer has cA and
       keyCertSign and a path length that suffices (X-25); names chain; a signer's SPIFFE ID, if any, has no path and
       is of this trust domain (X-4); no critical extension is unknown; URI name constraints admit the leaf (X-15);
       EVERY intermediate is one that the bundle pins, if it pins any; and NO certificate is on a revocation list that
       its signer signed.

    Raises SvidError with the code of the first rule that is broken.
    """
    # (1)
    if not 1 <= len(chain_der) <= MAX_CHAIN:
        raise SvidError("LM1010", reason=f"a chain has 1 to {MAX_CHAIN} certificates")
    chain = [_parse(der) for der in chain_der]
    leaf = chain[0]
    # (2)
    spiffe_id = _leaf_id(leaf)
    # (3), (4), (5), (6)
    _check_leaf(leaf)
    # (7)
    bundle = bundles.get(spiffe_id.trust_domain)
    authorities = [] if bundle is None else _readable(bundle.x509_authorities)
    if not authorities:
        raise SvidError("LM1018", trust_domain=str(spiffe_id.trust_domain))
    # (8)
    assert bundle is not None
    _verify_path(chain, authorities, spiffe_id, bundle, now)
    return VerifiedSvid(
        spiffe_id=spiffe_id,
        leaf_der=chain_der[0],
        not_after=leaf.not_valid_after_utc,
        serial=leaf.serial_number,
    )


def _parse(der: bytes) -> x509.Certificate:
    if len(der) > MAX_CERTIFICATE_BYTES:
        raise SvidError("LM1010", reason="a certificate is larger than 64 KiB")
    try:
        found = x509.load_der_x509_certificate(der)
        # parsing is lazy: what is wrong inside must show here
        _ = found.version, found.extensions, found.serial_number, found.subject, found.issuer
        found.public_key()
    except (
        ValueError,
        TypeError,
        UnsupportedAlgorithm,
        x509.DuplicateExtension,
        x509.InvalidVersion,
        x509.UnsupportedGeneralNameType,
        CryptographyDeprecationWarning,
    ) as err:
        raise SvidError("LM1010", reason="a certificate does not parse") from err
    if found.serial_number <= 0:
        raise SvidError("LM1010", reason="a serial number is positive (RFC 5280 §4.1.2.2)")
    if found.version is not x509.Version.v3:
        raise SvidError("LM1010", reason="a certificate is not X.509 v3")
    return found


def _readable(authorities: Sequence[bytes]) -> list[x509.Certificate]:
    """The authorities that parse: one that nobody can read vouches for nobody, and does not silence the others."""
    found = []
    for der in authorities:
        try:
            found.append(_parse(der))
        except SvidError:
            continue
    return found


def _leaf_id(leaf: x509.Certificate) -> SpiffeId:
    names = _uris(leaf)
    if len(names) != 1:
        raise SvidError("LM1011", count=len(names))
    try:
        found = SpiffeId.parse(names[0])
    except SpiffeIdError as err:
        raise SvidError("LM1012", given=names[0][:200], reason=str(err)) from err
    if not found.path:
        raise SvidError("LM1013", given=str(found))
    return found


def _uris(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return names.get_values_for_type(x509.UniformResourceIdentifier)


def _usage(certificate: x509.Certificate) -> x509.Extension[x509.KeyUsage] | None:
    try:
        return certificate.extensions.get_extension_for_class(x509.KeyUsage)
    except x509.ExtensionNotFound:
        return None


def _constraints(certificate: x509.Certificate) -> x509.BasicConstraints | None:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound:
        return None


def _check_leaf(leaf: x509.Certificate) -> None:
    """Steps 3 to 6 of `verify_x509_svid`."""
    # (3)
    constraints, usage = _constraints(leaf), _usage(leaf)
    if constraints is not None and constraints.ca:
        raise SvidError("LM1014", reason="it is a CA certificate")
    if usage is not None and (usage.value.key_cert_sign or usage.value.crl_sign):
        raise SvidError("LM1014", reason="its key usage has keyCertSign or cRLSign")
    # (4)
    if usage is None or not usage.critical or not usage.value.digital_signature:
        raise SvidError("LM1015")
    # (5)
    try:
        extended = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        extended = None
    both = {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    if extended is not None and not both <= set(extended):
        raise SvidError("LM1016")
    # (6)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    if not list(leaf.subject) and not names.critical:
        raise SvidError("LM1017")


def _verify_path(
    chain: Sequence[x509.Certificate],
    authorities: Sequence[x509.Certificate],
    spiffe_id: SpiffeId,
    bundle: TrustBundle,
    now: dt.datetime,
) -> None:
    """Step 8 of `verify_x509_svid`: climb from the leaf, from issuers to their issuers, to an authority.

    The presented order is not trusted, and ALL ways up are tried: a root that was renewed with its key stands beside
    the old one, and so does a cross-signed intermediate. The search is bounded by looking at each certificate once at
    each depth. When no way leads up, the first rule that was broken on one is reported.
    """
    _check_each(chain[0], now)
    first: SvidError | None = None
    level, depth = [chain[0]], 0
    # a signature is verified once, however many ways pass it
    known: dict[x509.Certificate, tuple[x509.Certificate, ...]] = {}
    while level and depth < len(chain):
        above: list[x509.Certificate] = []
        for current in level:
            if current not in known:
                known[current] = tuple(_issuers_among(current, [*authorities, *chain[1:]]))
            for signer in known[current]:
                try:
                    _check_revoked(current, signer, bundle.crls)
                    _check_each(signer, now)
                    _check_signer(signer, depth, spiffe_id)
                    if signer in authorities:
                        return
                    _check_pinned(signer, bundle.intermediates)
                except SvidError as err:
                    first = first or err
                    continue
                if signer not in above:
                    above.append(signer)
        level, depth = above, depth + 1
    raise first or SvidError("LM1019", spiffe_id=str(spiffe_id))


def _issuers_among(subject: x509.Certificate, candidates: Sequence[x509.Certificate]) -> Iterator[x509.Certificate]:
    """The candidates that signed a certificate: names chain, keys are strong, the signature verifies."""
    for candidate in candidates:
        if candidate.subject != subject.issuer or not _is_strong(subject, candidate):
            continue
        try:
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
        elif not isinstance(key, ed25519.Ed25519PublicKey | mldsa.MLDSA65PublicKey):
            return False
    try:
        algorithm = subject.signature_hash_algorithm
    except UnsupportedAlgorithm:
        return False
    return algorithm is None or isinstance(algorithm, _HASHES)


def _check_revoked(subject: x509.Certificate, signer: x509.Certificate, crls: Sequence[bytes]) -> None:
    """That no list of the signer names what it signed (RFC 5280 §6.3); a list that is too old still counts."""
    if not crls:
        return
    signer_der = signer.public_bytes(Encoding.DER)
    if any(subject.serial_number in _listed(crl, signer_der) for crl in crls):
        raise SvidError("LM1306", serial=f"{subject.serial_number:x}")


@functools.lru_cache(maxsize=256)
def _listed(crl: bytes, signer_der: bytes) -> frozenset[int]:
    """The serial numbers on a list that this signer signed; none for anybody else's, and for what is no list."""
    signer = x509.load_der_x509_certificate(signer_der)
    try:
        found = x509.load_der_x509_crl(crl)
        if found.issuer != signer.subject or not found.is_signature_valid(signer.public_key()):  # type: ignore[arg-type]  # other kinds raise TypeError
            return frozenset()
        return frozenset(item.serial_number for item in found)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return frozenset()


def _check_pinned(intermediate: x509.Certificate, pinned: frozenset[str] | None) -> None:
    """That an intermediate is one of those that the trust domain uses: a peer cannot bring another."""
    if pinned is not None and intermediate.fingerprint(hashes.SHA256()).hex() not in pinned:
        raise SvidError("LM1307", serial=f"{intermediate.serial_number:x}")


def _check_each(certificate: x509.Certificate, now: dt.datetime) -> None:
    """What holds for EVERY certificate on the path."""
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


def _check_signer(signer: x509.Certificate, depth: int, leaf_id: SpiffeId) -> None:
    """What holds for EVERY signer: ``depth`` counts the intermediates below it."""
    constraints, usage = _constraints(signer), _usage(signer)
    if constraints is None or not constraints.ca:
        raise SvidError("LM1022", reason="it is not a CA certificate")
    if usage is None or not usage.value.key_cert_sign:
        raise SvidError("LM1022", reason="its key usage lacks keyCertSign")
    if constraints.path_length is not None and depth > constraints.path_length:
        raise SvidError("LM1022", reason="the chain is longer than its path length allows")
    for name in _uris(signer):
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
