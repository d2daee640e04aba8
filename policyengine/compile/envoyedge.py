"""What an Envoy refuses before any rule: callers that are no SPIFFE IDs, and whatever could be read in two ways.

Envoy changes a target before any filter sees it, or not at all, and where it resolves dot segments, `/x;y/../admin`
and `/../admin` become `/admin` without a trace. So it merges slashes here, which hides nothing, and what is not
canonical then is refused: what is decided is what is forwarded. Limen resolves `/a/../b` and decodes `/%61`; this is
stricter.

The expressions are RE2's, constant, and matched as a whole; `docs/guides/envoy.md` lists what they refuse.
"""

from __future__ import annotations

from collections.abc import Iterable

from policyengine.compile.envoymatch import (
    PATH_INPUT,
    URI_SAN,
    Json,
    action,
    first_of,
    fits,
    header_input,
    is_readable_header,
    is_text,
)
from policyengine.reference import AMBIGUOUS, NO_IDENTITY

# SPIFFE-ID §2: a trust domain of at most 255 bytes, segments that are not `.` or `..`, 2048 bytes in all.
_SEGMENT = r"(?:\.{0,2}[A-Za-z0-9_-][A-Za-z0-9._-]*|\.{3}[A-Za-z0-9._-]*)"
IDENTITY = rf"spiffe://[a-z0-9._-]{{1,255}}(?:/{_SEGMENT})+"
IDENTITY_LENGTH = r".{1,1000}.{0,1000}.{0,48}"

# A path as `policyengine.canonical` writes it. RFC 3986 §3.3 characters but `;`; escapes of what has to be escaped;
# UTF-8 (Unicode §3.9, table 3-7) without control characters and without blocks that have white space in them.
_T = r"%[89AB][0-9A-F]"
_ESCAPES = "|".join(
    (
        r"%(?:20|22|3C|3E|5B|5D|5E|60|7B|7C|7D)",
        r"%C2%(?:A[1-9A-F]|B[0-9A-F])",
        rf"%(?:C[3-9A-F]|D[0-9A-F]){_T}",
        rf"%E0%[AB][0-9A-F]{_T}",
        rf"%E1%(?:[8AB][0-9A-F]|9[0-9B-F]){_T}",
        rf"%E2%(?:8[2-9A-F]|[9AB][0-9A-F]){_T}",
        rf"%E3%(?:80%(?:8[1-9A-F]|[9AB][0-9A-F])|(?:8[1-9A-F]|[9AB][0-9A-F]){_T})",
        rf"%E[4-9A-CEF]{_T}{_T}",
        rf"%ED%[89][0-9A-F]{_T}",
        rf"%F0%[9AB][0-9A-F]{_T}{_T}",
        rf"%F[1-3]{_T}{_T}{_T}",
        rf"%F4%8[0-9A-F]{_T}{_T}",
    )
)
PATH_TEXT = rf"/(?:[A-Za-z0-9._~!$&'()*+,=:@/-]|{_ESCAPES})*"
LOWER_PATH_TEXT = r"/[a-z0-9._~!$&'()*+,=:@/-]*"
PATH_SHAPE = r".*(?://|\./|\.$|/%20|%20/|%20$).*"
"""An empty segment that is not the last, a segment that ends in a dot, one that begins or ends in a space."""
TARGET = r"[^?]+(?:\?[\x21\x22\x24-\x7e]*)?"
METHOD_TEXT = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?"
HOST_TEXT = rf"{_LABEL}(?:\.{_LABEL})*"
HOST_LENGTH = r".{1,253}"


def refused_callers() -> list[tuple[Json, Json]]:
    """Whoever has not exactly one URI SAN that is a SPIFFE ID with a path."""
    deny = action(NO_IDENTITY, allows=False)
    return [(_is_not(fits(URI_SAN, regex)), deny) for regex in (IDENTITY, IDENTITY_LENGTH)]


def refused_requests(headers: Iterable[str], *, ignores_case: bool) -> list[tuple[Json, Json]]:
    """Requests that are ambiguous, or that Envoy would have to rewrite. ``headers`` are those that policies read."""
    host = header_input(":authority")
    rows = [
        _is_not(fits(PATH_INPUT, LOWER_PATH_TEXT if ignores_case else PATH_TEXT)),
        fits(PATH_INPUT, PATH_SHAPE),
        _is_not(fits(header_input(":path"), TARGET)),
        _is_not(fits(host, HOST_TEXT)),
        _is_not(fits(host, HOST_LENGTH)),
        _is_not(fits(header_input(":method"), METHOD_TEXT)),
    ]
    read = set(headers)
    for name in sorted(filter(is_readable_header, read)):
        field = header_input(name)
        rows.append(is_text(field, contains=","))
        # over HTTP/2 it stays, and some applications strip it
        rows += [is_text(field, **{end: space}) for end in ("prefix", "suffix") for space in " \t"]
        plain = name.replace("_", "-")
        if plain not in read:
            # some applications map both spellings to one name; Envoy itself refuses those with `_`
            rows.append(fits(header_input(plain), r"\C*"))
    deny = action(AMBIGUOUS, allows=False)
    return [(row, deny) for row in rows]


def guarded(rows: list[tuple[Json, Json]], decided: Json) -> Json:
    """The matcher of a filter: what is refused first, then what is decided."""
    found = first_of(rows, decided)["matcher"]
    assert isinstance(found, dict), "rows are never empty"
    return found


def _is_not(predicate: Json) -> Json:
    return {"not_matcher": predicate}
