"""Certificates from values: the profiles of root, intermediate, workload and server (X509-SVID.md §2 to §4).

Pure: keys, serial numbers and times are arguments. A certificate never begins before its issuer does nor outlives
it, and nothing expired is minted. Who may have which certificate is decided elsewhere.
"""

from __future__ import annotations

import dataclasses
import datetime as dt

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ca.keys import PrivateKey, PublicKey, hash_for
from mesh.problems import Invalid
from mesh.spiffe import SpiffeId, TrustDomain

# a host whose clock is five minutes slow still takes what was made just now
BACKDATING = dt.timedelta(minutes=5)
SERVER_BACKDATING = dt.timedelta(days=1)
SERVER_NAME = "limen-server"
_BOTH = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Issuer:
    """A signing certificate with its key."""

    certificate: x509.Certificate
    key: PrivateKey = dataclasses.field(repr=False)


def mint_root(
    trust_domain: TrustDomain, key: PrivateKey, *, serial: int, now: dt.datetime, life: dt.timedelta
) -> bytes:
    """Mint a self-signed root with the trust domain's own SPIFFE ID, without a path (X-4 to X-9)."""
    name = _name(f"Limen root of {trust_domain}")
    builder = _base(name, name, key.public_key(), serial, now - BACKDATING, now + life)
    builder = _signing(builder, trust_domain, path_length=None)
    return builder.sign(key, hash_for(key)).public_bytes(Encoding.DER)


def mint_intermediate(
    trust_domain: TrustDomain,
    public_key: PublicKey,
    issuer: Issuer,
    *,
    serial: int,
    now: dt.datetime,
    life: dt.timedelta,
    constrained: bool = False,
) -> bytes:
    """Mint the issuing certificate: path length 0, signed by the root.

    ``constrained`` limits it to the trust domain's URIs (X-15). Some verifiers, pyca's among them, refuse every chain
    with such a limit; so it is not the default.
    """
    begin, end = _window(issuer, now, life)
    subject = _name(f"Limen issuing authority of {trust_domain}")
    builder = _base(issuer.certificate.subject, subject, public_key, serial, begin, end)
    builder = _signing(builder, trust_domain, path_length=0)
    builder = builder.add_extension(_authority_id(issuer), critical=False)
    if constrained:
        own = [x509.UniformResourceIdentifier(trust_domain.name)]
        builder = builder.add_extension(
            x509.NameConstraints(permitted_subtrees=own, excluded_subtrees=None), critical=True
        )
    return builder.sign(issuer.key, hash_for(issuer.key)).public_bytes(Encoding.DER)


def mint_cross(
    trust_domain: TrustDomain,
    root: x509.Certificate,
    issuer: Issuer,
    *,
    serial: int,
    now: dt.datetime,
) -> bytes:
    """Sign a new root's key by an older root, so that who knows only the older one follows the new one (RFC 4949).

    It ends with the older root, or with the new one if that is earlier.
    """
    public_key: PublicKey = root.public_key()  # type: ignore[assignment]  # our own roots have keys of our kinds
    begin, end = _window(issuer, now, root.not_valid_after_utc - now)
    builder = _base(issuer.certificate.subject, root.subject, public_key, serial, begin, end)
    builder = _signing(builder, trust_domain, path_length=None).add_extension(_authority_id(issuer), critical=False)
    return builder.sign(issuer.key, hash_for(issuer.key)).public_bytes(Encoding.DER)


def mint_svid(
    spiffe_id: SpiffeId,
    public_key: PublicKey,
    issuer: Issuer,
    *,
    serial: int,
    now: dt.datetime,
    life: dt.timedelta,
    dns_names: tuple[str, ...] = (),
) -> bytes:
    """Mint an X.509-SVID.

    1. The SPIFFE ID has a path (X-2) and is the only URI SAN (X-1); the subject is empty, the SAN critical (X-3).
    2. It is no CA (X-6); the key usage is critical digitalSignature and nothing else (X-8, X-10, X-11).
    3. The extended key usage has both server and client authentication (X-13).
    4. It begins five minutes ago and ends with its issuer at the latest.

    Raises Invalid LM1204 when the issuer's own time is over, LM1214 when it has not begun.
    """
    if not spiffe_id.path:
        raise ValueError("a workload's SPIFFE ID has a path")
    begin, end = _window(issuer, now, life)
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(str(spiffe_id))]
    names += [x509.DNSName(found) for found in dns_names]
    builder = (
        _base(issuer.certificate.subject, x509.Name([]), public_key, serial, begin, end)
        .add_extension(x509.SubjectAlternativeName(names), critical=True)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage(_BOTH), critical=False)
        .add_extension(_authority_id(issuer), critical=False)
    )
    return builder.sign(issuer.key, hash_for(issuer.key)).public_bytes(Encoding.DER)


def mint_server(key: PrivateKey, *, serial: int, now: dt.datetime, life: dt.timedelta) -> bytes:
    """Mint the server's long-lived self-signed certificate: its key is pinned, no authority vouches for it."""
    name = _name(SERVER_NAME)
    builder = (
        # its key is what is trusted, not its time: an agent whose clock is slow must reach even a server of today
        _base(name, name, key.public_key(), serial, now - SERVER_BACKDATING, now + life)
        # it may be left out of a self-signed authority alone (RFC 5280 §4.2.1.1)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(SERVER_NAME)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    )
    return builder.sign(key, hash_for(key)).public_bytes(Encoding.DER)


def _window(issuer: Issuer, now: dt.datetime, life: dt.timedelta) -> tuple[dt.datetime, dt.datetime]:
    found = issuer.certificate
    return window_under(found.not_valid_before_utc, found.not_valid_after_utc, now, life)


def window_under(
    since: dt.datetime, until: dt.datetime, now: dt.datetime, life: dt.timedelta
) -> tuple[dt.datetime, dt.datetime]:
    """When a certificate begins and ends that is signed now, by an issuer that is valid in that time.

    Raises Invalid LM1204 when the issuer's own time is over, LM1214 when it has not begun.
    """
    begin, end = max(now - BACKDATING, since), min(now + life, until)
    if begin > now:
        raise Invalid("LM1214", begin=begin.isoformat(), now=now.isoformat())
    if end <= now:
        raise Invalid("LM1204", end=until.isoformat())
    return begin, end


def _name(text: str) -> x509.Name:
    # a trust domain may be longer than the 64 characters of a common name
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])


def _base(
    issuer: x509.Name,
    subject: x509.Name,
    public_key: PublicKey,
    serial: int,
    begin: dt.datetime,
    end: dt.datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .issuer_name(issuer)
        .subject_name(subject)
        .public_key(public_key)
        .serial_number(serial)
        .not_valid_before(begin)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _signing(
    builder: x509.CertificateBuilder, trust_domain: TrustDomain, *, path_length: int | None
) -> x509.CertificateBuilder:
    builder = builder.add_extension(
        x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(trust_domain.id))]), critical=False
    ).add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
    return builder.add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)


def _usage(*, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _authority_id(issuer: Issuer) -> x509.AuthorityKeyIdentifier:
    found = issuer.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(found)
