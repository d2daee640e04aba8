"""The input document: a request as Rego sees it, in version 1 of a frozen form (docs/adr/0024).

It says what is canonical, what is absent and what is unknown, and is made from the request alone, so that it is the
same for every policy. Path, host and identity are brought into their canonical form here, by `policyengine.canonical`
and `policyengine.attributes`, and never in Rego: two programs that both canonicalise disagree some day. Fields may be
added to a version; their meaning never changes. This module evaluates nothing.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import Mapping

from mesh.request import Request
from mesh.spiffe import SpiffeId, SpiffeIdError
from policyengine import model
from policyengine.attributes import HEADER_VALUE, address_of, read
from policyengine.canonical import Ambiguous, canonical_path, folded
from policyengine.reference import time_of

VERSION = 1
_NO_HEADERS: frozenset[str] = frozenset()
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
# nanoseconds of 64 bits, as every Rego counts time
_FIRST, _LAST = dt.datetime(1678, 1, 1, tzinfo=dt.UTC), dt.datetime(2262, 1, 1, tzinfo=dt.UTC)

Document = dict[str, object]


def input_of(request: Request) -> Document:
    """The input document of a request. None is unknown; what is absent is the empty text, or not in its object.

    1. `source` is the verified identity, null for none; `service` a name or a canonical SPIFFE ID, null for neither.
    2. Of a connection alone (`parsed` false) method, host and path are unknown.
    3. `ambiguous` says, by attribute, why host or path have no canonical form; they are unknown then. `path_folded`
       is the path for services that ignore case; `path_folds` is false where letters of it are ambiguous to them.
    4. A header has one `value` (null: malformed) and is `single` when it was given once, without a comma.
    5. A claim is a list of text, whole numbers and booleans, null in any other form; `token` has all claims as sent.
    6. `time` is in nanoseconds since 1970; a time that 64 bits do not hold is unknown, which ends what ends.
    7. `unknown` names what the listener could not determine, headers in lower case.
    """
    # (1), (2), (3)
    facts = read(request, request.protocol, _NO_HEADERS)
    path_folded, path_folds = _folded(request) if facts.is_parsed else (None, True)
    # (6)
    time = time_of(request)
    if time is not None and not _FIRST <= time < _LAST:
        time = None
    forwarded: str | None = request.forwarded_ip
    peer_ip = _address(request.peer_ip, "peer_ip", request)
    forwarded_ip = "" if _is_absent(forwarded, request) else _address(forwarded, "forwarded_ip", request)
    return {
        "version": VERSION,
        "service": _service(request.service),
        "port": request.port,
        "protocol": request.protocol,
        "parsed": facts.is_parsed,
        "source": None if facts.source is None else str(facts.source),
        "method": facts.method,
        "host": facts.host,
        "path": None if facts.path is None else list(facts.path),
        "path_folded": path_folded,
        "path_folds": path_folds,
        "ambiguous": dict(facts.ambiguous),
        "headers": _headers(request),
        "claims": None if request.claims is None else _claims(request.claims),
        "token": None if request.claims is None else _plain(request.claims),
        "peer_ip": peer_ip,
        "peer_ip_key": address_key(peer_ip),
        "forwarded_ip": forwarded_ip,
        "forwarded_ip_key": address_key(forwarded_ip),
        "time": None if time is None else nanoseconds(time),
        "unknown": sorted({_lowered(name) for name in request.unknown if _is_text(name)}),
    }


def nanoseconds(moment: dt.datetime) -> int:
    """A moment in nanoseconds since 1970."""
    return (moment - _EPOCH) // dt.timedelta(microseconds=1) * 1000


def address_key(text: str | None) -> str | None:
    """An address as text that sorts as addresses do, `4:0a010203`; null and the empty text stay what they are."""
    if not text:
        return text
    address = ipaddress.ip_address(text)
    return f"{address.version}:{int(address):0{address.max_prefixlen // 4}x}"


def network_keys(network: model.Network) -> tuple[str, str]:
    """The first and the last address of a range, as `address_key` has them."""
    first, last = address_key(str(network.network_address)), address_key(str(network.broadcast_address))
    assert first is not None
    assert last is not None
    return first, last


def _folded(request: Request) -> tuple[list[str] | None, bool]:
    """The folded path, None when it is unknown, and whether its letters can be folded (step 3)."""
    if request.path is None:
        return None, True
    canonical = canonical_path(request.path)
    if isinstance(canonical, Ambiguous):
        return None, True
    segments = folded(canonical.segments)
    if isinstance(segments, Ambiguous):
        return None, False
    return (None if "path" in request.unknown else list(segments)), True


def _service(name: str) -> str | None:
    if not name.startswith("spiffe://"):
        return name if _is_text(name) else None
    try:
        return str(SpiffeId.parse(name))
    except SpiffeIdError:
        return None


def _headers(request: Request) -> Document:
    """The headers by their names in lower case (step 4)."""
    found: dict[str, dict[str, object]] = {}
    for raw, value in request.headers:
        name = raw.lower()
        if not _is_text(name):
            continue
        if name in found:
            found[name]["single"] = False
            continue
        well_formed = HEADER_VALUE.fullmatch(value) is not None
        found[name] = {"value": value.strip(" \t") if well_formed else None, "single": "," not in value}
    return dict(found)


def _claims(claims: Mapping[str, object]) -> Document:
    """The claims that are text, whole numbers, booleans, or lists of those; null for any other (step 5)."""
    found: Document = {}
    for name, value in claims.items():
        values = list(value) if isinstance(value, list | tuple) else [value]
        is_plain = all(isinstance(item, str | int) for item in values)
        if _is_text(name):
            # what UTF-8 cannot say equals no value of a policy
            found[name] = [item for item in values if not isinstance(item, str) or _is_text(item)] if is_plain else None
    return found


def _plain(value: object) -> object:
    """A JSON value without text that UTF-8 cannot say: it becomes null."""
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items() if _is_text(str(name))}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, str):
        return value if _is_text(value) else None
    return value if value is None or isinstance(value, int | float) else None


def _is_absent(forwarded: str | None, request: Request) -> bool:
    """Whether no proxy reported an address, which a connection alone cannot tell."""
    return forwarded is None and "forwarded_ip" not in request.unknown


def _address(text: str | None, name: str, request: Request) -> str | None:
    """A canonical address; an IPv4 address inside IPv6 is that IPv4 address, and a zone is no part of one."""
    if text is None or name in request.unknown:
        return None
    address = address_of(text)
    if isinstance(address, ipaddress.IPv6Address):
        address = ipaddress.IPv6Address(int(address))
    return None if address is None else str(address)


def _lowered(name: str) -> str:
    low = name.lower()
    return low if low.startswith("headers.") else name


def _is_text(text: str) -> bool:
    """Whether UTF-8 can say it: lone surrogates would become another text on the way."""
    return not any("\ud800" <= char <= "\udfff" for char in text)
