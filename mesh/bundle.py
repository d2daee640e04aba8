"""Trust bundles and their SPIFFE document form (SPIFFE_Trust_Domain_and_Bundle.md §4).

Unknown parameters are kept out, unknown elements are ignored one by one, and a document without usable keys is a
bundle that verifies nothing: that is how a trust domain revokes everything. This module fetches nothing.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Iterable
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, rsa
from cryptography.utils import CryptographyDeprecationWarning

from mesh import canonicaljson
from mesh.problems import Invalid, shortened
from mesh.spiffe import SpiffeIdError, TrustDomain

DEFAULT_REFRESH_HINT_S = 300
MAX_BUNDLE_BYTES = 4 << 20
_MAX_SEQUENCE = 2**63 - 1
_KEY_TYPES = ("EC", "RSA", "OKP", "AKP")
_CURVES = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521", "secp256k1": "secp256k1"}

# by the size of the public key in bytes (FIPS 204 §4)
_MLDSA = {1312: "ML-DSA-44", 1952: "ML-DSA-65", 2592: "ML-DSA-87"}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TrustBundle:
    """The public keys of a trust domain.

    ``x509_authorities`` are DER certificates; ``jwt_authorities`` are JWK objects as canonical JSON bytes, each with
    its ``kid``. ``refresh_hint`` is in seconds, None when the document has none.

    Two fields never stand in the SPIFFE document: ``intermediates`` are the only intermediates that may stand on a
    path, by the lower-case hex SHA-256 of their DER (None when any may), and ``crls`` are revocation lists in DER.
    """

    trust_domain: TrustDomain
    x509_authorities: tuple[bytes, ...] = ()
    jwt_authorities: tuple[bytes, ...] = ()
    sequence: int | None = None
    refresh_hint: int | None = None
    intermediates: frozenset[str] | None = None
    crls: tuple[bytes, ...] = ()

    @property
    def refresh_seconds(self) -> int:
        """How often to ask for a newer one, in seconds (Federation §4.1)."""
        return DEFAULT_REFRESH_HINT_S if self.refresh_hint is None else self.refresh_hint

    @property
    def digest(self) -> str:
        """A name for the keys in it, whatever their order and sequence number."""
        parts = [str(self.trust_domain).encode(), *sorted(self.x509_authorities), b"", *sorted(self.jwt_authorities)]
        return hashlib.sha256(b"".join(len(part).to_bytes(8, "big") + part for part in parts)).hexdigest()

    def to_json(self) -> bytes:
        """The SPIFFE bundle document, UTF-8 JSON; `x5c` holds one certificate per element, without `kid`."""
        keys: list[dict[str, Any]] = [
            {**_public_jwk(der), "use": "x509-svid", "x5c": [base64.b64encode(der).decode()]}
            for der in self.x509_authorities
        ]
        keys.extend({**json.loads(jwk), "use": "jwt-svid"} for jwk in self.jwt_authorities)
        document: dict[str, Any] = {"keys": keys}
        if self.sequence is not None:
            document["spiffe_sequence"] = self.sequence
        if self.refresh_hint is not None:
            document["spiffe_refresh_hint"] = self.refresh_hint
        return canonicaljson.dumps(document)


def parse_bundle(trust_domain: TrustDomain, data: bytes) -> TrustBundle:
    """Read a SPIFFE bundle document.

    1. UTF-8 JSON within the size limit, no key twice, an object with a `keys` list (B-1, B-6).
    2. `spiffe_sequence` and `spiffe_refresh_hint`, when present, are whole numbers (B-3, B-5).
    3. An element without a known `use` and `kty` is ignored alone (B-7, B-10, B-11).
    4. Of an `x509-svid` element the first `x5c` certificate counts; without one it is ignored (X-29, X-30).
    5. A `jwt-svid` element needs a `kid` (J-18).

    Raises Invalid LM1001 with the rule that the document breaks.
    """
    # (1)
    if len(data) > MAX_BUNDLE_BYTES:
        raise Invalid("LM1001", trust_domain=str(trust_domain), reason="it is larger than 4 MiB")
    try:
        document = _strict(data)
    except (ValueError, RecursionError) as err:
        raise Invalid(
            "LM1001", trust_domain=str(trust_domain), reason=f"it is not strict UTF-8 JSON: {_why(err)}"
        ) from err
    return _from_document(trust_domain, document)


def parse_bundle_map(data: bytes) -> dict[TrustDomain, TrustBundle]:
    """Read a SPIFFE bundle map: ALL bundles, or none of them (BM-6).

    1. UTF-8 JSON within the size limit, no key twice at any depth (BM-3), an object with `trust_domains` (BM-1).
    2. EVERY name is a trust domain, and EVERY value is a bundle.
    3. What a bundle says of its refreshing says nothing of the map's (BM-5): the caller knows how often to read it.

    Raises Invalid LM1032 for (1) and a name, LM1001 for a bundle.
    """
    # (1)
    if len(data) > MAX_BUNDLE_BYTES:
        raise Invalid("LM1032", reason="it is larger than 4 MiB")
    try:
        document = _strict(data)
    except (ValueError, RecursionError) as err:
        raise Invalid("LM1032", reason="it is not strict UTF-8 JSON, or it names something twice") from err
    listed = document.get("trust_domains") if isinstance(document, dict) else None
    if not isinstance(listed, dict):
        raise Invalid("LM1032", reason="it has no `trust_domains` object")
    # (2)
    found: dict[TrustDomain, TrustBundle] = {}
    for name, bundle in listed.items():
        try:
            domain = TrustDomain.parse(name)
        except SpiffeIdError as err:
            raise Invalid("LM1032", reason=f"`{name[:255]}` is no trust domain: {err}") from err
        if domain in found:
            raise Invalid("LM1032", reason=f"`{domain}` stands in it twice")
        found[domain] = _from_document(domain, bundle)
    return found


def write_bundle_map(bundles: Iterable[TrustBundle]) -> bytes:
    """A SPIFFE bundle map, each trust domain once (BM-2), without refresh hints of its bundles (BM-4)."""
    listed: dict[str, Any] = {}
    for bundle in bundles:
        if str(bundle.trust_domain) in listed:
            raise ValueError("a bundle map names a trust domain once")
        listed[str(bundle.trust_domain)] = json.loads(dataclasses.replace(bundle, refresh_hint=None).to_json())
    return canonicaljson.dumps({"trust_domains": listed})


def _strict(data: bytes) -> Any:  # noqa: ANN401  JSON
    return json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_number)


def _from_document(trust_domain: TrustDomain, document: Any) -> TrustBundle:  # noqa: ANN401  JSON
    """What stands in a document: steps 1 (its form) to 5 of `parse_bundle`."""
    if not isinstance(document, dict) or not isinstance(document.get("keys"), list):
        raise Invalid("LM1001", trust_domain=str(trust_domain), reason="it has no `keys` list")
    # (2)
    sequence = _whole(trust_domain, document, "spiffe_sequence")
    refresh_hint = _whole(trust_domain, document, "spiffe_refresh_hint")
    x509_authorities: list[bytes] = []
    jwt_authorities: list[bytes] = []
    for element in document["keys"]:
        # (3)
        # a tuple, not a set: the value may be of any JSON type, and not all can be hashed
        if not isinstance(element, dict) or element.get("kty") not in _KEY_TYPES:
            continue
        if element.get("use") == "x509-svid":
            # (4)
            der = _first_certificate(element)
            if der is not None:
                x509_authorities.append(der)
        elif element.get("use") == "jwt-svid" and isinstance(element.get("kid"), str) and element["kid"]:
            # (5)
            with contextlib.suppress(ValueError, RecursionError):
                # what cannot be written again, such as a lone surrogate, is ignored alone
                jwt_authorities.append(canonicaljson.dumps({name: element[name] for name in element if name != "use"}))
    return TrustBundle(
        trust_domain=trust_domain,
        x509_authorities=tuple(dict.fromkeys(x509_authorities)),
        jwt_authorities=tuple(dict.fromkeys(jwt_authorities)),
        sequence=sequence,
        refresh_hint=refresh_hint,
    )


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"the key `{shortened(name, 60)}` stands twice")
        found[name] = value
    return found


def _why(err: ValueError | RecursionError) -> str:
    """What a parser says, with the place where it says it."""
    if isinstance(err, json.JSONDecodeError):
        return f"line {err.lineno}, column {err.colno}: {err.msg}"
    if isinstance(err, UnicodeDecodeError):
        return f"byte {err.start} is no UTF-8"
    return "it is nested too deeply" if isinstance(err, RecursionError) else str(err)


def _no_number(text: str) -> None:
    raise ValueError(f"JSON has no {text}")


def _whole(trust_domain: TrustDomain, document: dict[str, Any], name: str) -> int | None:
    value = document.get(name)
    if value is None and name not in document:
        return None
    # bool is an int in Python; `type(...) is int` keeps `true` out
    if type(value) is not int or not 0 <= value <= _MAX_SEQUENCE:
        raise Invalid("LM1001", trust_domain=str(trust_domain), reason=f"`{name}` is not a whole number of 63 bits")
    return value


def _first_certificate(element: dict[str, Any]) -> bytes | None:
    listed = element.get("x5c")
    if not isinstance(listed, list) or not listed or not isinstance(listed[0], str):
        return None
    try:
        der = base64.b64decode(listed[0], validate=True)
        x509.load_der_x509_certificate(der).public_key()
    except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion, CryptographyDeprecationWarning):
        return None
    return der


def _public_jwk(der: bytes) -> dict[str, str]:
    """The JWK parameters of a certificate's key (RFC 7518 §6, RFC 8037, and AKP of draft-ietf-cose-dilithium)."""
    key = x509.load_der_x509_certificate(der).public_key()
    if isinstance(key, ec.EllipticCurvePublicKey):
        size = (key.curve.key_size + 7) // 8
        numbers = key.public_numbers()
        if key.curve.name not in _CURVES:
            return {"kty": "EC"}
        return {
            "kty": "EC",
            "crv": _CURVES[key.curve.name],
            "x": _b64url(numbers.x.to_bytes(size, "big")),
            "y": _b64url(numbers.y.to_bytes(size, "big")),
        }
    if isinstance(key, rsa.RSAPublicKey):
        public = key.public_numbers()
        return {"kty": "RSA", "n": _b64url(_minimal(public.n)), "e": _b64url(_minimal(public.e))}
    if isinstance(key, ed25519.Ed25519PublicKey):
        return {"kty": "OKP", "crv": "Ed25519", "x": _b64url(key.public_bytes_raw())}
    if isinstance(key, mldsa.MLDSA44PublicKey | mldsa.MLDSA65PublicKey | mldsa.MLDSA87PublicKey):
        public_bytes = key.public_bytes_raw()
        return {"kty": "AKP", "alg": _MLDSA[len(public_bytes)], "pub": _b64url(public_bytes)}
    return {"kty": "AKP"}


def _minimal(number: int) -> bytes:
    return number.to_bytes((number.bit_length() + 7) // 8, "big")


def _b64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
