"""SPIFFE IDs, trust domains and the patterns that policies write about them.

Parsing follows SPIFFE-ID.md §2 to the letter and is strict where the standard leaves room: an upper-case
scheme is refused (§2.1 and §2.4 disagree), and an ID longer than 2048 bytes is refused (§2.3). This module
verifies no certificate.
"""

from __future__ import annotations

import dataclasses
import re

MAX_ID_BYTES = 2048
MAX_TRUST_DOMAIN_BYTES = 255
_SCHEME = "spiffe://"
_TRUST_DOMAIN = re.compile(r"[a-z0-9._-]+\Z")
_SEGMENT = re.compile(r"[A-Za-z0-9._-]+\Z")
_PLAIN_PATH = re.compile(r"(?:/[A-Za-z0-9_-][A-Za-z0-9._-]*)+\Z")


class SpiffeIdError(ValueError):
    """The text is no SPIFFE ID; the message states the rule that it breaks."""


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class TrustDomain:
    """The root of naming and trust, such as ``prod.example``."""

    name: str

    @classmethod
    def parse(cls, text: str) -> TrustDomain:
        """Read a trust domain name (SPIFFE-ID §2.1).

        Raises SpiffeIdError with the rule that the text breaks.
        """
        if not text:
            raise SpiffeIdError("trust domain is missing")
        if not _TRUST_DOMAIN.match(text):
            raise SpiffeIdError(
                "trust domain characters are limited to lowercase letters, numbers, dots, dashes, and underscores"
            )
        if len(text) > MAX_TRUST_DOMAIN_BYTES:
            raise SpiffeIdError("trust domain is longer than 255 bytes")
        return cls(text)

    @property
    def id(self) -> SpiffeId:
        """The SPIFFE ID of the trust domain itself (root path), as authorities carry it."""
        return SpiffeId(self, "")

    def __str__(self) -> str:
        return self.name


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class SpiffeId:
    """A parsed SPIFFE ID. ``path`` is empty or begins with ``/``."""

    trust_domain: TrustDomain
    path: str

    @classmethod
    def parse(cls, text: str) -> SpiffeId:
        """Read a SPIFFE ID (SPIFFE-ID §2).

        1. The scheme is `spiffe`, lower case.
        2. The trust domain obeys §2.1: no user, no port, no percent-encoding.
        3. The path is empty or non-empty segments (§2.2): no query, no fragment, no `.` or `..`.
        4. The whole is at most 2048 bytes (§2.3).

        Raises SpiffeIdError with the rule that the text breaks.
        """
        # (4) first: nothing below should walk an unbounded text
        if len(text) > MAX_ID_BYTES:
            raise SpiffeIdError("SPIFFE ID is longer than 2048 bytes")
        # (1)
        if not text.startswith(_SCHEME):
            raise SpiffeIdError("scheme is missing or not `spiffe`")
        # (2)
        domain, slash, rest = text[len(_SCHEME) :].partition("/")
        trust_domain = TrustDomain.parse(domain)
        # (3)
        if not slash:
            return cls(trust_domain, "")
        path = "/" + rest
        check_path(path)
        return cls(trust_domain, path)

    @classmethod
    def with_path(cls, trust_domain: TrustDomain, path: str) -> SpiffeId:
        """The ID of a trust domain and a path: what `parse` makes of the two written together.

        Raises SpiffeIdError with the rule that the path, or the whole, breaks.
        """
        if len(_SCHEME) + len(trust_domain.name) + len(path) > MAX_ID_BYTES:
            raise SpiffeIdError("SPIFFE ID is longer than 2048 bytes")
        if path and not path.startswith("/"):
            raise SpiffeIdError("path begins with a slash")
        if path:
            check_path(path)
        return cls(trust_domain, path)

    @classmethod
    def from_segments(cls, trust_domain: TrustDomain, *segments: str) -> SpiffeId:
        """Build an ID from path segments.

        Raises SpiffeIdError when a segment or the whole breaks a rule.
        """
        return cls.parse(f"{_SCHEME}{trust_domain.name}/" + "/".join(segments))

    @property
    def segments(self) -> tuple[str, ...]:
        """The path's segments; empty for a trust domain's own ID."""
        return tuple(self.path[1:].split("/")) if self.path else ()

    def is_member_of(self, trust_domain: TrustDomain) -> bool:
        """Whether the ID belongs to the trust domain."""
        return self.trust_domain == trust_domain

    def __str__(self) -> str:
        return f"{_SCHEME}{self.trust_domain.name}{self.path}"


def check_path(path: str) -> None:
    """Check a non-empty SPIFFE path (SPIFFE-ID §2.2).

    Raises SpiffeIdError with the rule that the path breaks.
    """
    # most paths are good, and one look says so: no segment that begins with a dot, no empty one
    if _PLAIN_PATH.match(path):
        return
    if path.endswith("/"):
        raise SpiffeIdError("path cannot have a trailing slash")
    for segment in path[1:].split("/"):
        if not segment:
            raise SpiffeIdError("path cannot contain empty segments")
        if segment in {".", ".."}:
            raise SpiffeIdError("path cannot contain dot segments")
        if not _SEGMENT.match(segment):
            raise SpiffeIdError(
                "path segment characters are limited to letters, numbers, dots, dashes, and underscores"
            )


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class SpiffePattern:
    """A set of SPIFFE IDs: one ID, everything below a segment boundary, or a whole trust domain.

    ``spiffe://td/ns/shop/**`` needs at least one further segment; ``spiffe://td/**`` is every ID of the
    trust domain that has a path. There is no regex and no glob inside a segment (design D3).
    """

    id: SpiffeId
    subtree: bool

    @classmethod
    def parse(cls, text: str) -> SpiffePattern:
        """Read a pattern.

        Raises SpiffeIdError with the rule that the text breaks.
        """
        if text.endswith("/**"):
            return cls(SpiffeId.parse(text[:-3]), subtree=True)
        if "*" in text:
            raise SpiffeIdError("a pattern may hold `*` only as a final `/**`")
        found = SpiffeId.parse(text)
        if not found.path:
            raise SpiffeIdError("a workload's SPIFFE ID needs a path; write `/**` for the whole trust domain")
        return cls(found, subtree=False)

    def matches(self, candidate: SpiffeId) -> bool:
        """Whether the ID is in the set."""
        # paths first: they differ more often, and are compared in less time
        path = self.id.path
        is_within = candidate.path.startswith(path + "/") if self.subtree else candidate.path == path
        return is_within and candidate.trust_domain == self.id.trust_domain

    def overlaps(self, other: SpiffePattern) -> bool:
        """Whether some ID is in both sets."""
        if self.id.trust_domain != other.id.trust_domain:
            return False
        if not other.subtree:
            return self.matches(other.id)
        if not self.subtree:
            return other.matches(self.id)
        mine, theirs = self.id.path + "/", other.id.path + "/"
        return mine.startswith(theirs) or theirs.startswith(mine)

    def __str__(self) -> str:
        return f"{self.id}/**" if self.subtree else str(self.id)
