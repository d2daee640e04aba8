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
from collections.abc import Callable

from cryptography import x509

from ca.keys import SigningKey
from ca.mint import Issuer, window_under
from mesh.spiffe import SpiffeId

_FIRST_YEAR, _YEAR_AFTER = 1950, 2050  # of UTCTime (RFC 5280 §4.1.2.5)
_SERIALS = 1 << 159
_MAX_NAMES = 100
# [0] version v3; the empty subject; the extensions of RFC 5280 §4.2.1 as `mint_svid` asks for them
_VERSION = bytes.fromhex("a003020102")
_NO_SUBJECT = bytes.fromhex("3000")
_SUBJECT_KEY_ID = bytes.fromhex("301d0603551d0e04160414")
_NAMES = bytes.fromhex("0603551d110101ff")
_USES = bytes.fromhex(
    "300c0603551d130101ff04023000"  # basic constraints: critical, no CA
    "300e0603551d0f0101ff040403020780"  # key usage: critical, digitalSignature alone
    "301d0603551d250416301406082b0601050507030106082b06010505070302"  # both server and client authentication
)
_AUTHORITY_KEY_ID = bytes.fromhex("0603551d23")


def der(tag: int, content: bytes) -> bytes:
    """One value: tag, length in its shortest form, content."""
    size = len(content)
    return _TAGS[tag] + (_SIZES[size] if size < _USUAL else _size(size)) + content


def _size(size: int) -> bytes:
    if size < 128:
        return bytes((size,))
    data = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((0x80 | len(data),)) + data


_USUAL = 1024
_SIZES = tuple(_size(size) for size in range(_USUAL))
_TAGS = tuple(bytes((tag,)) for tag in range(256))


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


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LeafTemplate:
    """What all leaves of one issuer have in common, and when the issuer is valid."""

    since: dt.datetime
    until: dt.datetime
    _sign: Callable[[bytes], bytes] = dataclasses.field(repr=False)
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
        above = der(0x30, der(0x80, identifier))
        return cls(
            since=certificate.not_valid_before_utc,
            until=certificate.not_valid_after_utc,
            _sign=key.signer(),
            _algorithm=algorithm,
            _head=algorithm + certificate.subject.public_bytes(),
            _tail=_USES + der(0x30, _AUTHORITY_KEY_ID + der(0x04, above)),
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
        begin, end = window_under(self.since, self.until, now, life)
        bits = spki[26:] if len(spki) == 91 else key_bits(spki)
        fits = (
            begin.year >= _FIRST_YEAR
            and end.year < _YEAR_AFTER
            and 0 < serial < _SERIALS
            and len(dns_names) <= _MAX_NAMES
        )
        if not fits or bits is None:
            return None
        try:
            names = der(0x86, str(spiffe_id).encode("ascii"))
            for name in dns_names:
                names += der(0x82, name.encode("ascii"))
        except UnicodeEncodeError:
            return None
        # the first bit of a positive integer is 0 (X.690 §8.3)
        number = serial.to_bytes(serial.bit_length() // 8 + 1, "big")
        times = b"\x17\x0d" + _time(begin) + b"\x17\x0d" + _time(end)
        extensions = (
            _SUBJECT_KEY_ID
            + hashlib.sha1(bits, usedforsecurity=False).digest()  # RFC 5280 §4.2.1.2 (1)
            + der(0x30, _NAMES + der(0x04, der(0x30, names)))
            + self._tail
        )
        return der(
            0x30,
            _VERSION
            + der(0x02, number)
            + self._head
            + b"\x30\x1e"
            + times
            + _NO_SUBJECT
            + spki
            + der(0xA3, der(0x30, extensions)),
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
        return self.certificate(tbs, self._sign(tbs))

    def certificate(self, tbs: bytes, signature: bytes) -> bytes:
        """The certificate of a signed part and its signature (RFC 5280 §4.1)."""
        return der(0x30, tbs + self._algorithm + der(0x03, b"\x00" + signature))


@functools.lru_cache(maxsize=256)
def _time(moment: dt.datetime) -> bytes:
    """A moment as UTCTime in whole seconds."""
    return b"%02d%02d%02d%02d%02d%02dZ" % (
        moment.year % 100,
        moment.month,
        moment.day,
        moment.hour,
        moment.minute,
        moment.second,
    )
