"""The certificates of the ACME authority: root, issuing, and web certificates (RFC 5280). Pure.

No URI name and no client authentication anywhere: nothing of this can pass for an SVID. Each has an authority key
identifier and, but for leaves of nobody, a subject key identifier, as RFC 5280 asks of everything below a root.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ca.acme.names import Identifier
from ca.keys import PrivateKey, PublicKey, hash_for
from ca.mint import BACKDATING, Issuer
from mesh.problems import Invalid


def mint_root(name: str, key: PrivateKey, *, serial: int, now: dt.datetime, life: dt.timedelta) -> bytes:
    """Mint the self-signed root."""
    subject = _name(f"Limen ACME root of {name}")
    builder = _base(subject, subject, key.public_key(), serial, _second(now - BACKDATING), now + life)
    builder = _authority(builder, key.public_key(), path_length=None)
    return builder.sign(key, hash_for(key)).public_bytes(Encoding.DER)


def mint_issuing(
    name: str, public_key: PublicKey, issuer: Issuer, *, serial: int, now: dt.datetime, life: dt.timedelta
) -> bytes:
    """Mint the issuing certificate: path length 0, server authentication only."""
    subject = _name(f"Limen ACME issuing authority of {name}")
    begin, end = _window(issuer, now, life)
    builder = _base(issuer.certificate.subject, subject, public_key, serial, begin, end)
    builder = _authority(builder, public_key, path_length=0)
    builder = builder.add_extension(_authority_id(issuer), critical=False)
    builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    return builder.sign(issuer.key, hash_for(issuer.key)).public_bytes(Encoding.DER)


def mint_web(
    names: Sequence[Identifier],
    public_key: PublicKey,
    issuer: Issuer,
    *,
    serial: int,
    now: dt.datetime,
    life: dt.timedelta,
    crl_url: str = "",
) -> bytes:
    """Mint a web certificate: the names in a critical SAN, an empty subject, server authentication only."""
    begin, end = _window(issuer, now, life)
    alternatives: list[x509.GeneralName] = [
        x509.IPAddress(ipaddress.ip_address(value)) if kind == "ip" else x509.DNSName(value) for kind, value in names
    ]
    is_rsa = isinstance(public_key, rsa.RSAPublicKey)
    builder = (
        _base(issuer.certificate.subject, x509.Name([]), public_key, serial, begin, end)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=True)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True, key_encipherment=is_rsa), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(_authority_id(issuer), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )
    if crl_url:
        point = x509.DistributionPoint([x509.UniformResourceIdentifier(crl_url)], None, None, None)
        builder = builder.add_extension(x509.CRLDistributionPoints([point]), critical=False)
    return builder.sign(issuer.key, hash_for(issuer.key)).public_bytes(Encoding.DER)


def mint_crl(
    revoked: Sequence[tuple[int, dt.datetime, int]],
    issuer: Issuer,
    *,
    number: int,
    now: dt.datetime,
    life: dt.timedelta,
) -> bytes:
    """Mint a CRL of serial numbers with when and why (RFC 5280 §5)."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.certificate.subject)
        .last_update(_second(now))
        .next_update(_second(now + life))
        .add_extension(_authority_id(issuer), critical=False)
        .add_extension(x509.CRLNumber(number), critical=False)
    )
    for serial, moment, reason in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(_second(moment))
        if reason:
            entry = entry.add_extension(x509.CRLReason(REASONS[reason]), critical=False)
        builder = builder.add_revoked_certificate(entry.build())
    return builder.sign(issuer.key, hash_for(issuer.key)).public_bytes(Encoding.DER)


REASONS = {
    0: x509.ReasonFlags.unspecified,
    1: x509.ReasonFlags.key_compromise,
    3: x509.ReasonFlags.affiliation_changed,
    4: x509.ReasonFlags.superseded,
    5: x509.ReasonFlags.cessation_of_operation,
    9: x509.ReasonFlags.privilege_withdrawn,
}
"""The reasons that a client may give (RFC 5280 §5.3.1); those of authorities and of holding are not for it."""


def _second(moment: dt.datetime) -> dt.datetime:
    return moment.replace(microsecond=0)


def _window(issuer: Issuer, now: dt.datetime, life: dt.timedelta) -> tuple[dt.datetime, dt.datetime]:
    begin = max(_second(now - BACKDATING), issuer.certificate.not_valid_before_utc)
    end = min(_second(now + life), issuer.certificate.not_valid_after_utc)
    if end <= now:
        raise Invalid("LM1204", end=issuer.certificate.not_valid_after_utc.isoformat())
    return begin, end


def _name(text: str) -> x509.Name:
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
        .not_valid_after(_second(end))
    )


def _authority(
    builder: x509.CertificateBuilder, public_key: PublicKey, *, path_length: int | None
) -> x509.CertificateBuilder:
    return (
        builder.add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _authority_id(issuer: Issuer) -> x509.AuthorityKeyIdentifier:
    found = issuer.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(found.value)


def _usage(
    *,
    digital_signature: bool = False,
    key_encipherment: bool = False,
    key_cert_sign: bool = False,
    crl_sign: bool = False,
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=key_encipherment,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )
