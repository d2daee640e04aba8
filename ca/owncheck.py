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
from collections.abc import Callable, Iterable, Sequence

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
_TIMES_BYTES = 32
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
class _Model:
    """A leaf that passed, and what of it every other leaf under the same chain has too.

    ``front`` stands before the serial number, ``above`` between that and the times, ``middle`` before the key, and
    ``back`` from the extension after the names up to the signature. ``verify`` raises InvalidSignature.
    """

    chain: tuple[bytes, ...]
    signer: x509.Certificate
    front: bytes
    above: bytes
    middle: bytes
    back: bytes
    algorithm: bytes
    verify: Callable[[bytes, bytes], None]


class OwnCheck:
    """Checks the leaves of one trust domain; remembers, by chain, a leaf that the verifier passed."""

    def __init__(self, trust_domain: TrustDomain) -> None:
        self._domain = trust_domain
        self._models: dict[tuple[bytes, ...], _Model] = {}
        # what was asked last, and passed: all leaves of a batch ask the same
        self._vouched: set[bytes] = set()
        self._passed: tuple[tuple[bytes, ...], TrustBundle, dt.datetime] | None = None

    def vouch(self, leaves: Iterable[bytes]) -> None:
        """Take it as known that the signatures of these leaves verify, in place of all that was known before.

        Only for leaves whose signatures a signing process has verified with the issuing key; for one `check` each.
        """
        self._vouched = set(leaves)

    def check(self, chain: tuple[bytes, ...], meant: Meant, bundle: TrustBundle, now: dt.datetime) -> Found:
        """Check a leaf that was just signed.

        1. A leaf that passed under the same chain still passes (it is remembered while nothing changed), and this one
           is cut into the same parts.
        2. Serial number, times, key, key identifier and names are what was meant, and every other part is the same.
        3. The signature verifies under the same issuer's key, here or where it was made (`vouch`), and no revocation
           list names the serial number.
        4. Otherwise the verifier has the word, and what it found is compared with what was meant.

        Raises WrongWorkError, or what the verifier raises.
        """
        # (1)
        model = self._models.get(chain[1:])
        if model is not None and self._still_passes(model.chain, bundle, now):
            # (2), (3)
            found = self._compare(chain[0], model, meant, bundle, now)
            if found is not None:
                return found
        # (4)
        found = check_in_full(chain, meant, bundle, self._domain, now)
        self._keep(chain, meant)
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

    def _keep(self, chain: tuple[bytes, ...], meant: Meant) -> None:
        """Take a leaf that passed as the model."""
        if len(chain) > 1:
            model = _model(chain, meant)
            if model is not None:
                self._models[chain[1:]] = model
                if len(self._models) > _MAX_KEPT:
                    del self._models[next(iter(self._models))]

    def _compare(self, leaf: bytes, model: _Model, meant: Meant, bundle: TrustBundle, now: dt.datetime) -> Found | None:
        """Steps 2 and 3 of `check`; None when it cannot be said here. EVERY byte of the leaf is looked at."""
        spki, spiffe_id = meant.spki, meant.spiffe_id
        if len(spki) != _P256_BYTES or not spki.startswith(_P256):
            return None
        if spiffe_id.trust_domain != self._domain or not spiffe_id.path:
            return None
        try:
            # Certificate, TBSCertificate; version, serialNumber
            begin, end = _open(leaf, 0, 0x30)
            at, tbs_end = _open(leaf, begin, 0x30)
            number, number_end = _open(leaf, at + len(model.front), 0x02)
            serial = int.from_bytes(leaf[number:number_end], "big", signed=True)
            # signature, issuer; validity; subject; subjectPublicKeyInfo
            times = number_end + len(model.above)
            key = times + _TIMES_BYTES + len(model.middle)
            # [3] extensions: the key's identifier, the names, and what is the same for all
            outer, outer_end = _open(leaf, key + _P256_BYTES, 0xA3)
            inside, inside_end = _open(leaf, outer, 0x30)
            identifier = inside + len(_IDENTIFIER)
            names, names_end = _open(leaf, identifier + 20, 0x30)
            # signatureAlgorithm, signatureValue
            signature, signature_end = _open(leaf, tbs_end + len(model.algorithm), 0x03)
            is_same = (
                end == len(leaf) == signature_end
                and outer_end == inside_end == tbs_end == names_end + len(model.back)
                and _is_shortest(leaf[number:number_end])
                and leaf.startswith(model.front, at)
                and leaf.startswith(model.above, number_end)
                and leaf.startswith(model.middle, times + _TIMES_BYTES)
                and leaf.startswith(_IDENTIFIER, inside)
                and leaf.startswith(model.back, names_end)
                and leaf.startswith(model.algorithm, tbs_end)
                and leaf[signature] == 0
                # what is this leaf's own
                and serial > 0
                and leaf.startswith(spki, key)
                and leaf.startswith(hashlib.sha1(spki[26:], usedforsecurity=False).digest(), identifier)
                and _are_names(leaf[names:names_end], str(spiffe_id), meant.dns_names)
            )
        except (IndexError, ValueError):
            return None
        window = _window(leaf[times : times + _TIMES_BYTES])
        if not is_same or window is None or not window[0] <= now <= window[1] <= meant.end:
            return None
        # (3)
        if any(is_listed(serial, crl, model.signer) for crl in bundle.crls):
            return None
        if leaf in self._vouched:
            self._vouched.discard(leaf)
            return Found(not_after=window[1], serial=serial)
        try:
            model.verify(leaf[signature + 1 : signature_end], leaf[begin:tbs_end])
        except InvalidSignature:
            return None
        return Found(not_after=window[1], serial=serial)


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


def _model(chain: tuple[bytes, ...], meant: Meant) -> _Model | None:
    """What later leaves are compared with; None without a P-256 key, or when the next in the chain did not sign it.

    The leaf passed the verifier: it is read here only to find where its parts begin.
    """
    leaf, signer = chain[0], x509.load_der_x509_certificate(chain[1])
    read, key = x509.load_der_x509_certificate(leaf), signer.public_key()
    if len(meant.spki) != _P256_BYTES or not isinstance(key, ec.EllipticCurvePublicKey):
        return None
    try:
        begin, _ = _open(leaf, 0, 0x30)
        at, tbs_end = _open(leaf, begin, 0x30)
        _, version_end = _open(leaf, at, 0xA0)
        _, number_end = _open(leaf, version_end, 0x02)
        _, algorithm_end = _open(leaf, number_end, 0x30)
        _, issuer_end = _open(leaf, algorithm_end, 0x30)
        _, times_end = _open(leaf, issuer_end, 0x30)
        _, subject_end = _open(leaf, times_end, 0x30)
        outer, _ = _open(leaf, subject_end + _P256_BYTES, 0xA3)
        inside, _ = _open(leaf, outer, 0x30)
        _, names_end = _open(leaf, inside + len(_IDENTIFIER) + 20, 0x30)
    except (IndexError, ValueError):
        return None
    algorithm = leaf[number_end:algorithm_end]
    scheme = _HASHES.get(algorithm)
    if scheme is None:
        return None
    try:
        key.verify(read.signature, read.tbs_certificate_bytes, scheme)
    except InvalidSignature:
        return None
    return _Model(
        chain=chain,
        signer=signer,
        front=leaf[at:version_end],
        above=leaf[number_end:issuer_end],
        middle=leaf[times_end:subject_end],
        back=leaf[names_end:tbs_end],
        algorithm=algorithm,
        verify=functools.partial(key.verify, signature_algorithm=scheme),
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


def _is_shortest(content: bytes) -> bool:
    """Whether an integer is in its shortest form, and of at most 20 bytes (RFC 5280 §4.1.2.2)."""
    return 0 < len(content) <= 20 and not (len(content) > 1 and content[0] == 0 and content[1] < 0x80)


def _are_names(data: bytes, uri: str, dns_names: tuple[str, ...]) -> bool:
    """Whether a critical extension has exactly these alternative names: the URI, then the others in this order."""
    if not data.startswith(_NAMES):
        return False
    begin, octets_end = _open(data, len(_NAMES) - 1, 0x04)
    at, end = _open(data, begin, 0x30)
    if not end == octets_end == len(data):
        return False
    for tag, name in ((0x86, uri), *[(0x82, name) for name in dns_names]):
        content, at = _open(data, at, tag)
        if not name.isascii() or data[content:at] != name.encode():
            return False
    return at == end


@functools.lru_cache(maxsize=256)
def _window(validity: bytes) -> tuple[dt.datetime, dt.datetime] | None:
    """When a validity of two UTCTimes begins and ends, None when it is none."""
    if validity[:4] != b"\x30\x1e\x17\x0d" or validity[17:19] != b"\x17\x0d":
        return None
    begin, end = _moment(validity[4:17]), _moment(validity[19:])
    return None if begin is None or end is None else (begin, end)


def _moment(text: bytes) -> dt.datetime | None:
    """The moment of a UTCTime in DER (X.690 §11.8), None when it is none."""
    if not _UTC_TIME.match(text):
        return None
    year, month, day, hour, minute, second = (int(text[place : place + 2]) for place in range(0, 12, 2))
    try:
        return dt.datetime(year + (2000 if year < 50 else 1900), month, day, hour, minute, second, tzinfo=dt.UTC)
    except ValueError:
        return None
