"""X.509-SVIDs from a template: the parts of a leaf that an issuer never changes, written once, and the rest between.

`ca.mint.mint_svid` says what a leaf is; this writes the very same bytes (a property test compares them) without the
library's builder, which costs several times as much as the signature. Strict DER (X.690 §10), and only what a leaf
needs. What the template does not know is refused with None, and the builder makes it. Pure.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import functools
import hashlib
from typing import NamedTuple

from cryptography import x509

from ca.keys import SignAll, SigningKey
from ca.mint import Issuer, window_under
from mesh.der import header, wrap
from mesh.spiffe import SpiffeId

_FIRST_YEAR, _YEAR_AFTER = 1950, 2050  # of UTCTime (RFC 5280 §4.1.2.5)
_SERIALS = 1 << 159
_MAX_NAMES = 100
_SHA1_BYTES = 20
_P256_BYTES = 91
_TIMES_BYTES = 30
# [0] version v3; the empty subject; the extensions of RFC 5280 §4.2.1 as `mint_svid` asks for them
_VERSION = bytes.fromhex("a003020102")
_VALIDITY = bytes.fromhex("301e")
_NO_SUBJECT = bytes.fromhex("3000")
_SUBJECT_KEY_ID = bytes.fromhex("301d0603551d0e04160414")
_NAMES = bytes.fromhex("0603551d110101ff")
_USES = bytes.fromhex(
    "300c0603551d130101ff04023000"  # basic constraints: critical, no CA
    "300e0603551d0f0101ff040403020780"  # key usage: critical, digitalSignature alone
    "301d0603551d250416301406082b0601050507030106082b06010505070302"  # both server and client authentication
)
_AUTHORITY_KEY_ID = bytes.fromhex("0603551d23")


def key_bits(spki: bytes) -> bytes | None:
    """The bits of a SubjectPublicKeyInfo in DER (RFC 5280 §4.1): what its key identifier is the hash of.

    None when the bytes are not one sequence of an algorithm and a whole number of bits.
    """
    outer = _content(spki, 0, 0x30)
    if outer is None or outer[1] != len(spki):
        return None
    algorithm = _content(spki, outer[0], 0x30)
    if algorithm is None:
        return None
    bits = _content(spki, algorithm[1], 0x03)
    if bits is None or bits[1] != len(spki) or bits[0] >= bits[1] or spki[bits[0]] != 0:
        return None
    return spki[bits[0] + 1 :]


def _content(data: bytes, at: int, tag: int) -> tuple[int, int] | None:
    """Where the content of the value at a place begins and ends, None when it has another tag or is cut off."""
    if at + 2 > len(data) or data[at] != tag:
        return None
    size, begin = data[at + 1], at + 2
    if size >= 0x80:
        begin += size & 0x7F
        size = int.from_bytes(data[at + 2 : begin], "big")
    return (begin, begin + size) if begin + size <= len(data) else None


class _Frame(NamedTuple):
    """What leaves with the same names have before the serial number, around the key's identifier, and after it."""

    before: bytes
    between: bytes
    after: bytes


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LeafTemplate:
    """What all leaves of one issuer have in common, and when the issuer is valid."""

    since: dt.datetime
    until: dt.datetime
    _sign: SignAll = dataclasses.field(repr=False)
    _algorithm: bytes
    _head: bytes
    _tail: bytes

    @classmethod
    def of(cls, issuer: Issuer) -> LeafTemplate | None:
        """The template of an issuer, None when its leaves need something that is not known here."""
        certificate, key = issuer.certificate, SigningKey(issuer.key)
        try:
            identifier = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
            algorithm = key.signature_algorithm
        except (x509.ExtensionNotFound, ValueError):
            return None
        above = wrap(0x30, wrap(0x80, identifier))
        return cls(
            since=certificate.not_valid_before_utc,
            until=certificate.not_valid_after_utc,
            _sign=key.signer(),
            _algorithm=algorithm,
            _head=algorithm + certificate.subject.public_bytes() + _VALIDITY,
            _tail=_USES + wrap(0x30, _AUTHORITY_KEY_ID + wrap(0x04, above)),
        )

    def tbs(
        self,
        spiffe_id: SpiffeId,
        spki: bytes,
        *,
        serial: int,
        now: dt.datetime,
        life: dt.timedelta,
        dns_names: tuple[str, ...] = (),
    ) -> bytes | None:
        """The signed part (TBSCertificate) of what `mint_svid` makes, None where the template does not fit.

        Raises what `mint_svid` raises.
        """
        if not spiffe_id.path:
            raise ValueError("a workload's SPIFFE ID has a path")
        times = _times(self.since, self.until, now, life)
        bits = spki[26:] if len(spki) == _P256_BYTES else key_bits(spki)
        if times is None or bits is None or not 0 < serial < _SERIALS or len(dns_names) > _MAX_NAMES:
            return None
        # the first bit of a positive integer is 0 (X.690 §8.3)
        number = serial.to_bytes(serial.bit_length() // 8 + 1, "big")
        try:
            frame = _frame(str(spiffe_id), dns_names, self._tail, len(number), len(self._head), len(spki))
        except UnicodeEncodeError:
            return None
        identifier = hashlib.sha1(bits, usedforsecurity=False).digest()  # RFC 5280 §4.2.1.2 (1)
        return b"".join(
            (frame.before, number, self._head, times, _NO_SUBJECT, spki, frame.between, identifier, frame.after)
        )

    def mint(
        self,
        spiffe_id: SpiffeId,
        spki: bytes,
        *,
        serial: int,
        now: dt.datetime,
        life: dt.timedelta,
        dns_names: tuple[str, ...] = (),
    ) -> bytes | None:
        """Mint an X.509-SVID as `mint_svid` does, None where the template does not fit. Raises what that raises."""
        tbs = self.tbs(spiffe_id, spki, serial=serial, now=now, life=life, dns_names=dns_names)
        if tbs is None:
            return None
        return self.certificate(tbs, self._sign([tbs])[0])

    def certificate(self, tbs: bytes, signature: bytes) -> bytes:
        """The certificate of a signed part and its signature (RFC 5280 §4.1)."""
        content = b"".join((tbs, self._algorithm, header(0x03, 1 + len(signature)), b"\x00", signature))
        return header(0x30, len(content)) + content


# workloads come back under their names
@functools.lru_cache(maxsize=4096)
def _frame(uri: str, dns_names: tuple[str, ...], tail: bytes, number: int, above: int, spki: int) -> _Frame:
    """The frame of leaves with these names, which end with ``tail``.

    ``number``, ``above`` and ``spki`` are how many bytes the serial number, what stands between that and the times, and
    the key have. Raises UnicodeEncodeError for a name that is not ASCII.
    """
    names = b"".join([wrap(0x86, uri.encode("ascii")), *[wrap(0x82, name.encode("ascii")) for name in dns_names]])
    after = wrap(0x30, _NAMES + wrap(0x04, wrap(0x30, names))) + tail
    extensions = len(_SUBJECT_KEY_ID) + _SHA1_BYTES + len(after)
    between = header(0xA3, len(header(0x30, extensions)) + extensions) + header(0x30, extensions) + _SUBJECT_KEY_ID
    before = _VERSION + header(0x02, number)
    size = len(before) + number + above + _TIMES_BYTES + len(_NO_SUBJECT) + spki
    return _Frame(header(0x30, size + len(between) + _SHA1_BYTES + len(after)) + before, between, after)


@functools.lru_cache(maxsize=256)
def _times(since: dt.datetime, until: dt.datetime, now: dt.datetime, life: dt.timedelta) -> bytes | None:
    """When a leaf begins and ends, as two UTCTimes in whole seconds; None when that cannot say it.

    Raises what `window_under` raises.
    """
    begin, end = window_under(since, until, now, life)
    if begin.year < _FIRST_YEAR or end.year >= _YEAR_AFTER:
        return None
    return b"".join([wrap(0x17, f"{moment:%y%m%d%H%M%S}Z".encode("ascii")) for moment in (begin, end)])
