"""Checks our own work before it leaves: every finished leaf, against what was meant, as strictly as a peer would.

The first leaf under a chain goes through the verifier that peers run. A later one differs from it in serial number,
times, key and names alone: its signature is verified, those are compared with what was meant, and EVERY other byte
with the leaf that passed. What cannot be compared like that goes through the verifier itself, so this never accepts
what the verifier does not (a property test shows it). It reads DER by itself and shares no code with what writes it.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import functools
import hashlib
import re
from collections.abc import Sequence

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from mesh.bundle import TrustBundle
from mesh.crl import is_listed
from mesh.spiffe import SpiffeId, TrustDomain
from mesh.x509svid import SvidError, verify_x509_svid

_HASHES = {
    bytes.fromhex("300a06082a8648ce3d040302"): ec.ECDSA(hashes.SHA256()),
    bytes.fromhex("300a06082a8648ce3d040303"): ec.ECDSA(hashes.SHA384()),
}
# SubjectPublicKeyInfo up to the point: P-256 (RFC 5480 §2.1.1.1)
_P256 = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d03010703420004")
_P256_BYTES = 91
_IDENTIFIER = bytes.fromhex("301d0603551d0e04160414")
_NAMES = bytes.fromhex("0603551d110101ff04")
_UTC_TIME_HEAD = b"\x17\x0d"
_UTC_TIME = re.compile(rb"[0-9]{12}Z\Z")
_MAX_KEPT = 8


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Meant:
    """What a certificate is meant to say, from what was asked and entitled: never read from the certificate."""

    spiffe_id: SpiffeId
    spki: bytes
    dns_names: tuple[str, ...]
    end: dt.datetime


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a checked certificate says."""

    not_after: dt.datetime
    serial: int


class WrongWorkError(AssertionError):
    """A certificate that was minted says something else than what was meant: a bug, and it is not given out."""

    def __init__(self) -> None:
        super().__init__("the minted certificate says something else than what was meant")


@dataclasses.dataclass(frozen=True, slots=True)
class _Leaf:
    """A leaf with a P-256 key, cut up. ``same`` are the parts that do not depend on what it is for."""

    same: tuple[bytes, ...]
    tbs: bytes
    signature: bytes
    serial: int
    times: bytes
    spki: bytes
    identifier: bytes
    names: tuple[tuple[int, bytes], ...]


class OwnCheck:
    """Checks the leaves of one trust domain; remembers, by chain, a leaf that the verifier passed."""

    def __init__(self, trust_domain: TrustDomain) -> None:
        self._domain = trust_domain
        self._models: dict[tuple[bytes, ...], tuple[tuple[bytes, ...], _Leaf, x509.Certificate]] = {}
        # what was asked last, and passed: all leaves of a batch ask the same
        self._passed: tuple[tuple[bytes, ...], TrustBundle, dt.datetime] | None = None

    def check(self, chain: tuple[bytes, ...], meant: Meant, bundle: TrustBundle, now: dt.datetime) -> Found:
        """Check a leaf that was just signed.

        1. A leaf that passed under the same chain still passes (it is remembered while nothing changed), and this one
           is cut into the same parts.
        2. Serial number, times, key, key identifier and names are what was meant, and every other part is the same.
        3. The signature verifies under the same issuer's key, and no revocation list names the serial number.
        4. Otherwise the verifier has the word, and what it found is compared with what was meant.

        Raises WrongWorkError, or what the verifier raises.
        """
        # (1)
        model = self._models.get(chain[1:])
        leaf = _cut(chain[0]) if model is not None else None
        if model is not None and leaf is not None and self._still_passes(model[0], bundle, now):
            # (2), (3)
            found = _compare(leaf, model[1], meant, self._domain, now)
            if found is not None and _is_signed(leaf, model[2], bundle):
                return found
        # (4)
        found = check_in_full(chain, meant, bundle, self._domain, now)
        self._keep(chain)
        return found

    def _still_passes(self, chain: tuple[bytes, ...], bundle: TrustBundle, now: dt.datetime) -> bool:
        last = self._passed
        if last is not None and last[0] is chain and last[1] is bundle and last[2] == now:
            return True
        try:
            verify_x509_svid(chain, {self._domain: bundle}, now)
        except SvidError:
            return False
        self._passed = (chain, bundle, now)
        return True

    def _keep(self, chain: tuple[bytes, ...]) -> None:
        """Take a leaf that passed as the model, when the certificate above it is the one that signed it."""
        leaf = _cut(chain[0])
        if leaf is None or len(chain) < 2:
            return
        signer = x509.load_der_x509_certificate(chain[1])
        if _verifies(leaf, signer):
            self._models[chain[1:]] = (chain, leaf, signer)
            if len(self._models) > _MAX_KEPT:
                del self._models[next(iter(self._models))]


def check_in_full(
    chain: Sequence[bytes], meant: Meant, bundle: TrustBundle, trust_domain: TrustDomain, now: dt.datetime
) -> Found:
    """Verify a chain as a peer does, and compare what its leaf says with what was meant.

    Raises WrongWorkError, or what the verifier raises.
    """
    verified = verify_x509_svid(chain, {trust_domain: bundle}, now)
    leaf = x509.load_der_x509_certificate(verified.leaf_der)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    key = leaf.public_key()
    is_meant = (
        verified.spiffe_id == meant.spiffe_id
        and key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) == meant.spki
        and tuple(names.get_values_for_type(x509.DNSName)) == meant.dns_names
        and len(list(names)) == 1 + len(meant.dns_names)
        and verified.not_after <= meant.end
    )
    if not is_meant:
        raise WrongWorkError
    return Found(not_after=verified.not_after, serial=verified.serial)


def _compare(leaf: _Leaf, model: _Leaf, meant: Meant, trust_domain: TrustDomain, now: dt.datetime) -> Found | None:
    """Step 2 of `OwnCheck.check`; None when it cannot be said here."""
    names = ((0x86, str(meant.spiffe_id).encode()), *[(0x82, name.encode()) for name in meant.dns_names])
    is_meant = (
        leaf.same == model.same
        and leaf.spki == meant.spki
        and leaf.identifier == hashlib.sha1(meant.spki[26:], usedforsecurity=False).digest()
        and leaf.names == names
        and meant.spiffe_id.trust_domain == trust_domain
        and meant.spiffe_id.path != ""
        and leaf.serial > 0
        and all(name.isascii() for name in meant.dns_names)
    )
    if not is_meant:
        return None
    begin, end = _moment(leaf.times[4:17]), _moment(leaf.times[19:])
    if begin is None or end is None or not begin <= now <= end <= meant.end:
        return None
    return Found(not_after=end, serial=leaf.serial)


def _is_signed(leaf: _Leaf, signer: x509.Certificate, bundle: TrustBundle) -> bool:
    """Step 3 of `OwnCheck.check`."""
    return not any(is_listed(leaf.serial, crl, signer) for crl in bundle.crls) and _verifies(leaf, signer)


def _verifies(leaf: _Leaf, signer: x509.Certificate) -> bool:
    key, scheme = signer.public_key(), _HASHES.get(leaf.same[0])
    if not isinstance(key, ec.EllipticCurvePublicKey) or scheme is None:
        return False
    try:
        key.verify(leaf.signature, leaf.tbs, scheme)
    except InvalidSignature:
        return False
    return True


def _cut(data: bytes) -> _Leaf | None:
    """Cut a leaf up (RFC 5280 §4.1), None when it is not made as our leaves are: with a P-256 key and in strict DER."""
    try:
        # Certificate, TBSCertificate
        begin, end = _open(data, 0, 0x30)
        _whole(end, len(data))
        at, tbs_end = _open(data, begin, 0x30)
        tbs = data[begin:tbs_end]
        # [0] version, serialNumber
        first, version_end = _open(data, at, 0xA0)
        number, number_end = _open(data, version_end, 0x02)
        _integer(data[number:number_end])
        # signature, issuer: the same for all; validity in two UTCTimes; subject
        _, algorithm_end = _open(data, number_end, 0x30)
        _, issuer_end = _open(data, algorithm_end, 0x30)
        _, times_end = _open(data, issuer_end, 0x30)
        _, subject_end = _open(data, times_end, 0x30)
        _, spki_end = _open(data, subject_end, 0x30)
        spki = data[subject_end:spki_end]
        # [3] extensions: the key's identifier, the names, and what is the same for all
        outer, outer_end = _open(data, spki_end, 0xA3)
        _whole(outer_end, tbs_end)
        inside, inside_end = _open(data, outer, 0x30)
        _whole(inside_end, tbs_end)
        identifier_end = inside + len(_IDENTIFIER) + 20
        names_begin, names_end = _open(data, identifier_end, 0x30)
        names = _names(data[names_begin:names_end])
        # signatureAlgorithm, signatureValue
        _, again_end = _open(data, tbs_end, 0x30)
        signature, signature_end = _open(data, again_end, 0x03)
        _whole(signature_end, end)
    except (IndexError, ValueError):
        return None
    algorithm = data[number_end:algorithm_end]
    fits = (
        len(spki) == _P256_BYTES
        and spki.startswith(_P256)
        and data.startswith(_IDENTIFIER, inside)
        and times_end - issuer_end == 32
        and data[issuer_end + 2 : issuer_end + 4] == data[issuer_end + 17 : issuer_end + 19] == _UTC_TIME_HEAD
        and data[tbs_end:again_end] == algorithm
        and data[signature] == 0
    )
    if not fits:
        return None
    return _Leaf(
        same=(
            algorithm,
            data[first - 2 : version_end],
            data[algorithm_end:issuer_end],
            data[times_end:subject_end],
            data[names_end:tbs_end],
        ),
        tbs=tbs,
        signature=data[signature + 1 : signature_end],
        serial=int.from_bytes(data[number:number_end], "big", signed=True),
        times=data[issuer_end:times_end],
        spki=spki,
        identifier=data[identifier_end - 20 : identifier_end],
        names=names,
    )


def _open(data: bytes, at: int, tag: int) -> tuple[int, int]:
    """Where the content of a value begins and ends. Raises ValueError or IndexError for what is no strict DER."""
    if data[at] != tag:
        raise ValueError("another tag")
    size = data[at + 1]
    begin = at + 2
    if size >= 0x80:
        count = size & 0x7F
        begin += count
        size = int.from_bytes(data[at + 2 : begin], "big")
        # the shortest form of the length
        if count not in {1, 2} or size < (0x80 if count == 1 else 0x100):
            raise ValueError("not the shortest form")
    if begin + size > len(data):
        raise ValueError("cut off")
    return begin, begin + size


def _whole(at: int, end: int) -> None:
    if at != end:
        raise ValueError("more than what belongs there")


def _integer(content: bytes) -> None:
    """An integer in its shortest form, of at most 20 bytes (RFC 5280 §4.1.2.2)."""
    if not 0 < len(content) <= 20 or (len(content) > 1 and content[0] == 0 and content[1] < 0x80):
        raise ValueError("no positive integer in its shortest form")


def _names(data: bytes) -> tuple[tuple[int, bytes], ...]:
    """The alternative names of a critical extension, by tag."""
    if not data.startswith(_NAMES):
        raise ValueError("no critical names")
    begin, end = _open(data, len(_NAMES) - 1, 0x04)
    _whole(end, len(data))
    at, end = _open(data, begin, 0x30)
    _whole(end, len(data))
    found = []
    while at < end:
        tag = data[at]
        content, at = _open(data, at, tag)
        found.append((tag, data[content:at]))
    return tuple(found)


@functools.lru_cache(maxsize=64)
def _moment(text: bytes) -> dt.datetime | None:
    """The moment of a UTCTime in DER (X.690 §11.8), None when it is none."""
    if not _UTC_TIME.match(text):
        return None
    year, month, day, hour, minute, second = (int(text[place : place + 2]) for place in range(0, 12, 2))
    try:
        return dt.datetime(year + (2000 if year < 50 else 1900), month, day, hour, minute, second, tzinfo=dt.UTC)
    except ValueError:
        return None
