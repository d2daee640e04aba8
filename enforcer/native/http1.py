"""HTTP/1.1 messages as an enforcer may read them: strictly, in one way only, or not at all.

Requests are read twice: by this module, whose reading is what is decided and forwarded, and by llhttp, which
must agree on method, target and the end of every message. Responses come from the workload itself and are read
once. Nothing here does I/O; whoever feeds bytes in any portions gets the same messages or the same refusal.
Bodies are in `enforcer.native.body`; what is sent on is written by `enforcer.native.serial`. Requests and responses
stay together (more than 400 lines) because they share one grammar, and two copies of it would drift apart.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import itertools
import re
from collections.abc import Iterable
from typing import NamedTuple

import httptools

from enforcer.native import websocket
from enforcer.native.body import Body, ChunkedBody, EndlessBody, LengthBody, NoBody
from enforcer.native.form import Form, learned
from mesh.problems import Invalid
from policyengine.canonical import canonical_host

MAX_HEAD_BYTES = 32 * 1024
MAX_FIELDS = 100
_MAX_LENGTH_DIGITS = 18

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_TEXT = rb"[\t\x20-\x7e\x80-\xff]*"
_REQUEST_LINE = re.compile(rb"(" + _TOKEN + rb") ([\x21-\x7e\x80-\xff]+) HTTP/1\.1\r\n")
_VERSION = re.compile(rb" HTTP/[0-9]+(?:\.[0-9]+)?\r\n\Z")
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: (" + _TEXT + rb"))?\r\n")
_FIELD_LINE = re.compile(_TOKEN + rb":" + _TEXT + rb"\r\n")
_FIELDS = re.compile(rb"(" + _TOKEN + rb"):[ \t]*([^\r]*)\r\n")
_REQUEST_HEAD = re.compile(_REQUEST_LINE.pattern + rb"((?:" + _FIELD_LINE.pattern + rb")*)\r\n")
_RESPONSE_HEAD = re.compile(_STATUS_LINE.pattern + rb"((?:" + _FIELD_LINE.pattern + rb")*)\r\n")
_ORIGIN_FORM = re.compile(rb"/[^#]*")

Fields = tuple[tuple[bytes, bytes], ...]

# fields that speak about one connection (RFC 9110 §7.6.1) or about trailers, which are not sent on
_HOP_BY_HOP = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade")
)
# fields that `Connection` may not take away: the request would change under whoever reads it next
_KEPT = frozenset((b"host", b"content-length", b"content-type", b"authorization", b"cookie"))


class Framing(enum.Enum):
    """How the body of a message ends."""

    NONE = "none"
    LENGTH = "length"
    CHUNKED = "chunked"
    CLOSE = "close"


class RequestHead(NamedTuple):
    """A request's head: a tuple, which is made several times as fast as a frozen dataclass of as many fields.

    ``fields`` are the end-to-end ones without Host and framing, in order, as bytes of the wire.

    ``target`` and ``host`` are text whose code points are bytes; ``host_name`` is canonical. A request that asks to
    become a WebSocket has a ``websocket_key``; ``trailers`` are the lower-case names that it announces behind its body.
    Two heads with the very same ``form`` differ in method, target and the values in its gaps alone.
    """

    method: str
    target: str
    host: str
    host_name: str
    fields: Fields
    framing: Framing
    length: int
    keep_alive: bool
    expects_continue: bool
    websocket_key: bytes = b""
    trailers: frozenset[bytes] = frozenset()
    form: Form | None = None

    @property
    def declared_length(self) -> int | None:
        """The bytes of its body; None where that is said chunk by chunk."""
        return None if self.framing is Framing.CHUNKED else self.length


@dataclasses.dataclass(frozen=True, slots=True)
class ResponseHead:
    """A response's head. ``fields`` are the end-to-end ones without the framing; ``length`` None is unknown."""

    status: int
    reason: bytes
    fields: Fields
    framing: Framing
    length: int | None
    keep_alive: bool


class _Witness:
    """llhttp's view of the same request: it is fed what we consumed and has to have seen the same."""

    __slots__ = ("_parser", "complete", "in_body", "url")

    def __init__(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        self.url = b""
        self.complete = False
        self.in_body = False

    def on_url(self, part: bytes) -> None:
        self.url += part

    def on_headers_complete(self) -> None:
        self.in_body = True

    def on_message_complete(self) -> None:
        self.complete = True

    def head(self, data: bytes, method: bytes, target: bytes, *, has_body: bool, upgrades: bool) -> None:
        """Read a head.

        Raises Invalid LM3111 unless it comes out as ours did.
        """
        self.url, self.complete, self.in_body = b"", False, False
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as err:
            if not upgrades:
                raise Invalid("LM3111") from err
        except httptools.HttpParserError as err:
            raise Invalid("LM3111") from err
        seen = (self.in_body, self.complete, self.url, self._parser.get_method())
        if seen != (True, not has_body, target, method):
            raise Invalid("LM3111")

    def body(self, data: bytes, *, done: bool) -> None:
        """Read a part of a body.

        Raises Invalid LM3111 unless the message ends where ours did.
        """
        self._feed(data)
        if self.complete is not done:
            raise Invalid("LM3111")

    def _feed(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as err:
            raise Invalid("LM3111") from err


class RequestReader:
    """Reads the requests of one connection, one after the other."""

    __slots__ = ("_block", "_body", "_buffer", "_checked", "_count", "_form", "_meaning", "_witness")

    def __init__(self) -> None:
        self._buffer = b""
        # the last block of fields that was read line by line, the form it has, and what it says
        self._block = b""
        self._form = Form((b"",))
        self._meaning: _Meaning | None = None
        self._checked = 0
        self._count = 0
        self._body: Body = NoBody()
        self._witness = _Witness()

    @property
    def buffered(self) -> int:
        """How many bytes wait to be read."""
        return len(self._buffer)

    @property
    def unread(self) -> bytes:
        """The bytes that wait to be read."""
        return self._buffer

    @property
    def has_started(self) -> bool:
        """Whether a part of a head has arrived."""
        return bool(self._buffer)

    @property
    def is_done(self) -> bool:
        """Whether the body of the last request has been read whole."""
        return self._body.is_done

    @property
    def trailers(self) -> bytes:
        """The trailer section of the last body, as it came over the wire; no part of the head, which was decided."""
        return self._body.trailers

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the connection."""
        self._buffer = self._buffer + data if self._buffer else data

    def head(self) -> RequestHead | None:
        """Read the next head; None while it is not complete. The last body must be done.

        Callers send the same fields again and again: of what follows the request line, only what differs from the last
        one is read anew (`enforcer.native.form`).

        Raises Invalid LM3101…LM3114 with the rule that the request breaks; the connection is of no use then.
        """
        buffer = self._buffer
        if not buffer:
            return None
        meaning, found = self._meaning, None
        match = _REQUEST_LINE.match(buffer) if meaning is not None else None
        if match is not None and meaning is not None and (found := self._form.read(buffer, match.end())) is not None:
            end, values = found
            if end > MAX_HEAD_BYTES:
                raise Invalid("LM3105", rule=f"fewer than {MAX_HEAD_BYTES} bytes")
            _check_target(match[1], match[2])
            fields = self._form.filled(meaning.fields, values) if values else meaning.fields
        else:
            end = buffer.find(b"\r\n\r\n", 0, MAX_HEAD_BYTES) + 4
            match = _REQUEST_HEAD.fullmatch(buffer, 0, end) if end > 3 else None
            if match is None:
                self._check_lines(buffer)
                return None
            lines = _FIELDS.findall(match[3])
            if len(lines) > MAX_FIELDS:
                raise Invalid("LM3105", rule=f"at most {MAX_FIELDS} fields")
            _check_target(match[1], match[2])
            meaning = _read_fields(match[1], lines)
            self._learn(buffer[match.start(3) : end], lines, meaning)
            fields = meaning.fields
        head = _request(match[1], match[2], meaning, fields, self._form)
        has_body = head.framing is Framing.CHUNKED or head.length > 0
        upgrades = bool(head.websocket_key)
        self._witness.head(buffer[:end], match[1], match[2], has_body=has_body, upgrades=upgrades)
        if upgrades:
            self._witness = _Witness()  # that one reads no more
            self._meaning = None  # it hung on the method
        self._buffer = buffer[end:]
        self._checked = self._count = 0
        if head.framing is Framing.CHUNKED:
            self._body = ChunkedBody(keep_trailers=True)
        else:
            self._body = LengthBody(head.length) if has_body else NoBody()
        return head

    def _learn(self, block: bytes, lines: list[tuple[bytes, bytes]], meaning: _Meaning) -> None:
        """Know the next head by this one, and by the one before where little differs."""
        form = None
        if self._meaning is not None:
            count = itertools.count()
            places = [None if name.lower() in _SPECIAL else next(count) for name, _ in lines]
            if next(count) == len(meaning.fields):  # else `Connection` took something away
                form = learned(self._block, block, places)
        self._meaning, self._block, self._form = meaning, block, form or Form((block,))

    def body(self) -> bytes:
        """Take what has arrived of the body, decoded; empty while there is nothing new.

        Raises Invalid LM3109 or LM3111 when its framing breaks a rule.
        """
        if self._body.is_done or not self._buffer:
            return b""
        data, used = self._body.read(self._buffer)
        self._witness.body(self._buffer[:used], done=self._body.is_done)
        self._buffer = self._buffer[used:]
        return data

    def _check_lines(self, buffer: bytes) -> None:
        """Refuse an incomplete or wrong head as soon as a line of it, or its size, is wrong.

        Lines are judged in order and each once, so that the verdict does not depend on how the bytes arrived.
        """
        while (end := buffer.find(b"\n", self._checked, MAX_HEAD_BYTES) + 1) > 0:
            line = buffer[self._checked : end]
            if self._checked == 0:
                _check_request_line(line)
            elif not _FIELD_LINE.fullmatch(line):
                raise Invalid("LM3103", rule=_field_rule(line))
            else:
                self._count += 1
                if self._count > MAX_FIELDS:
                    raise Invalid("LM3105", rule=f"at most {MAX_FIELDS} fields")
            self._checked = end
        if len(buffer) >= MAX_HEAD_BYTES:
            raise Invalid("LM3105", rule=f"fewer than {MAX_HEAD_BYTES} bytes")


class ResponseReader:
    """Reads the responses of one connection; the caller says which request each belongs to."""

    __slots__ = ("_body", "_buffer", "_last")

    def __init__(self) -> None:
        self._buffer = b""
        self._body: Body = NoBody()
        self._last: tuple[bytes, bool, ResponseHead] | None = None

    @property
    def is_done(self) -> bool:
        """Whether the body of the last response has been read whole."""
        return self._body.is_done

    @property
    def unread(self) -> bytes:
        """The bytes that wait to be read."""
        return self._buffer

    @property
    def is_empty(self) -> bool:
        """Whether every byte that arrived has been read."""
        return not self._buffer

    @property
    def trailers(self) -> bytes:
        """The trailer section of the last body, as it came over the wire."""
        return self._body.trailers

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the connection."""
        self._buffer = self._buffer + data if self._buffer else data

    def close(self) -> None:
        """Say that the connection ended; a body that ends that way is done."""
        if isinstance(self._body, EndlessBody):
            self._body.is_done = True

    def take_rest(self) -> bytes:
        """Take what has arrived and is no HTTP any more."""
        rest, self._buffer = self._buffer, b""
        return rest

    def head(self, method: str, websocket_key: bytes = b"") -> ResponseHead | None:
        """Read the next head, interim ones included; None while it is not complete.

        A head that is byte for byte the last one is not read anew.

        Raises Invalid LM3302 when it is no response that can be sent on.
        """
        last, has_no_body = self._last, method == "HEAD"
        if last is not None and last[1] is has_no_body and self._buffer.startswith(last[0]):
            self._buffer = self._buffer[len(last[0]) :]
            return self._begin_body(last[2])
        end = self._buffer.find(b"\r\n\r\n", 0, 2 * MAX_HEAD_BYTES) + 4
        if end == 3:
            if len(self._buffer) >= 2 * MAX_HEAD_BYTES:
                raise Invalid("LM3302", rule=f"its head is shorter than {2 * MAX_HEAD_BYTES} bytes")
            return None
        match = _RESPONSE_HEAD.fullmatch(self._buffer, 0, end)
        if match is None:
            raise Invalid("LM3302", rule="its head consists of a status line and field lines")
        fields = _FIELDS.findall(match[4])
        head = read_response(match[1], int(match[2]), match[3] or b"", fields, method, websocket_key)
        self._last = (self._buffer[:end], has_no_body, head) if not websocket_key else None
        self._buffer = self._buffer[end:]
        return self._begin_body(head)

    def _begin_body(self, head: ResponseHead) -> ResponseHead:
        if head.framing is Framing.CHUNKED:
            self._body = ChunkedBody(keep_trailers=True)
        elif head.framing is Framing.CLOSE:
            self._body = EndlessBody()
        elif head.framing is Framing.LENGTH and head.length:
            self._body = LengthBody(head.length)
        else:
            self._body = NoBody()
        return head

    def body(self) -> bytes:
        """Take what has arrived of the body, decoded; empty while there is nothing new.

        Raises Invalid LM3109 when its framing breaks a rule.
        """
        if self._body.is_done or not self._buffer:
            return b""
        data, used = self._body.read(self._buffer)
        self._buffer = self._buffer[used:]
        return data


def read_request(method: bytes, target: bytes, fields: Iterable[tuple[bytes, bytes]]) -> RequestHead:
    """Give a head whose lines are well formed its one meaning.

    1. CONNECT and TRACE are refused; the target begins with a slash and holds no `#`.
    2. No field name holds an underscore (a gateway interface reads `_` and `-` as one).
    3. There is exactly one Host, and it is a host.
    4. The body is framed in one way: one Content-Length of digits, or one Transfer-Encoding that is `chunked`.
    5. There is no Upgrade but one to a WebSocket, asked for as RFC 6455 has it, and no Expect but `100-continue`.
    6. What `Connection` names is taken away; it may not name what others rely on.

    Raises Invalid LM3104, LM3106, LM3107, LM3108, LM3113, LM3114.
    """
    # (1)
    _check_target(method, target)
    # (2) to (6)
    meaning = _read_fields(method, fields)
    return _request(method, target, meaning, meaning.fields, None)


class _Meaning(NamedTuple):
    """What the fields of a request say, whatever its target is and, but for a WebSocket's, its method."""

    host: str
    host_name: str
    fields: Fields
    framing: Framing
    length: int
    keep_alive: bool
    expects_continue: bool
    websocket_key: bytes
    trailers: frozenset[bytes]


def _check_target(method: bytes, target: bytes) -> None:
    """Step 1 of `read_request`."""
    if method in _NOT_SERVED or not _ORIGIN_FORM.fullmatch(target):
        raise Invalid("LM3107")


def _request(method: bytes, target: bytes, meaning: _Meaning, fields: Fields, form: Form | None) -> RequestHead:
    return RequestHead(
        method.decode("ascii"),
        target.decode("latin-1"),
        meaning.host,
        meaning.host_name,
        fields,
        meaning.framing,
        meaning.length,
        meaning.keep_alive,
        meaning.expects_continue,
        meaning.websocket_key,
        meaning.trailers,
        form,
    )


def _read_fields(method: bytes, fields: Iterable[tuple[bytes, bytes]]) -> _Meaning:
    """Steps 2 to 6 of `read_request`."""
    kept, special = _sorted(fields, _SPECIAL)
    # (2)
    for name, _ in kept:
        if b"_" in name:
            raise Invalid("LM3114", field=name.decode("latin-1"))
    # (3)
    host, host_name = _host(special.get(b"host", []))
    # (4)
    framing, length = _framing(special.get(b"content-length", []), special.get(b"transfer-encoding", []))
    # (5)
    options = _options(special.get(b"connection", []))
    websocket_key = b""
    if b"upgrade" in special or b"http2-settings" in special:
        websocket_key = websocket.key_of(method, special, options, kept, is_bare=framing is Framing.NONE)
    expects = special.get(b"expect", [])
    if expects and [value.lower() for value in expects] != [b"100-continue"]:
        raise Invalid("LM3113")
    # (6)
    if not options.isdisjoint(_KEPT):
        raise Invalid("LM3103", rule="`Connection` may not name a field that others rely on")
    if options:
        kept = [field for field in kept if field[0].lower() not in options]
    return _Meaning(
        host=host,
        host_name=host_name,
        fields=tuple(kept),
        framing=framing,
        length=length,
        keep_alive=b"close" not in options,
        expects_continue=bool(expects) and (framing is Framing.CHUNKED or length > 0),
        websocket_key=websocket_key,
        trailers=_options(special[b"trailer"]) if b"trailer" in special else _NO_OPTIONS,
    )


_NOT_SERVED = frozenset((b"CONNECT", b"TRACE"))
_SPECIAL = _HOP_BY_HOP | {b"host", b"content-length", b"expect", b"http2-settings"}
_RESPONSE_SPECIAL = _HOP_BY_HOP | {b"content-length"}


def _sorted(
    fields: Iterable[tuple[bytes, bytes]], names: frozenset[bytes]
) -> tuple[list[tuple[bytes, bytes]], dict[bytes, list[bytes]]]:
    """The fields that are sent on as they are, and those that are read here, by lower-case name."""
    kept: list[tuple[bytes, bytes]] = []
    special: dict[bytes, list[bytes]] = {}
    for name, raw in fields:
        lowered, value = name.lower(), raw.rstrip(b" \t")
        if lowered in names:
            special.setdefault(lowered, []).append(value)
        else:
            kept.append((name, value))
    return kept, special


def _host(found: list[bytes]) -> tuple[str, str]:
    """The one Host, as it came and canonical."""
    if len(found) != 1:
        raise Invalid("LM3106", rule=f"there are {len(found)} of them")
    host = found[0].decode("latin-1")
    name = _known_host(host) if len(host) <= _MAX_KNOWN_HOST else canonical_host(host)
    if not isinstance(name, str):
        raise Invalid("LM3106", rule=name.reason)
    return host, name


_MAX_KNOWN_HOST = 255
_known_host = functools.lru_cache(maxsize=256)(canonical_host)


def read_response(
    minor: bytes,
    status: int,
    reason: bytes,
    fields: Iterable[tuple[bytes, bytes]],
    method: str,
    websocket_key: bytes = b"",
) -> ResponseHead:
    """Give a response head whose lines are well formed its one meaning (RFC 9112 §6.3).

    1. 101 answers a request that asked to become a WebSocket, and proves that its key was read (RFC 6455 §4.2.2).
    2. Responses to HEAD, 1xx, 204 and 304 have no body, whatever their fields say.
    3. Otherwise the body is framed by chunks, by one length, or by the end of the connection.

    Raises Invalid LM3302 when the framing is ambiguous.
    """
    kept, special = _sorted(fields, _RESPONSE_SPECIAL)
    # (1)
    if status == 101:
        websocket.check_switch(kept, special, _options(special.get(b"connection", [])), websocket_key)
    if minor == b"0" and b"transfer-encoding" in special:
        raise Invalid("LM3302", rule="chunks are of HTTP/1.1")
    try:
        framing, size = _framing(special.get(b"content-length", []), special.get(b"transfer-encoding", []))
    except Invalid as err:
        raise Invalid("LM3302", rule="its body is framed in one way") from err
    length: int | None = size if b"content-length" in special else None
    options = _options(special.get(b"connection", []))
    keep_alive = b"close" not in options if minor == b"1" else b"keep-alive" in options
    # (2)
    if method == "HEAD" or status < 200 or status in {204, 304}:
        framing = Framing.NONE
    # (3)
    elif framing is Framing.NONE:
        framing, keep_alive = (Framing.LENGTH, keep_alive) if length is not None else (Framing.CLOSE, False)
    kept = [field for field in kept if field[0].lower() not in options]
    return ResponseHead(status, reason, tuple(kept), framing, length, keep_alive)


def _framing(lengths: list[bytes], codings: list[bytes]) -> tuple[Framing, int]:
    """How the body ends (RFC 9112 §6): never in two ways at once."""
    if codings:
        if lengths:
            raise Invalid("LM3104", rule="Content-Length and Transfer-Encoding exclude each other")
        if len(codings) != 1 or codings[0].lower() != b"chunked":
            raise Invalid("LM3104", rule="Transfer-Encoding is `chunked`, once")
        return Framing.CHUNKED, 0
    if not lengths:
        return Framing.NONE, 0
    if len(lengths) != 1:
        raise Invalid("LM3104", rule="Content-Length stands once")
    if not lengths[0].isdigit() or len(lengths[0]) > _MAX_LENGTH_DIGITS:
        raise Invalid("LM3104", rule="Content-Length is a number")
    return Framing.LENGTH, int(lengths[0])


def _options(values: list[bytes]) -> frozenset[bytes]:
    if not values:
        return _NO_OPTIONS
    return frozenset(option.strip(b" \t").lower() for value in values for option in value.split(b","))


_NO_OPTIONS: frozenset[bytes] = frozenset()


def _check_request_line(line: bytes) -> None:
    if _REQUEST_LINE.fullmatch(line):
        return
    version = _VERSION.search(line)
    if line.endswith(b"\r\n") and (version is None or version[0] != b" HTTP/1.1\r\n") and b"\0" not in line:
        raise Invalid("LM3101")
    raise Invalid("LM3102")


def _field_rule(line: bytes) -> str:
    if line == b"\r\n":
        return "a head ends in one empty line"
    if not line.endswith(b"\r\n"):
        return "a line ends in CR LF"
    if line[:1] in b" \t":
        return "a field is not folded over lines"
    return "a field is a name, a colon without white space before it, and text without control bytes"
