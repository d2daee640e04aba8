"""What a rule may know about a request: canonical, absent or unknown.

Absent means that there is none (no such header, no token); unknown means that there is one and nobody can say which
(malformed, ambiguous, not available at this tier). Tests are three-valued: True, False, or None for unknown. Which
rules apply is not decided here.
"""

from __future__ import annotations

import dataclasses
import functools
import ipaddress
import re
import zoneinfo
from collections.abc import Mapping

from mesh.request import Protocol, Request
from mesh.spiffe import SpiffeId, SpiffeIdError
from policyengine import model
from policyengine.canonical import Ambiguous, Malformed, PathCase, canonical_host, canonical_segments, folded

Truth = bool | None
_NOTHING: Mapping[str, str] = {}
_HOST_NAMES = frozenset(("host", ":authority"))
ABSENT = ""
"""The value of an attribute that is not there; no canonical host is empty."""

USUAL_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"))
_METHOD = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")


@dataclasses.dataclass(slots=True, eq=False)
class Facts:
    """A request as rules see it. None is unknown throughout, but for ``source``: None is "no identity".

    ``ambiguous`` holds, by attribute, why the request is refused before any rule; ``custom`` evaluates custom rules
    and is set by whoever decides. Not frozen: a frozen one takes twice as long to build.
    """

    request: Request
    source: SpiffeId | None
    is_parsed: bool
    method: str | None
    host: str | None
    path: tuple[str, ...] | None
    ambiguous: Mapping[str, str]
    custom: model.CustomRules | None = None


def all_of(*truths: Truth) -> Truth:
    """Three-valued AND: false if ANY is false, else unknown if ANY is unknown, else true."""
    if any(truth is False for truth in truths):
        return False
    return None if any(truth is None for truth in truths) else True


def any_of(*truths: Truth) -> Truth:
    """Three-valued OR: true if ANY is true, else unknown if ANY is unknown, else false."""
    if any(truth is True for truth in truths):
        return True
    return None if any(truth is None for truth in truths) else False


@functools.lru_cache(maxsize=4096)
def identity_of(source: str | None) -> SpiffeId | None:
    """The caller's verified identity; None for none, for text that is no SPIFFE ID and for a bare trust domain."""
    if source is None:
        return None
    try:
        found = SpiffeId.parse(source)
    except SpiffeIdError:
        return None
    return found if found.path else None


def read(
    request: Request, protocol: Protocol, policy_headers: frozenset[str], path_case: PathCase = "sensitive"
) -> Facts:
    """Bring a request into the form that rules read, as `read_fields` says."""
    return Facts(request, *read_fields(request, protocol, policy_headers, path_case))


Fields = tuple[SpiffeId | None, bool, str | None, str | None, tuple[str, ...] | None, Mapping[str, str]]
"""The fields of `Facts` that are read of a request, in their order."""


def read_fields(
    request: Request, protocol: Protocol, policy_headers: frozenset[str], path_case: PathCase = "sensitive"
) -> Fields:
    """What rules read of a request: `Facts` are made of it, by those who decide only where a condition asks for them.

    1. At L4, or where a request names an attribute as unknown, the attribute is unknown.
    2. A method is a token; anything else is malformed, thus unknown. So is a malformed Host.
    3. Path, Host and the headers that policies read are canonical or ambiguous; what is ambiguous is unknown too.
    """
    unknown = request.unknown
    source = None if unknown and "source" in unknown else identity_of(request.source)
    # (1)
    if protocol == "tcp" or request.protocol == "tcp" or (request.path is None and request.method is None):
        # the listener read no request, only a connection (design D5: L4 reads no request field)
        return source, False, None, None, None, _NOTHING
    # (2)
    method = request.method
    if (unknown and "method" in unknown) or not (method in USUAL_METHODS or _is_method(method)):
        method = None
    # (3)
    ambiguous = ambiguous_headers(request, policy_headers) if policy_headers else {}
    host = read_host(request)
    if isinstance(host, Ambiguous):
        ambiguous["host"] = host.reason
        host = None
    path = None
    if request.path is not None:
        segments = canonical_segments(request.path)
        if path_case == "insensitive" and not isinstance(segments, Ambiguous):
            segments = folded(segments)
        if isinstance(segments, Ambiguous):
            ambiguous["path"] = segments.reason
        elif not unknown or "path" not in unknown:
            path = segments
    return source, True, method, host, path, ambiguous


def _is_method(text: str | None) -> bool:
    return text is not None and _METHOD.fullmatch(text) is not None


def read_host(request: Request) -> str | Ambiguous | None:
    """The canonical Host: ABSENT when there is none, None when it is malformed or unknown."""
    seen: list[str] | None = None
    for name, value in request.headers:  # a loop, and lengths first: every request comes by here
        size = len(name)
        if (size == 4 or (size == 10 and name[0] == ":")) and name.lower() in _HOST_NAMES:
            seen = [value] if seen is None else [*seen, value]
    raw = request.host
    if seen is None and raw is not None and not request.unknown:
        host = canonical_host(raw)
        return None if isinstance(host, Malformed) else host
    if seen is not None:
        # the listener's Host may be seen once more among the headers
        if len(seen) > 1 or (raw is not None and canonical_host(raw) != canonical_host(seen[0])):
            return Ambiguous("a request has one Host")
        raw = seen[0] if raw is None else raw
    if raw is None:
        return None if "host" in request.unknown else ABSENT
    host = canonical_host(raw)
    if isinstance(host, Ambiguous):
        return host
    return host if isinstance(host, str) and "host" not in request.unknown else None


def ambiguous_headers(request: Request, policy_headers: frozenset[str]) -> dict[str, str]:
    """The headers that policies read and that are given twice, with a comma, or spelt with `_` for `-`."""
    found: dict[str, str] = {}
    seen: set[str] = set()
    spellings = _spellings(policy_headers)
    for raw, value in request.headers:
        name = raw.lower()
        if name not in policy_headers:
            # some applications map both spellings to one name (CGI), so this one would slip past
            for meant in spellings.get(name.replace("_", "-"), ()):
                found[f"headers.{meant}"] = f"header `{meant}` is spelt as policies spell it"
            continue
        if name in seen:
            found[f"headers.{name}"] = f"header `{name}`, which policies read, is given once"
        elif "," in value:
            found[f"headers.{name}"] = f"header `{name}`, which policies read, has one value"
        seen.add(name)
    return found


@functools.lru_cache(maxsize=1024)
def _spellings(policy_headers: frozenset[str]) -> Mapping[str, tuple[str, ...]]:
    """The headers that policies read, by their name with `-` for `_`."""
    found: dict[str, tuple[str, ...]] = {}
    for name in sorted(policy_headers):
        normal = name.replace("_", "-")
        found[normal] = (*found.get(normal, ()), name)
    return found


def holds(when: model.Conditions, facts: Facts) -> Truth:
    """Whether a condition holds: its fields are ANDed, the values of one field ORed."""
    truths: list[Truth] = []
    if when.claims is not None:
        truths.append(claims_hold(when.claims, facts))
    for name, allowed in when.headers or ():
        truths.append(header_holds(name, allowed, facts))
    if when.peer_ip is not None:
        # a connection always has a peer: an address that is not given is unknown, never absent
        truths.append(address_holds(facts.request.peer_ip, "peer_ip", when.peer_ip, facts))
    if when.forwarded_ip is not None:
        if facts.request.forwarded_ip is None and facts.is_parsed and "forwarded_ip" not in facts.request.unknown:
            truths.append(False)
        else:
            truths.append(address_holds(facts.request.forwarded_ip, "forwarded_ip", when.forwarded_ip, facts))
    if when.hours is not None:
        truths.append(hours_hold(when.hours, facts))
    if when.rego is not None and False not in truths:
        # last: it costs a hundred times what the others cost; what nothing evaluates is unknown
        truths.append(None if facts.custom is None else facts.custom(when.rego, facts.request))
    return all_of(*truths)


def claims_hold(condition: model.ClaimsCondition, facts: Facts) -> Truth:
    """Whether a verified token of the issuer has, for EVERY named claim, ANY of its values."""
    unknown = facts.request.unknown
    if not facts.is_parsed or "claims" in unknown:
        return None
    claims = facts.request.claims
    if claims is None:
        return False
    issuer = _claim_holds(claims, "iss", (condition.issuer,), unknown)
    if issuer is False:
        return False  # another issuer's claims are not the claims that were asked for
    return all_of(issuer, *(_claim_holds(claims, name, allowed, unknown) for name, allowed in condition.values))


def _claim_holds(
    claims: Mapping[str, object], name: str, allowed: tuple[model.ClaimValue, ...], unknown: frozenset[str]
) -> Truth:
    """Whether a claim is ANY of the values, or a list with ANY of them; types are never converted."""
    if f"claims.{name}" in unknown:
        return None
    if name not in claims:
        return False
    value = claims[name]
    values = list(value) if isinstance(value, list | tuple) else [value]
    if not all(isinstance(item, str | int) for item in values):
        return None
    return any(type(item) is type(choice) and item == choice for item in values for choice in allowed)


def header_holds(name: str, allowed: tuple[str, ...], facts: Facts) -> Truth:
    """Whether the header's single value is ANY of the values."""
    unknown = facts.request.unknown
    key = f"headers.{name}"
    if not facts.is_parsed or "headers" in unknown or key in facts.ambiguous or _names(unknown, key):
        return None
    value = next((value for raw, value in facts.request.headers if raw.lower() == name), None)
    if value is None:
        return False
    if HEADER_VALUE.fullmatch(value) is None:
        return None
    return value.strip(" \t") in allowed


def _names(unknown: frozenset[str], key: str) -> bool:
    """Whether an attribute is named as unknown, in any case of letters."""
    return bool(unknown) and any(item.lower() == key for item in unknown)


def address_holds(text: str | None, name: str, networks: tuple[model.Network, ...], facts: Facts) -> Truth:
    """Whether an address is in ANY of the ranges; an IPv4 address inside IPv6 is that IPv4 address."""
    if text is None or name in facts.request.unknown:
        return None
    address = address_of(text)
    if address is None:
        return None
    return any(address.version == network.version and address in network for network in networks)


@functools.lru_cache(maxsize=4096)
def address_of(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """An address; an IPv4 address inside IPv6 is that IPv4 address. None for text that is none."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def hours_hold(hours: model.Hours, facts: Facts) -> Truth:
    """Whether the local time of day is in the window."""
    time = facts.request.time
    if time is None or time.tzinfo is None or "time" in facts.request.unknown:
        return None
    zone = _zone(hours.tz)
    return None if zone is None else hours.contains(time.astimezone(zone).time())


@functools.lru_cache(maxsize=256)
def _zone(name: str) -> zoneinfo.ZoneInfo | None:
    """A time zone; None where this machine does not know it, which makes the hour unknown."""
    try:
        return zoneinfo.ZoneInfo(name)
    except (ValueError, OSError, zoneinfo.ZoneInfoNotFoundError):
        return None
