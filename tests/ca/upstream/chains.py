"""Authorities of other tools, well made or not: each is a value with its key."""

import dataclasses
import datetime as dt

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from ca.keys import KeyAlgorithm, PublicKey, SigningKey, generate
from ca.upstream.chain import Upstreamed, read_csr, usage
from mesh.spiffe import TrustDomain

NOW = dt.datetime(2026, 11, 24, 12, tzinfo=dt.UTC)
DOMAIN = TrustDomain.parse("corp.test")
DAY = dt.timedelta(days=1)


@dataclasses.dataclass(frozen=True)
class Made:
    certificate: x509.Certificate
    key: SigningKey

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)


def make(
    name: str,
    public: PublicKey,
    issuer: Made | SigningKey,
    *,
    begin: dt.datetime = NOW - DAY,
    end: dt.datetime = NOW + 30 * DAY,
    ca: bool = True,
    signs: bool = True,
    path_length: int | None = None,
    uri: str | None = None,
    constraints: x509.NameConstraints | None = None,
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    key = issuer.key if isinstance(issuer, Made) else issuer
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if isinstance(issuer, Made) else subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=path_length if ca else None), critical=True)
        .add_extension(usage(signs=signs), critical=True)
    )
    if uri is not None:
        builder = builder.add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=False
        )
    if constraints is not None:
        builder = builder.add_extension(constraints, critical=True)
    return builder.sign(key.key, key.hash)


def root(algorithm: KeyAlgorithm = KeyAlgorithm.P256, **facts: object) -> Made:
    key = generate(algorithm)
    return Made(make("root", key.public_key, key, **facts), key)  # type: ignore[arg-type]


def below(issuer: Made, name: str = "intermediate", **facts: object) -> Made:
    key = generate(KeyAlgorithm.P256)
    return Made(make(name, key.public_key, issuer, **facts), key)  # type: ignore[arg-type]


class Signs:
    """An upstream that signs what it is asked for, below some authority, in the way a test says."""

    name = "test"

    def __init__(self, issuer: Made, *above: Made, **facts: object) -> None:
        self.issuer, self.above, self.facts = issuer, above, facts
        self.asked: list[bytes] = []

    def mint(self, csr: bytes, now: dt.datetime) -> Upstreamed:
        del now
        self.asked.append(csr)
        facts = {"path_length": 0, **self.facts}
        made = make("issuing", read_csr(csr), self.issuer, **facts)  # type: ignore[arg-type]
        every = (self.issuer, *self.above)
        return Upstreamed(
            chain=(made.public_bytes(Encoding.DER), *(found.der for found in every[:-1])), roots=(every[-1].der,)
        )
