"""Checks our own work before it leaves: every finished leaf, against what was meant, as strictly as a peer would.

The first leaf under a chain goes through the verifier that peers run. A later one differs from it in serial number,
times, key and names alone: what it should say is put together from what was meant and from the leaf that passed, EVERY
byte is compared with that, and its signature is verified. What cannot be compared like that goes through the verifier
itself, so this never accepts what the verifier does not (a property test shows it). It reads and writes DER by itself
and shares no code with what makes leaves.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import functools
import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from mesh.bundle import TrustBundle
from mesh.crl import is_listed
from mesh.spiffe import SpiffeId, TrustDomain
from mesh.x509svid import SvidError, verify_x509_svid

_HASHES: dict[bytes, hashes.SHA256 | hashes.SHA384] = {
    bytes.fromhex("300a06082a8648ce3d040302"): hashes.SHA256(),
    bytes.fromhex("300a06082a8648ce3d040303"): hashes.SHA384(),
}
# SubjectPublicKeyInfo up to the point: P-256 (RFC 5480 §2.1.1.1)
_P256 = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d03010703420004")
_P256_BYTES = 91
_IDENTIFIER = bytes.fromhex("301d0603551d0e04160414")
_NAMES = bytes.fromhex("0603551d110101ff")
_SHA1_BYTES = 20
_TIMES_BYTES = 32
# of a Certificate and of its signed part: both are longer than 255 bytes
_HEADER_BYTES = 4
_LEAST_BYTES, _MOST_BYTES = _HEADER_BYTES + 256, 0xFFFF
_MAX_NUMBER_BYTES = 20  # RFC 5280 §4.1.2.2
_SHORT = 127
_UTC_TIME = re.compile(rb"[0-9]{12}Z\Z")
_MAX_KEPT = 8
# gives the places of signatures that do not verify, each over what stands at its place
_Wrong = Callable[[Sequence[bytes], Sequence[bytes]], list[int]]
_MAX_FRAMES = 4096


class Meant(NamedTuple):
    """What a certificate is meant to say, from what was asked and entitled: never read from the certificate.

    One for every leaf, as `Found` is: no other kind of value is made as quickly.
    """

    spiffe_id: SpiffeId
    spki: bytes
    dns_names: tuple[str, ...]
    end: dt.datetime


class Found(NamedTuple):
    """What a checked certificate says."""

    not_after: dt.datetime
    serial: int


class WrongWorkError(AssertionError):
    """A certificate that was minted says something else than what was meant: a bug, and it is not given out."""

    def __init__(self) -> None:
        super().__init__("the minted certificate says something else than what was meant")


class _Frame(NamedTuple):
    """What the signed part of a leaf with these names has before its serial number, around its key identifier, after.

    ``number`` is where the serial number begins in the leaf, ``times`` where its validity does.
    """

    before: bytes
    number: int
    times: int
    between: bytes
    after: bytes


@dataclasses.dataclass(frozen=True, slots=True)
class _Model:
    """A leaf that passed, and what of it every other leaf under the same chain has too.

    ``front`` stands before the serial number, ``above`` between that and the times, ``middle`` before the key, and
    ``back`` from the extension after the names up to the signature. ``closings`` stand between what is signed and a
    signature, by its length. ``wrong`` gives the places of signatures that do not verify over what they are of.
    ``frames`` are by names and length of the serial number.
    """

    chain: tuple[bytes, ...]
    signer: x509.Certificate
    front: bytes
    above: bytes
    middle: bytes
    back: bytes
    closings: tuple[bytes, ...]
    wrong: _Wrong
    frames: dict[tuple[str, tuple[str, ...], int], _Frame] = dataclasses.field(default_factory=dict)

    def frame(self, uri: str, dns_names: tuple[str, ...], number: int) -> _Frame:
        """What a leaf with these names has around what is its own; ``number`` is its serial number's length.

        Raises ValueError for a name or a length that no leaf can have.
        """
        found = self.frames.get((uri, dns_names, number))
        if found is None:
            if not 0 < number <= _MAX_NUMBER_BYTES:
                raise ValueError("no serial number has this length")
            names = b"".join([_name(0x86, uri), *[_name(0x82, name) for name in dns_names]])
            after = _wrapped(0x30, _NAMES + _wrapped(0x04, _wrapped(0x30, names))) + self.back
            inside = len(_IDENTIFIER) + _SHA1_BYTES + len(after)
            between = _header(0xA3, len(_header(0x30, inside)) + inside) + _header(0x30, inside) + _IDENTIFIER
            before = self.front + _header(0x02, number)
            size = len(before) + number + len(self.above) + _TIMES_BYTES + len(self.middle) + _P256_BYTES
            before = _header(0x30, size + len(between) + _SHA1_BYTES + len(after)) + before
            begin = _HEADER_BYTES + len(before)
            found = _Frame(before, begin, begin + number + len(self.above), between, after)
            if len(self.frames) >= _MAX_FRAMES:
                self.frames.clear()
            self.frames[uri, dns_names, number] = found
        return found


class OwnCheck:
    """Checks the leaves of one trust domain; remembers, by chain, a leaf that the verifier passed."""

    def __init__(self, trust_domain: TrustDomain) -> None:
        self._domain = trust_domain
        self._workloads = f"{trust_domain.id}/"
        self._models: dict[tuple[bytes, ...], _Model] = {}
        # what was asked last, and passed: all leaves of a batch ask the same
        self._vouched: set[bytes] = set()
        self._passed: tuple[tuple[bytes, ...], TrustBundle, dt.datetime] | None = None

    def vouch(self, leaves: Iterable[bytes]) -> None:
        """Take it as known that the signatures of these leaves verify, in place of all that was known before.

        Only for leaves whose signatures were verified with the issuing key where they were made; for one `check` each.
        """
        self._vouched = set(leaves)

    def check(self, chain: tuple[bytes, ...], meant: Meant, bundle: TrustBundle, now: dt.datetime) -> Found:
        """Check a leaf that was just signed, as `check_all` does."""
        return self.check_all([chain], [meant], bundle, now)[0]

    def check_all(
        self, chains: Sequence[tuple[bytes, ...]], meant: Sequence[Meant], bundle: TrustBundle, now: dt.datetime
    ) -> list[Found]:
        """Check leaves that were just signed; one that is wrong refuses them all.

        1. A leaf that passed under the same chain still passes (it is remembered while nothing changed), and this one
           is cut into the same parts.
        2. Serial number, times, key, key identifier and names are what was meant, and every other part is the same; no
           revocation list names the serial number.
        3. The signature verifies under the same issuer's key, here or where it was made (`vouch`).
        4. Otherwise the verifier has the word, and what it found is compared with what was meant.

        Signatures are verified one right after the other: that leaves the processor's caches to the curve.

        Raises WrongWorkError, or what the verifier raises.
        """
        found: list[Found] = []
        unverified: dict[tuple[bytes, ...], tuple[_Model, list[int], list[bytes], list[bytes]]] = {}
        passing: _Model | None = None
        for place, (chain, wanted) in enumerate(zip(chains, meant, strict=True)):
            # (1)
            leaf, above = chain[0], chain[1:]
            if passing is None or passing.chain[1:] != above:
                model = self._models.get(above)
                passing = model if model is not None and self._still_passes(model.chain, bundle, now) else None
            # (2)
            same = None if passing is None else _compare(leaf, passing, wanted, self._workloads, bundle, now)
            if passing is None or same is None:
                # (4)
                found.append(self._check_in_full(chain, wanted, bundle, now))
                passing = None
                continue
            said, signature, signed = same
            found.append(said)
            if leaf in self._vouched:
                self._vouched.discard(leaf)
                continue
            waiting = unverified.get(above)
            if waiting is None:
                waiting = unverified[above] = (passing, [], [], [])
            waiting[1].append(place)
            waiting[2].append(signature)
            waiting[3].append(signed)
        # (3)
        for model, places, signatures, parts in unverified.values():
            for wrong in model.wrong(signatures, parts):
                # (4)
                place = places[wrong]
                found[place] = self._check_in_full(chains[place], meant[place], bundle, now)
        return found

    def _check_in_full(self, chain: tuple[bytes, ...], meant: Meant, bundle: TrustBundle, now: dt.datetime) -> Found:
        """Step 4 of `check_all`; a leaf that passes is the model from then on."""
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


def _compare(
    leaf: bytes, model: _Model, meant: Meant, workloads: str, bundle: TrustBundle, now: dt.datetime
) -> tuple[Found, bytes, bytes] | None:
    """Step 2 of `check_all`: what the leaf says, its signature, and what that has to be of.

    None when it cannot be said here. EVERY byte of the leaf is looked at.
    """
    spki, uri = meant.spki, str(meant.spiffe_id)
    if len(spki) != _P256_BYTES or not spki.startswith(_P256) or not uri.startswith(workloads):
        return None
    if not _LEAST_BYTES <= len(leaf) <= _MOST_BYTES:
        return None
    # Certificate, TBSCertificate; version, serialNumber: its length is the first byte that is not known
    size = leaf[2 * _HEADER_BYTES + len(model.front) + 1]
    try:
        frame = model.frame(uri, meant.dns_names, size)
    except ValueError:
        return None
    before, number_at, times_at, between, after = frame
    number = leaf[number_at : times_at - len(model.above)]
    times = leaf[times_at : times_at + _TIMES_BYTES]
    identifier = hashlib.sha1(spki[26:], usedforsecurity=False).digest()
    # signature, issuer; validity; subject; subjectPublicKeyInfo; [3] extensions: the key's identifier, the names,
    # and what is the same for all
    signed = b"".join((before, number, model.above, times, model.middle, spki, between, identifier, after))
    # signatureAlgorithm, signatureValue
    end = _HEADER_BYTES + len(signed)
    signature = leaf[end + len(model.closings[0]) :]
    if len(signature) >= _SHORT:
        return None
    wanted = b"".join((_header(0x30, len(leaf) - _HEADER_BYTES), signed, model.closings[len(signature)], signature))
    # what is this leaf's own
    serial, window = _serial(number), _window(times)
    if leaf != wanted or not serial or window is None or not window[0] <= now <= window[1] <= meant.end:
        return None
    if bundle.crls and any(is_listed(serial, crl, model.signer) for crl in bundle.crls):
        return None
    return Found(window[1], serial), signature, signed


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
    chosen = _HASHES.get(algorithm)
    if chosen is None:
        return None
    try:
        key.verify(read.signature, read.tbs_certificate_bytes, ec.ECDSA(chosen))
    except InvalidSignature:
        return None
    return _Model(
        chain=chain,
        signer=signer,
        front=leaf[at:version_end],
        above=leaf[number_end:issuer_end],
        middle=leaf[times_end:subject_end],
        back=leaf[names_end:tbs_end],
        closings=tuple([algorithm + bytes((0x03, size + 1, 0)) for size in range(_SHORT)]),
        wrong=_wrong(key, chosen),
    )


def _wrong(key: ec.EllipticCurvePublicKey, chosen: hashes.SHA256 | hashes.SHA384) -> _Wrong:
    """Verifies signatures over bytes, which the standard library hashes: the key's own takes longer to begin."""
    verify, scheme = key.verify, ec.ECDSA(Prehashed(chosen))
    digest = hashlib.sha384 if isinstance(chosen, hashes.SHA384) else hashlib.sha256

    def wrong(signatures: Sequence[bytes], parts: Sequence[bytes]) -> list[int]:
        digests = [digest(part).digest() for part in parts]
        found = []
        for place, (signature, hashed) in enumerate(zip(signatures, digests, strict=True)):
            try:
                verify(signature, hashed, scheme)
            except InvalidSignature:
                found.append(place)
        return found

    return wrong


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


def _header(tag: int, size: int) -> bytes:
    """The tag and the length, in its shortest form, of a value of fewer than 65536 bytes. Raises ValueError."""
    if size < 0x80:
        return bytes((tag, size))
    if size < 0x100:
        return bytes((tag, 0x81, size))
    if size < 0x10000:
        return bytes((tag, 0x82, size >> 8, size & 0xFF))
    raise ValueError("a value of more than 65535 bytes")


def _wrapped(tag: int, content: bytes) -> bytes:
    return _header(tag, len(content)) + content


def _name(tag: int, text: str) -> bytes:
    """An alternative name. Raises ValueError for one that is not ASCII."""
    return _wrapped(tag, text.encode("ascii"))


def _serial(content: bytes) -> int:
    """A serial number: positive, in its shortest form, of at most 20 bytes (RFC 5280 §4.1.2.2); 0 when it is none."""
    if not content or content[0] >= 0x80 or (content[0] == 0 and content[1:2] < b"\x80"):
        return 0
    return int.from_bytes(content, "big")


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
