"""Node attestation by X.509 certificate: a machine that somebody else's CA certified proves that it holds the key.

The holder of a certificate can spell it in another way that verifies too: of an ECDSA signature (r, s), (r, -s) is one
as well. So its fingerprint is no lasting name. The hash of its public key is: the CA signed it, and it is what the
machine proves to hold (`ca.nodestore.MACHINE_FACTS`).
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ca.attestation.certificates import verify_path
from ca.attestation.evidence import Attested, collect
from mesh import nodeproof
from mesh.problems import Forbidden

FIELDS = (
    "x509-cn",
    "x509-public-key",
    "x509-fingerprint",
    "x509-serial",
    "x509-issuer-cn",
    "x509-san-dns",
    "x509-san-uri",
)
DEFAULT_NODE = "{x509-cn}"
_CLIENT = frozenset({ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class X509Pop:
    """An attestor by certificate; ``authorities`` are DER."""

    name: str
    node: str
    authorities: tuple[bytes, ...]
    type: str = "x509pop"


def verify(attestor: X509Pop, *, chain: list[bytes], signature: bytes, data: bytes, now: dt.datetime) -> Attested:
    """Verify a machine's certificate and its proof of possession.

    1. The chain leads to a configured authority, now.
    2. The certificate is for authentication as a client: where it has key usages, they say so.
    3. Its key signed the statement over the server's nonce and the node's new key.

    Raises Forbidden LM1246.
    """
    try:
        # (1)
        leaf = verify_path(chain, attestor.authorities, now)
        # (2)
        _check_usage(leaf)
        facts = _facts(leaf)
    except ValueError as err:
        raise Forbidden("LM1246", attestor=attestor.name, reason=str(err)) from err
    # (3)
    if not nodeproof.is_signed(leaf.public_key(), signature, data):
        raise Forbidden("LM1246", attestor=attestor.name, reason="the nonce is not signed with its key")
    return Attested(facts=facts)


def _check_usage(leaf: x509.Certificate) -> None:
    for extension in leaf.extensions:
        found = extension.value
        if isinstance(found, x509.KeyUsage) and not found.digital_signature:
            raise ValueError("its certificate is not for signing (digitalSignature)")
        if isinstance(found, x509.ExtendedKeyUsage) and not _CLIENT.intersection(found):
            raise ValueError("its certificate is not for clients (clientAuth)")


def _facts(leaf: x509.Certificate) -> tuple[tuple[str, str], ...]:
    names = next((item.value for item in leaf.extensions if isinstance(item.value, x509.SubjectAlternativeName)), None)
    return collect(
        {
            "x509-cn": [str(item.value) for item in leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)],
            "x509-issuer-cn": [str(item.value) for item in leaf.issuer.get_attributes_for_oid(NameOID.COMMON_NAME)],
            "x509-serial": f"{leaf.serial_number:x}",
            "x509-public-key": hashlib.sha256(
                leaf.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            ).hexdigest(),
            "x509-fingerprint": hashlib.sha256(leaf.public_bytes(Encoding.DER)).hexdigest(),
            "x509-san-dns": names.get_values_for_type(x509.DNSName) if names is not None else [],
            "x509-san-uri": names.get_values_for_type(x509.UniformResourceIdentifier) if names is not None else [],
        }
    )
