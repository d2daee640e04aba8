"""The certificate request of an order: it names exactly what was ordered, in a sound key of its own. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from ca.acme.names import Identifier
from ca.keys import PublicKey, algorithm_of, spki_der
from mesh.certpath import ends_whole
from mesh.crl import UNREADABLE
from mesh.problems import Invalid

MAX_BYTES = 32_768


def read_csr(der: bytes, ordered: Sequence[Identifier]) -> PublicKey:
    """Read a PKCS#10 request for an order and return its key.

    1. It is DER, self-signed with a hash that holds, for a P-256, P-384 or RSA key (2048, 3072 or 4096 bits).
    2. Its names are in the SAN and nothing but DNS names and addresses; a common name is one of them.
    3. They are exactly those of the order.

    Raises Invalid LM1407.
    """
    if len(der) > MAX_BYTES:
        raise Invalid("LM1407", reason="it is too long")
    try:
        # (1)
        request = x509.load_der_x509_csr(der)
        key = request.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
            raise Invalid("LM1407", reason="its key is neither P-256, P-384 nor RSA")
        algorithm_of(key)
        if isinstance(key, rsa.RSAPublicKey) and key.public_numbers().e < 65537:
            raise Invalid("LM1407", reason="its RSA exponent is below 65537")
        digest = request.signature_hash_algorithm
        if digest is None or digest.name not in {"sha256", "sha384", "sha512"}:
            raise Invalid("LM1407", reason="it is signed with a hash that does not hold")
        if not request.is_signature_valid or not ends_whole(der, request.signature):
            raise Invalid("LM1407", reason="its signature is not its key's")
        # (2)
        named = _names(request)
    except Invalid as err:
        if err.code == "LM1602":
            raise Invalid("LM1407", reason="its key is neither P-256, P-384 nor RSA of 2048, 3072, 4096 bits") from err
        raise
    except UNREADABLE as err:
        raise Invalid("LM1407", reason="it cannot be read") from err
    # (3)
    if named != set(ordered):
        raise Invalid("LM1407", reason="its names are not exactly those of the order")
    return key


def _names(request: x509.CertificateSigningRequest) -> set[Identifier]:
    found: set[Identifier] = set()
    try:
        alternatives = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        alternatives = x509.SubjectAlternativeName([])
    except x509.DuplicateExtension as err:
        raise Invalid("LM1407", reason="an extension stands twice") from err
    for name in alternatives:
        if isinstance(name, x509.DNSName):
            found.add(("dns", name.value.lower()))
        elif isinstance(name, x509.IPAddress):
            found.add(("ip", str(name.value)))
        else:
            raise Invalid("LM1407", reason="it names something that is neither a DNS name nor an address")
    for attribute in request.subject.get_attributes_for_oid(NameOID.COMMON_NAME):
        value = str(attribute.value).lower()
        if ("dns", value) not in found and ("ip", value) not in found:
            if len(alternatives):
                raise Invalid("LM1407", reason="its common name is none of its names")
            found.add(("dns", value))
    return found


def fingerprint(key: PublicKey) -> bytes:
    """What two keys are compared by."""
    return spki_der(key)
