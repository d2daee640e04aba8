"""What an upstream authority is asked for and gives: one protocol, the request, and the check of every answer.

An answer is used only when our own verifier accepts a leaf below it; who gave it, and how, does not matter. Nothing
here opens a connection or a file.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Sequence
from typing import Protocol

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.oid import NameOID

from ca.keys import PublicKey, SigningKey, algorithm_of, spki_der
from mesh.bundle import TrustBundle
from mesh.certpath import ends_whole
from mesh.problems import Invalid, Problem, Unavailable
from mesh.spiffe import SpiffeId, TrustDomain
from mesh.truststate import TrustState
from mesh.x509svid import verify_x509_svid

MAX_CHAIN = 4
MAX_ROOTS = 16
MAX_BYTES = 64 << 10
SHORTEST_LIFE = dt.timedelta(minutes=1)
_PROBE = "/limen/probe"
_BAD = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
    CryptographyDeprecationWarning,
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Upstreamed:
    """An upstream's answer, DER: the issuing certificate first, then what leads to a root; and the roots.

    ``trust`` is the trust state of an upstream that is a Limen, as it signed it, and ``state`` the same, read.
    """

    chain: tuple[bytes, ...]
    roots: tuple[bytes, ...]
    trust: bytes = b""
    state: TrustState | None = None

    @property
    def not_after(self) -> dt.datetime:
        """When the first certificate of the chain ends: nothing below it verifies after that."""
        return min(x509.load_der_x509_certificate(der).not_valid_after_utc for der in self.chain)


class Upstream(Protocol):
    """Somebody who signs issuing certificates for this trust domain.

    `mint` may take seconds and blocks; it is called where that harms nobody, and again with the same request after
    it failed. What it returns is checked by `accept`, whoever returns it.
    """

    @property
    def name(self) -> str:
        """Who it is, for people."""
        ...

    def mint(self, csr: bytes, now: dt.datetime) -> Upstreamed:
        """Have a request (PKCS#10, DER) signed.

        Raises Unavailable LM1613 when nobody answers, UpstreamPending LM1615 when people have to sign, Forbidden
        LM1612 when it refuses, Invalid LM1614 for an answer that cannot be read.
        """
        ...


class UpstreamPending(Unavailable):
    """People have to act before the request is signed; it stays as it is until then."""


def build_csr(key: SigningKey, trust_domain: TrustDomain) -> bytes:
    """The request for an issuing certificate, DER: what we would like to have in it, and a proof of the key."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Limen issuing authority of {trust_domain}"[:64])])
    own = x509.UniformResourceIdentifier(str(trust_domain.id))
    builder = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(subject)
        .add_extension(x509.SubjectAlternativeName([own]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage(signs=True), critical=True)
    )
    return builder.sign(key.key, key.hash).public_bytes(Encoding.DER)


def read_csr(csr: bytes) -> PublicKey:
    """The key of a request whose signature proves it. Everything else in a request is only a wish.

    Raises Invalid LM1617.
    """
    if len(csr) > MAX_BYTES:
        raise Invalid("LM1617", reason="it is larger than 64 KiB")
    try:
        found = x509.load_der_x509_csr(csr)
        proven = found.is_signature_valid and ends_whole(csr, found.signature)
        key = found.public_key()
    except (*_BAD, InvalidSignature) as err:
        raise Invalid("LM1617", reason="it is no PKCS#10 request in DER") from err
    if not proven:
        raise Invalid("LM1617", reason="its signature does not prove the key in it")
    try:
        algorithm_of(key)
    except Problem as err:
        raise Invalid("LM1617", reason=err.message) from err
    # `algorithm_of` let no other kind of key pass
    return key  # type: ignore[return-value]


def accept(
    answer: Upstreamed, key: SigningKey, trust_domain: TrustDomain, now: dt.datetime, *, upstream: str
) -> Upstreamed:
    """Check an answer and return it in its shortest form.

    1. `check`: it fits the key and the trust domain, and says that it may sign.
    2. A leaf for one minute that our key signs below it is accepted by `mesh.x509svid`, with its roots as the bundle:
       path lengths, name constraints, times, key strengths and signatures of EVERY certificate on the way.

    Raises Invalid LM1611 with the first rule that is broken.
    """
    # (1)
    short = check(answer, key.public_key, trust_domain, now, upstream=upstream)
    # (2)
    issuing = x509.load_der_x509_certificate(short.chain[0])
    leaf = _probe(issuing, key, trust_domain, now)
    bundle = TrustBundle(trust_domain=trust_domain, x509_authorities=short.roots)
    try:
        verify_x509_svid([leaf, *short.chain], {trust_domain: bundle}, now)
    except Problem as err:
        raise Invalid("LM1611", upstream=upstream, reason=f"{err.code}: {err.message}") from err
    return short


def check(
    answer: Upstreamed, public_key: PublicKey, trust_domain: TrustDomain, now: dt.datetime, *, upstream: str
) -> Upstreamed:
    """What can be checked of an answer without the private key.

    1. A few certificates of bounded size, and ALL of them parse; a root that is in the chain as well is left out there.
    2. The issuing certificate has our key.
    3. EVERY certificate is a CA with keyCertSign, and a SPIFFE ID in it, if any, is this trust domain's own.
    4. EVERY certificate of the chain is valid now, and for at least a minute more.
    5. EVERY certificate of the chain was signed by the next one, and the last one by a root.
    6. EVERY path length on the way leaves room for what is below it.

    Raises Invalid LM1611 with the first rule that is broken.
    """

    def broken(reason: str) -> Invalid:
        return Invalid("LM1611", upstream=upstream, reason=reason)

    # (1)
    roots = [_parse(der, upstream) for der in dict.fromkeys(answer.roots)]
    chain = [_parse(der, upstream) for der in answer.chain if der not in set(answer.roots)]
    if not 1 <= len(chain) <= MAX_CHAIN or not 1 <= len(roots) <= MAX_ROOTS:
        raise broken(f"a chain has 1 to {MAX_CHAIN} certificates, and 1 to {MAX_ROOTS} roots vouch for it")
    # (2)
    if spki_of(chain[0]) != spki_der(public_key):
        raise broken("its first certificate is for another key")
    # (3)
    for certificate in (*chain, *roots):
        _check_signs(certificate, trust_domain, upstream)
    for depth, certificate in enumerate(chain):
        # (4)
        begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        if now < begin or now > end - SHORTEST_LIFE:
            raise broken(f"it is valid from {begin.isoformat()} to {end.isoformat()}, and now it is {now.isoformat()}")
        # (5)
        signers = [chain[depth + 1]] if depth + 1 < len(chain) else roots
        signer = next((found for found in signers if _signed(certificate, found)), None)
        if signer is None:
            raise broken("a certificate of the chain was not signed by the next one")
        # (6)
        limit = _constraints(signer).path_length
        if limit is not None and limit < depth + 1:
            raise broken("a path length on the way leaves no room for an issuing authority below it")
    return dataclasses.replace(
        answer, chain=tuple(_der(found) for found in chain), roots=tuple(_der(found) for found in roots)
    )


def usage(*, signs: bool) -> x509.KeyUsage:
    """The key usage of a signing certificate, or of a leaf."""
    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def spki_of(certificate: x509.Certificate) -> bytes:
    """The SubjectPublicKeyInfo of a certificate; empty for a kind of key that is none of ours."""
    try:
        algorithm_of(certificate.public_key())
    except Problem:
        return b""
    return spki_der(certificate.public_key())  # type: ignore[arg-type]  # the line above let no other kind pass


def _der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)


def _parse(der: bytes, upstream: str) -> x509.Certificate:
    if len(der) > MAX_BYTES:
        raise Invalid("LM1614", upstream=upstream, reason="a certificate is larger than 64 KiB")
    try:
        found = x509.load_der_x509_certificate(der)
        # parsing is lazy: what is wrong inside must show here
        _ = found.extensions, found.subject, found.issuer, found.serial_number
        found.public_key()
    except _BAD as err:
        raise Invalid("LM1614", upstream=upstream, reason="a certificate does not parse") from err
    return found


def _constraints(certificate: x509.Certificate) -> x509.BasicConstraints:
    return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value


def _check_signs(certificate: x509.Certificate, trust_domain: TrustDomain, upstream: str) -> None:
    """Step 3 of `check`."""
    try:
        constraints = _constraints(certificate)
        allowed = certificate.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    except x509.ExtensionNotFound as err:
        raise Invalid("LM1611", upstream=upstream, reason="a certificate does not say whether it may sign") from err
    if not constraints.ca or not allowed:
        raise Invalid("LM1611", upstream=upstream, reason="a certificate may not sign others")
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return
    for uri in names.get_values_for_type(x509.UniformResourceIdentifier):
        if uri.lower().startswith("spiffe:") and uri != str(trust_domain.id):
            raise Invalid(
                "LM1611", upstream=upstream, reason=f"a certificate is `{uri[:200]}`, not `{trust_domain.id}`"
            )


def _signed(certificate: x509.Certificate, signer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(signer)
    except (*_BAD, InvalidSignature):
        return False
    return True


def _probe(issuing: x509.Certificate, key: SigningKey, trust_domain: TrustDomain, now: dt.datetime) -> bytes:
    """A leaf that nobody gets, for a key that nobody keeps."""
    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    name = x509.UniformResourceIdentifier(str(SpiffeId(trust_domain=trust_domain, path=_PROBE)))
    builder = (
        x509.CertificateBuilder()
        .issuer_name(issuing.subject)
        .subject_name(x509.Name([]))
        .public_key(public)
        .serial_number(1)
        .not_valid_before(now - SHORTEST_LIFE)
        .not_valid_after(now + SHORTEST_LIFE)
        .add_extension(x509.SubjectAlternativeName([name]), critical=True)
        .add_extension(usage(signs=False), critical=True)
    )
    return builder.sign(key.key, key.hash).public_bytes(Encoding.DER)


def ders(certificates: Sequence[x509.Certificate]) -> tuple[bytes, ...]:
    """The DER of each."""
    return tuple(_der(found) for found in certificates)
