"""The one X.509-SVID verifier: CA, agent, sidecars, federation and conformance all ask it.

X509-SVID.md §5 and RFC 5280 §6, narrowed to what SPIFFE needs and stricter than pyca's verifier, which accepts two
URI SANs, other schemes, a root path and missing key usages, and refuses every URI name constraint. The order of
checks is part of the answer: the first broken rule is the one reported. This module opens no connection.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import functools
import hashlib
import threading
from collections.abc import Iterable, Mapping, Sequence

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from mesh.bundle import TrustBundle
from mesh.certpath import (
    MAX_CERTIFICATE_BYTES,
    SvidError,
    Window,
    climb,
    constraints,
    parse,
    parse_signer,
    readable,
    uris,
    usage,
)
from mesh.spiffe import SpiffeId, SpiffeIdError, TrustDomain

__all__ = [
    "MAX_CERTIFICATE_BYTES",
    "MAX_CHAIN",
    "SvidError",
    "VerifiedSvid",
    "X509Svid",
    "split_chain",
    "verify_x509_svid",
]

MAX_CHAIN = 6
MAX_VERDICTS_KEPT = 4096


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
       an intermediate is pinned, if the bundle pins any, and NO revocation list of its issuer names any of them.

    What was verified before is known, for the same chain and the same bundle, while the whole path is valid.

    Raises SvidError with the code of the first rule that is broken.
    """
    # (1)
    if not 1 <= len(chain_der) <= MAX_CHAIN:
        raise SvidError("LM1010", reason=f"a chain has 1 to {MAX_CHAIN} certificates")
    known = _VERDICTS.get(chain_der, bundles, now)
    if known is not None:
        return known
    leaf, presented = parse(chain_der[0]), [parse_signer(der) for der in chain_der[1:]]
    # (2)
    spiffe_id = _leaf_id(leaf)
    # (3), (4), (5), (6)
    _check_leaf(leaf)
    # (7)
    bundle = bundles.get(spiffe_id.trust_domain)
    if bundle is None or not readable(bundle.x509_authorities):
        raise SvidError("LM1018", trust_domain=str(spiffe_id.trust_domain))
    # (8)
    window = climb(leaf, presented, bundle, spiffe_id, now)
    found = VerifiedSvid(
        spiffe_id=spiffe_id,
        leaf_der=chain_der[0],
        not_after=leaf.not_valid_after_utc,
        serial=leaf.serial_number,
    )
    _VERDICTS.put(chain_der, bundle, found, window)
    return found


class _Verdicts:
    """Chains that verified with a bundle, by digests; each counts only while its whole path is valid.

    INVARIANT: a verdict is only ever given again for the very same chain, authorities, pins and revocation lists.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: dict[bytes, tuple[VerifiedSvid, bytes, Window]] = {}

    def get(
        self, chain_der: Sequence[bytes], bundles: Mapping[TrustDomain, TrustBundle], now: dt.datetime
    ) -> VerifiedSvid | None:
        """What is known of a chain under the bundle of its own trust domain."""
        kept = self._kept.get(_digest(chain_der))
        if kept is None:
            return None
        found, under, (begin, end) = kept
        bundle = bundles.get(found.spiffe_id.trust_domain)
        if bundle is None or not begin <= now <= end:
            return None
        return found if _trust_of(bundle.x509_authorities, bundle.intermediates, bundle.crls) == under else None

    def put(self, chain_der: Sequence[bytes], bundle: TrustBundle, found: VerifiedSvid, window: Window) -> None:
        """Keep a verdict; the oldest makes room."""
        under = _trust_of(bundle.x509_authorities, bundle.intermediates, bundle.crls)
        with self._lock:
            self._kept[_digest(chain_der)] = (found, under, window)
            if len(self._kept) > MAX_VERDICTS_KEPT:
                del self._kept[next(iter(self._kept))]


_VERDICTS = _Verdicts()


def _digest(parts: Iterable[bytes]) -> bytes:
    found = hashlib.sha256()
    for part in parts:
        found.update(len(part).to_bytes(8, "big"))
        found.update(part)
    return found.digest()


@functools.lru_cache(maxsize=16)
def _trust_of(authorities: tuple[bytes, ...], pinned: frozenset[str] | None, crls: tuple[bytes, ...]) -> bytes:
    """A name for ALL that decides whether a path is good."""
    pins = b"any" if pinned is None else ",".join(["only", *sorted(pinned)]).encode()
    return _digest([_digest(authorities), pins, _digest(crls)])


def _leaf_id(leaf: x509.Certificate) -> SpiffeId:
    names = uris(leaf)
    if len(names) != 1:
        raise SvidError("LM1011", count=len(names))
    try:
        found = SpiffeId.parse(names[0])
    except SpiffeIdError as err:
        raise SvidError("LM1012", given=names[0][:200], reason=str(err)) from err
    if not found.path:
        raise SvidError("LM1013", given=str(found))
    return found


def _check_leaf(leaf: x509.Certificate) -> None:
    """Steps 3 to 6 of `verify_x509_svid`."""
    # (3)
    limit, use = constraints(leaf), usage(leaf)
    if limit is not None and limit.ca:
        raise SvidError("LM1014", reason="it is a CA certificate")
    if use is not None and (use.value.key_cert_sign or use.value.crl_sign):
        raise SvidError("LM1014", reason="its key usage has keyCertSign or cRLSign")
    # (4)
    if use is None or not use.critical or not use.value.digital_signature:
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
