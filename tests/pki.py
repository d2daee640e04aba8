"""Certificates for tests, good and bad: `Pki(domain).leaf(...)` takes every detail a test may want to break."""

import dataclasses
import datetime as dt

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, load_der_public_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mesh.bundle import TrustBundle
from mesh.spiffe import TrustDomain

NOW = dt.datetime(2026, 11, 24, 12, 0, tzinfo=dt.UTC)
BOTH = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
Key = (
    ec.EllipticCurvePrivateKey
    | rsa.RSAPrivateKey
    | ed25519.Ed25519PrivateKey
    | mldsa.MLDSA44PrivateKey
    | mldsa.MLDSA65PrivateKey
    | mldsa.MLDSA87PrivateKey
)
_OWN_HASH = (ed25519.Ed25519PrivateKey, mldsa.MLDSA44PrivateKey, mldsa.MLDSA65PrivateKey, mldsa.MLDSA87PrivateKey)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A certificate with its key."""

    certificate: x509.Certificate
    key: Key

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)


def usage(**set_: bool) -> x509.KeyUsage:
    names = (
        "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
        "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
    )  # fmt: skip
    return x509.KeyUsage(**{name: set_.get(name, False) for name in names})


def make(
    *,
    issuer: Made | None = None,
    subject: str = "",
    uris: tuple[str, ...] = (),
    dns: tuple[str, ...] = (),
    ca: bool | None = False,
    path_length: int | None = None,
    key_usage: x509.KeyUsage | None = None,
    usage_critical: bool = True,
    extended: tuple[x509.ObjectIdentifier, ...] | None = BOTH,
    san_critical: bool = True,
    begin: dt.datetime = NOW - dt.timedelta(minutes=1),
    end: dt.datetime = NOW + dt.timedelta(hours=1),
    key: Key | None = None,
    extra: tuple[tuple[x509.ExtensionType, bool], ...] = (),
    algorithm: hashes.HashAlgorithm | None = None,
) -> Made:
    key = key or ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)] if subject else [])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer.certificate.subject if issuer else name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
    )
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri) for uri in uris]
    names += [x509.DNSName(item) for item in dns]
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=san_critical)
    if ca is not None:
        builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=path_length), critical=True)
    if key_usage is not None:
        builder = builder.add_extension(key_usage, critical=usage_critical)
    if extended is not None and not ca:
        builder = builder.add_extension(x509.ExtendedKeyUsage(list(extended)), critical=False)
    for extension, critical in extra:
        builder = builder.add_extension(extension, critical=critical)
    signer = issuer.key if issuer else key
    chosen = None if isinstance(signer, _OWN_HASH) else algorithm or hashes.SHA256()
    return Made(certificate=builder.sign(signer, chosen), key=key)


def respelled(certificate: x509.Certificate) -> bytes:
    """A certificate with the other signature that anybody can make of an ECDSA one, over P-256 and SHA-256: (r, -s)."""
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    r, s = decode_dss_signature(certificate.signature)
    signature = b"\0" + encode_dss_signature(r, order - s)
    algorithm = bytes.fromhex("300a06082a8648ce3d040302")
    body = certificate.tbs_certificate_bytes + algorithm + b"\x03" + bytes([len(signature)]) + signature
    return b"\x30\x82" + len(body).to_bytes(2, "big") + body


class Pki:
    """A trust domain's root, with helpers for what hangs below it."""

    def __init__(self, domain: str = "corp.test") -> None:
        self.domain = TrustDomain.parse(domain)
        self.root = self.signer(subject=f"root of {domain}")

    def signer(self, issuer: Made | None = None, **details: object) -> Made:
        base: dict[str, object] = {
            "subject": "an authority",
            "uris": (str(self.domain.id),),
            "san_critical": False,
            "ca": True,
            "key_usage": usage(key_cert_sign=True, crl_sign=True),
            "extended": None,
        }
        return make(issuer=issuer, **{**base, **details})  # type: ignore[arg-type]

    def leaf(self, path: str = "/ns/web/sa/front", issuer: Made | None = None, **details: object) -> Made:
        base: dict[str, object] = {
            "uris": (f"spiffe://{self.domain}{path}",),
            "key_usage": usage(digital_signature=True),
        }
        return make(issuer=issuer or self.root, **{**base, **details})  # type: ignore[arg-type]

    def leaf_for(self, spki: bytes) -> bytes:
        """A leaf for somebody else's key, DER."""
        like = self.leaf().certificate
        builder = x509.CertificateBuilder(extensions=list(like.extensions)).issuer_name(like.issuer)
        made = (
            builder.subject_name(like.subject)
            .public_key(load_der_public_key(spki))  # type: ignore[arg-type]  # a key of ours
            .serial_number(like.serial_number)
            .not_valid_before(like.not_valid_before_utc)
            .not_valid_after(like.not_valid_after_utc)
        )
        return made.sign(self.root.key, hashes.SHA256()).public_bytes(Encoding.DER)  # type: ignore[arg-type]

    def bundle(self, *authorities: Made) -> TrustBundle:
        return TrustBundle(
            trust_domain=self.domain, x509_authorities=tuple(item.der for item in authorities or (self.root,))
        )
