"""The one canonical form of a request's path and host, and the patterns that are compared with it.

Everything that reads a path uses this module, and the canonical target is what is forwarded, so that the
policy and the application cannot read one path in two ways (design D3). A raw target is text whose code points
up to U+00FF are the bytes of the wire. This module knows no rules and no services.
"""

from __future__ import annotations

import dataclasses
import functools
import ipaddress
import re
import unicodedata
from typing import Literal, NamedTuple
from urllib.parse import quote

MAX_TARGET_LENGTH = 65_536

# RFC 3986 §3.3: unreserved, sub-delims, ":" and "@" stand for themselves in a segment; `;` is refused below
_SEGMENT_SAFE = "!$&'()*+,=:@"
_CLEAN = re.compile(r"[A-Za-z0-9\-._~!$&'()*+,=:@/]+")
# a target that is canonical as it stands, unless a segment within is empty or ends in a dot; saying that here too would
# take a possessive repetition of a group, and before Python 3.11.5 those match what they should not
_PLAIN_TARGET = re.compile(r"/((?!/)[A-Za-z0-9\-._~!$&'()*+,=:@/]*)(?<!\.)(?:\?[\x21\x22\x24-\x7e\x80-\xff]*)?")
_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})?")
_REFUSED_BYTES = frozenset(b"/\\?#%;") | frozenset(range(0x20)) | {0x7F}
_QUERY_REFUSED = re.compile(r"[\x00-\x20\x7f#]|[^\x00-\xff]")

_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?")
_PORT = re.compile(r"[0-9]{0,5}")


@dataclasses.dataclass(frozen=True, slots=True)
class Ambiguous:
    """An input that two programs could read differently. ``reason`` states the rule that it breaks."""

    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class Malformed:
    """A host that is no host name and no address. ``reason`` states the rule that it breaks."""

    reason: str


class CanonicalPath(NamedTuple):
    """A path in canonical form. ``segments`` are decoded; ``query`` is verbatim, None when there is none."""

    text: str
    segments: tuple[str, ...]
    query: str | None

    @property
    def target(self) -> str:
        """The request target as it is forwarded."""
        return self.text if self.query is None else f"{self.text}?{self.query}"


PathCase = Literal["sensitive", "insensitive"]
"""Whether a service tells `/Admin` from `/admin`. Hosts never differ by case (RFC 9110 §4.2.3)."""


def canonical_path(raw: str, case: PathCase = "sensitive") -> CanonicalPath | Ambiguous:
    r"""Bring a raw request target into its one canonical form, or say why it has none (design D3).

    1. The target begins with a slash. The query begins at the first `?` and stays verbatim.
    2. Repeated slashes are one; a trailing slash stays.
    3. Each segment is percent-decoded as UTF-8. Refused: `;`, `\`, `#` and control bytes as they are; encoded
       `/ \ ? # % ;` and control bytes; an invalid escape; invalid UTF-8.
    4. A segment that begins or ends in white space, or ends in a dot and is no dot segment, is refused.
    5. Dot segments are resolved; one that leaves the root is refused.
    6. Segments are encoded again, with upper-case hex, where RFC 3986 §3.3 asks for it.
    7. For a service whose paths are case-insensitive ``segments`` are folded (`folded`); ``text``, which is what is
       forwarded, keeps its letters.

    Slashes are merged before dot segments are resolved: `/api//../admin` is `/admin`, the reading that gives
    an attacker less.
    """
    # (1)
    if not raw.startswith("/"):
        return Ambiguous("a request target begins with a slash")
    if len(raw) > MAX_TARGET_LENGTH:
        return Ambiguous(f"a request target is at most {MAX_TARGET_LENGTH} characters long")
    path, mark, query_text = raw.partition("?")
    query = query_text if mark else None
    if query is not None and _QUERY_REFUSED.search(query):
        return Ambiguous("a query holds no white space, control bytes or `#`")
    if _is_clean(path):
        compared = path if case == "sensitive" else path.lower()  # a clean path is ASCII
        return CanonicalPath(path, tuple(compared[1:].split("/")), query)
    resolved = _resolve(path)
    if isinstance(resolved, Ambiguous):
        return resolved
    # (6)
    text = "/" + "/".join(quote(segment, safe=_SEGMENT_SAFE) for segment in resolved)
    # (7)
    segments = resolved if case == "sensitive" else folded(resolved)
    return segments if isinstance(segments, Ambiguous) else CanonicalPath(text, segments, query)


def folded(segments: tuple[str, ...]) -> tuple[str, ...] | Ambiguous:
    """Segments with one case of letters, as a service that ignores case compares them.

    1. ASCII letters become lower case; so does any other letter whose case every program sees alike.
    2. A letter whose lower case, upper case and case folding do not agree (the kelvin sign, the sharp and the long s,
       the Turkish i) is refused: some servers take it for an ASCII letter, or for two, and others do not.
    """
    found: list[str] = []
    for segment in segments:
        # (1)
        if segment.isascii():
            found.append(segment.lower())
            continue
        # letter by letter: the lower case of a Greek sigma depends on its place in a word
        if not all(char.isascii() or _folds_alike(char) for char in segment):
            # (2)
            return Ambiguous("a path that ignores case has no letters whose case programs see differently")
        found.append("".join(char.lower() for char in segment))
    return tuple(found)


@functools.lru_cache(maxsize=4096)
def _folds_alike(char: str) -> bool:
    """Whether lower case, upper case and case folding of a character agree, one character each, outside of ASCII."""
    lower, upper = char.lower(), char.upper()
    return (
        len(lower) == len(upper) == 1
        and char.casefold() == lower == upper.lower() == upper.casefold()
        and lower.upper() == upper
        and not lower.isascii()
    )


def canonical_segments(raw: str) -> tuple[str, ...] | Ambiguous:
    """The segments of a request target's canonical form, or why it has none: `canonical_path` for who only decides."""
    plain = plain_segments(raw)
    if plain is not None:
        return plain
    found = canonical_path(raw)
    return found if isinstance(found, Ambiguous) else found.segments


def plain_segments(raw: str) -> tuple[str, ...] | None:
    """The segments of a target that is canonical as it stands; None for any other one, which may be canonical too."""
    plain = _PLAIN_TARGET.fullmatch(raw) if len(raw) <= MAX_TARGET_LENGTH else None
    if plain is None:
        return None
    path = plain[1]
    return None if "//" in path or "./" in path else tuple(path.split("/"))


def _resolve(path: str) -> tuple[str, ...] | Ambiguous:
    """The decoded segments of a path (steps 2 to 5)."""
    # (2)
    *inner, last = path[1:].split("/")
    resolved: list[str] = []
    segment = ""
    for part in (*filter(None, inner), last):
        # (3)
        decoded = _decode_segment(part)
        if isinstance(decoded, Ambiguous):
            return decoded
        segment = decoded
        # (5)
        if segment == "..":
            if not resolved:
                return Ambiguous("dot segments stay below the root")
            resolved.pop()
        elif segment and segment != ".":
            # (4)
            if segment[0].isspace() or segment[-1].isspace():
                return Ambiguous("a segment does not begin or end in white space")
            if segment[-1] == ".":
                return Ambiguous("a segment does not end in a dot")
            resolved.append(segment)
    if segment in {"", ".", ".."}:  # the last one: a directory, so the trailing slash stays
        resolved.append("")
    return tuple(resolved)


def _is_clean(path: str) -> bool:
    """Whether the path is canonical as it stands (the fast way for nearly every request)."""
    return (
        _CLEAN.fullmatch(path) is not None
        and "//" not in path
        and "./" not in path  # covers /./ and /../ and a segment that ends in a dot
        and not path.endswith(".")
    )


def _decode_segment(raw: str) -> str | Ambiguous:
    """Percent-decode one segment, or say why its meaning is open (step 3)."""
    try:
        data = raw.encode("latin-1")
    except UnicodeEncodeError:
        return Ambiguous("a request target consists of bytes")
    refused: list[str] = []

    def decode(match: re.Match[bytes]) -> bytes:
        digits = match[1]
        if digits is None:
            refused.append("an escape is `%` and two hexadecimal digits")
            return b""
        value = int(digits, 16)
        if value in _REFUSED_BYTES:
            refused.append("`/`, `\\`, `?`, `#`, `%`, `;` and control bytes are not percent-encoded")
        return bytes((value,))

    if any(byte in b"\\;#\x7f" or byte < 0x20 for byte in data):
        return Ambiguous("a path holds no `;`, `\\`, `#` or control bytes")
    decoded = _ESCAPE.sub(decode, data)
    if refused:
        return Ambiguous(refused[0])
    try:
        text = decoded.decode("utf-8")
    except UnicodeDecodeError:
        return Ambiguous("a path is valid UTF-8")
    if any(unicodedata.category(char) == "Cc" for char in text):
        return Ambiguous("a path holds no control characters")
    return text


@functools.lru_cache(maxsize=4096)
def canonical_host(raw: str) -> str | Ambiguous | Malformed:
    """Bring a Host into canonical form: lower case, no port, no final dot, addresses in their shortest form.

    1. A comma joins two Hosts: ambiguous.
    2. A bracketed IPv6 address is written in its shortest form, with its brackets.
    3. A port, possibly empty, is cut off.
    4. One final dot is cut off; what is left is labels of letters, digits, `-` and `_`.
    """
    # (1)
    if "," in raw:
        return Ambiguous("a request has one Host")
    host = raw.lower() if raw.isascii() else ""
    # (2)
    if host.startswith("["):
        address, bracket, rest = host[1:].partition("]")
        if not bracket or (rest and not (rest[0] == ":" and _PORT.fullmatch(rest[1:]))):
            return Malformed("an IPv6 address stands in brackets before the port")
        try:
            return f"[{ipaddress.IPv6Address(address)}]" if "%" not in address else _no_zone()
        except ValueError:
            return Malformed("what stands in brackets is an IPv6 address")
    # (3)
    host, colon, port = host.partition(":")
    if colon and not _PORT.fullmatch(port):
        return Malformed("a port consists of at most five digits")
    # (4)
    host = host.removesuffix(".")
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in host.split(".")):
        return Malformed("a host name consists of labels of letters, digits, `-` and `_`")
    return host


def _no_zone() -> Malformed:
    return Malformed("an address in a Host has no zone")


SegmentType = Literal["int", "decimal", "uuid", "hex", "date", "ulid", "token"]

SEGMENT_TYPES: dict[str, re.Pattern[str]] = {
    "int": re.compile(r"[0-9]+"),
    "decimal": re.compile(r"-?[0-9]+(?:\.[0-9]+)?"),
    "uuid": re.compile(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}"),
    "hex": re.compile(r"[0-9A-Fa-f]+"),
    "date": re.compile(r"[0-9]{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12][0-9]|3[01])"),
    "ulid": re.compile(r"[0-7][0-9A-HJKMNP-TV-Za-hjkmnp-tv-z]{25}"),
    "token": re.compile(r"[A-Za-z0-9._~-]+"),
}
# a literal that is its own canonical form: no escape, no `*`, no dot at the end, nothing of a regular expression
_PLAIN_LITERAL = re.compile(r"[A-Za-z0-9\-._~!&',=:@]*[A-Za-z0-9\-_~!&',=:@]")
# what no path that is meant as written has: `c++`, `f(1)` and `$batch` are none
_REGEX_LIKE = re.compile(r"[\[\]^|]|\)[+$]|\+\)|\.\+|.\$\Z")
_PARAMETER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)(?::([a-z]+))?\}")


class PatternError(ValueError):
    """The text is no path or host pattern; the message states the rule that it breaks."""


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class PathSegment:
    """One place of a path pattern: a decoded literal, or any non-empty segment of a type.

    ``type`` is "literal", "any", or a name of `SEGMENT_TYPES`.
    """

    type: str
    literal: str = ""

    def matches(self, segment: str) -> bool:
        """Whether a decoded segment of a canonical path fits."""
        if self.type == "literal":
            return segment == self.literal
        if self.type == "any":
            return segment != ""
        return SEGMENT_TYPES[self.type].fullmatch(segment) is not None


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class PathPattern:
    """A set of canonical paths: `/exact`, `/a/{x}/b`, `/a/{x:uuid}`, and each of them with a final `/**`.

    `/prefix/**` needs at least one further segment, which may be empty: `/admin/` is in `/admin/**`, `/admin` is
    not. `/**` is every path.
    """

    segments: tuple[PathSegment, ...]
    subtree: bool
    text: str = dataclasses.field(compare=False)
    ignores_case: bool = False
    """Whether it is one of a service that ignores case: its literals are folded, and it speaks of folded paths."""

    @classmethod
    def parse(cls, text: str) -> PathPattern:
        """Read a pattern.

        1. It begins with a slash; a final `/**` makes it a subtree.
        2. `{name}` and `{name:type}` are whole segments.
        3. Every other segment is a literal in any spelling whose canonical form is one segment. What looks like a
           regular expression is refused: as a literal it would match nothing that its author means.

        Raises PatternError with the rule that the text breaks.
        """
        # (1)
        if not text.startswith("/"):
            raise PatternError("a path begins with a slash")
        subtree = text.endswith("/**")
        stem = text[:-3] if subtree else text
        parts = stem[1:].split("/") if stem else []
        segments = tuple(
            _parse_segment(part, is_last=place == len(parts) - 1 and not subtree) for place, part in enumerate(parts)
        )
        return cls(segments, subtree, text)

    def folded(self) -> PathPattern | Ambiguous:
        """The pattern as a service that ignores case compares it; its text stays as it was written."""
        literals = folded(tuple(place.literal for place in self.segments))
        if isinstance(literals, Ambiguous):
            return literals
        places = zip(self.segments, literals, strict=True)
        return dataclasses.replace(
            self,
            segments=tuple(dataclasses.replace(place, literal=literal) for place, literal in places),
            ignores_case=True,
        )

    def holds(self, path: tuple[str, ...]) -> bool:
        """Whether a canonical path is in the set, as it came: a pattern that ignores case folds it first."""
        compared = folded(path) if self.ignores_case else path
        return not isinstance(compared, Ambiguous) and self.matches(compared)

    def matches(self, path: tuple[str, ...]) -> bool:
        """Whether the segments of a canonical path are in the set."""
        count = len(self.segments)
        if self.subtree:
            if len(path) <= count:
                return False
        elif len(path) != count:
            return False
        return all(place.matches(segment) for place, segment in zip(self.segments, path, strict=False))

    def __str__(self) -> str:
        return self.text


def _parse_segment(part: str, *, is_last: bool) -> PathSegment:
    """Read one segment of a pattern (steps 2 and 3)."""
    if _PLAIN_LITERAL.fullmatch(part) is not None and len(part) < MAX_TARGET_LENGTH:
        return PathSegment("literal", part)
    if found := _PARAMETER.fullmatch(part):
        kind = found[2]
        if kind is not None and kind not in SEGMENT_TYPES:
            raise PatternError(f"a typed segment is one of {', '.join(SEGMENT_TYPES)}: `{kind}`")
        return PathSegment(kind or "any")
    _check_literal(part)
    if not part and not is_last:
        raise PatternError("a path has no empty segment but the last")
    # a pattern is text, a target is bytes: what is not ASCII goes in as UTF-8
    canonical = canonical_path("/" + quote(part, safe=_SEGMENT_SAFE + "%;\\#"))
    if isinstance(canonical, Ambiguous):
        raise PatternError(canonical.reason)
    if len(canonical.segments) != 1 or (part and not canonical.segments[0]):
        raise PatternError("a path pattern has no dot segments")
    return PathSegment("literal", canonical.segments[0])


def _check_literal(part: str) -> None:
    """Refuse what a literal segment is not spelled with."""
    if "{" in part or "}" in part:
        raise PatternError(f"`{{name}}` stands for a whole segment: `{part}`")
    if "*" in part:
        raise PatternError("a path holds `*` only as a final `/**`; write `%2A` for the character")
    if "?" in part:
        raise PatternError("a path pattern has no query")
    if found := _REGEX_LIKE.search(part):
        raise PatternError(f"a path is no regular expression; percent-encode `{found[0]}` if it is meant as written")


def literal_text(segment: str) -> str:
    """How a pattern spells one literal segment, so that it is read as that."""
    text = quote(segment, safe="!$&'()+,=:@")
    return text if _REGEX_LIKE.search(text) is None else quote(segment, safe="!&',=:@")


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class HostPattern:
    """A set of canonical hosts: one host, or `*.example.com` with exactly one label for the `*`."""

    name: str
    wildcard: bool

    @classmethod
    def parse(cls, text: str) -> HostPattern:
        """Read a pattern.

        Raises PatternError with the rule that the text breaks.
        """
        wildcard = text.startswith("*.")
        canonical = canonical_host(text[2:] if wildcard else text)
        if not isinstance(canonical, str):
            raise PatternError(canonical.reason)
        if canonical != (text[2:] if wildcard else text):
            raise PatternError(f"a host is written without port, in canonical form: `{canonical}`")
        return cls(canonical, wildcard)

    def matches(self, host: str) -> bool:
        """Whether a canonical host is in the set."""
        if not self.wildcard:
            return host == self.name
        _, dot, rest = host.partition(".")
        return bool(dot) and rest == self.name

    def __str__(self) -> str:
        return f"*.{self.name}" if self.wildcard else self.name
