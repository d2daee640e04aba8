"""Writes the messages that are sent on: what was decided, in one spelling, and nothing the sender may not say.

The head that goes to the workload is built from the parsed one: the canonical target, one Host, the framing we
read, the identity we verified. This module reads nothing and decides nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from enforcer.native.form import Form
from enforcer.native.http1 import Fields, Framing, RequestHead, ResponseHead

_IDENTITY = re.compile(rb"x-(?:limen-|envoy-|forwarded-client-cert\Z)", re.IGNORECASE)
# the calling side's word to the called side, behind the request line: a program's connection begins here
_BEGINS = b"x-limen-begins"
_MARK = _BEGINS + b": 1\r\n"
_MARKED = re.compile(rb"[^\r\n]*\r\n" + _MARK)
_UPGRADE = b"connection: upgrade\r\nupgrade: websocket\r\n"


def is_identity(name: bytes) -> bool:
    """Whether only an enforcer may set a field of this name."""
    return _IDENTITY.match(name) is not None


def without_identity(fields: Fields) -> Fields:
    """Take the fields that only an enforcer may set out of what a caller sent."""
    match = _IDENTITY.match
    return tuple([field for field in fields if match(field[0]) is None])


def begins(fields: Fields) -> bool:
    """Whether the calling side says that a request is the first one of a program's connection."""
    return any(name == _BEGINS for name, _ in fields)


def marked(head: bytes) -> bytes:
    """A written head that says so."""
    line, end, rest = head.partition(b"\r\n")
    return b"".join((line, end, _MARK, rest))


def is_marked(data: bytes) -> bool:
    """Whether these bytes begin with such a head."""
    return _MARKED.match(data) is not None


def request_line(method: str, target: str) -> bytes:
    """Write the first line of a request."""
    return f"{method} {target} HTTP/1.1\r\n".encode("latin-1")


def request_fields(head: RequestHead, *, host: str, identity: bytes) -> bytes:
    """Write what follows the request line. ``identity`` are the finished field lines about the peer."""
    return b"".join(request_pieces(head, (), host=host, identity=identity))


def request_pieces(head: RequestHead, gaps: Sequence[int], *, host: str, identity: bytes) -> tuple[bytes, ...]:
    """What follows the request line, cut where the values of the fields at these places stand; without those values."""
    lines = [b"host: ", host.encode("latin-1"), b"\r\n"]
    pieces: list[bytes] = []
    for place, (name, value) in enumerate(head.fields):
        if place in gaps:
            pieces.append(b"".join((*lines, name, b": ")))
            lines = [b"\r\n"]
        else:
            lines += (name, b": ", value, b"\r\n")
    if head.framing is Framing.CHUNKED:
        lines.append(b"transfer-encoding: chunked\r\n")
        if head.trailers:
            lines.append(b"trailer: %b\r\n" % b", ".join(sorted(head.trailers)))
    elif head.framing is Framing.LENGTH:
        lines.append(b"content-length: %d\r\n" % head.length)
    if head.expects_continue:
        lines.append(b"expect: 100-continue\r\n")
    if head.websocket_key:
        lines.append(_UPGRADE)
    return *pieces, b"".join((*lines, identity, b"\r\n"))


class Writer:
    """Writes the requests of one connection; what was written of a head is kept for the next of the same form."""

    __slots__ = ("_form", "_identity", "_pieces")

    def __init__(self, identity: bytes = b"") -> None:
        self._identity = identity
        self._form: Form | None = None
        self._pieces: tuple[bytes, ...] = ()

    def head(self, head: RequestHead, target: str, host: Callable[[RequestHead], str]) -> bytes:
        """Write a head. Trailers are not of the form, so that a head that announces any is written anew."""
        form = head.form
        if form is None or head.trailers:
            rest = request_fields(head, host=host(head), identity=self._identity)
            return request_line(head.method, target) + rest
        if form is not self._form:
            self._form = form
            self._pieces = request_pieces(head, form.gaps, host=host(head), identity=self._identity)
        pieces = self._pieces
        if len(pieces) == 1:
            return request_line(head.method, target) + pieces[0]
        out = [request_line(head.method, target)]
        for piece, place in zip(pieces, form.gaps, strict=False):  # the last piece has no gap behind it
            out += (piece, head.fields[place][1])
        out.append(pieces[-1])
        return b"".join(out)


def response_head(head: ResponseHead, *, close: bool, from_enforcer: bool = False) -> bytes:
    """Write the head that the caller gets; what only an enforcer may set stays if it comes ``from_enforcer``."""
    lines = [b"HTTP/1.1 %d " % head.status, head.reason, b"\r\n"]
    for name, value in head.fields:
        if from_enforcer or not is_identity(name):
            lines += (name, b": ", value, b"\r\n")
    if head.framing is Framing.CHUNKED:
        lines.append(b"transfer-encoding: chunked\r\n")
    elif head.length is not None and head.status >= 200 and head.status != 204:
        lines.append(b"content-length: %d\r\n" % head.length)
    if head.status == 101:
        lines.append(_UPGRADE)
    if close and head.status >= 200:
        lines.append(b"connection: close\r\n")
    lines.append(b"\r\n")
    return b"".join(lines)


def chunk(data: bytes) -> bytes:
    """Write one chunk of a chunked body; of no bytes none, because a chunk of size 0 would end the body."""
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


def last_chunk(trailers: bytes = b"") -> bytes:
    """The end of a chunked body."""
    return b"0\r\n%b\r\n" % trailers


# what no trailer may be (RFC 9110 §6.5.1): framing, routing, what modifies a request, who somebody is, what content is
_NO_TRAILER = frozenset(
    b"""accept-encoding age authorization cache-control connection content-encoding content-length content-location
    content-range content-type cookie cookie2 date expect expires forwarded host http2-settings if-match
    if-modified-since if-none-match if-range if-unmodified-since keep-alive location max-forwards origin pragma
    proxy-authenticate proxy-authorization proxy-connection range referer retry-after set-cookie set-cookie2 te trailer
    transfer-encoding upgrade vary via warning www-authenticate x-http-method x-http-method-override
    x-method-override x-original-url
    x-real-ip x-rewrite-url""".split()
)
_NAME = re.compile(rb"[!#$%&'*+\-.^`|~0-9a-z]+")  # a token, without underscores
_NO_TRAILER_PREFIXES = (b"x-forwarded-", b"sec-", b"proxy-", b"access-control-")


def may_trail(name: bytes) -> bool:
    """Whether a field of this lower-case name may stand behind a body.

    What only an enforcer may set, what means something before a body, and what a gateway interface would take for
    another name may not.
    """
    is_special = _NAME.fullmatch(name) is None or name in _NO_TRAILER or name.startswith(_NO_TRAILER_PREFIXES)
    return not is_special and not is_identity(name)


def trailers(section: bytes, keeps: Callable[[bytes], bool] = may_trail) -> bytes:
    """The trailer lines that are sent on, in order; ``keeps`` is asked with lower-case names."""
    kept: list[bytes] = []
    for line in section.split(b"\r\n")[:-1]:
        name, _, value = line.partition(b":")
        if keeps(name.lower()):
            kept.append(b"%b: %b\r\n" % (name, value.strip(b" \t")))
    return b"".join(kept)


def identity_fields(own: str, peer: str) -> bytes:
    """The field lines that tell the workload who calls (Envoy's format for the first)."""
    text = f"x-forwarded-client-cert: By={own};URI={peer}\r\nx-limen-source: {peer}\r\n"
    return text.encode("ascii")


def forwarded_host(head: RequestHead) -> str:
    """The Host that is sent on: canonical, with the port the caller wrote."""
    _, colon, port = head.host.rpartition(":")
    return f"{head.host_name}:{port}" if colon and port.isdigit() else head.host_name
