"""Circumstances: values of headers, claims, addresses and hours under which conditions hold.

A plan cannot ask about every header there could be; it asks about requests without any, and about requests that meet
each condition that a rule has, alone and two together. Rows found so are true; that they are all is not claimed.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import ipaddress
import itertools
import zoneinfo
from collections.abc import Iterable, Mapping
from typing import TypeVar

from policyengine.model import ClaimValue, Conditions, Hours

T = TypeVar("T", str, ClaimValue)
MAX_CIRCUMSTANCES = 64
_OUTSIDE = ("192.0.2.1", "198.51.100.1", "203.0.113.1", "100.64.0.1", "10.255.255.254", "2001:db8::1")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Circumstance:
    """What a request brings beside caller and operation; None is nothing."""

    headers: tuple[tuple[str, str], ...] = ()
    claims: tuple[tuple[str, ClaimValue], ...] | None = None
    peer_ip: str | None = None
    forwarded_ip: str | None = None
    hours: Hours | None = None

    def to_json(self) -> dict[str, object]:
        """The circumstance as `when` would say it."""
        out: dict[str, object] = {}
        if self.headers:
            out["headers"] = {name: [value] for name, value in self.headers}
        if self.claims is not None:
            out["claims"] = {("issuer" if name == "iss" else name): value for name, value in self.claims}
        if self.peer_ip is not None:
            out["peer_ip"] = [self.peer_ip]
        if self.forwarded_ip is not None:
            out["forwarded_ip"] = [self.forwarded_ip]
        if self.hours is not None:
            start, end = self.hours.start.isoformat("minutes"), self.hours.end.isoformat("minutes")
            out["hours"] = {"tz": self.hours.tz, "from": start, "to": end}
        return out


PLAIN = Circumstance()


def circumstances_of(conditions: Iterable[Conditions]) -> tuple[Circumstance, ...]:
    """Nothing, what meets each condition, what is just outside its hours, and two of them together."""
    single: dict[Circumstance, None] = {}
    for condition in dict.fromkeys(conditions):
        met = _meeting(condition)
        single[met] = None
        if met.hours is not None:
            other = dataclasses.replace(met.hours, start=met.hours.end, end=met.hours.start)
            single[dataclasses.replace(met, hours=other)] = None
    found = dict.fromkeys((PLAIN, *single))
    for one, other_one in itertools.combinations(single, 2):
        if len(found) >= MAX_CIRCUMSTANCES:
            break
        both = _together(one, other_one)
        if both is not None:
            found[both] = None
    return tuple(found)[:MAX_CIRCUMSTANCES]


def includes(larger: Circumstance, smaller: Circumstance) -> bool:
    """Whether one circumstance brings everything that the other brings."""
    return _together(larger, smaller) == larger


def moment_for(circumstance: Circumstance, time: dt.datetime) -> dt.datetime:
    """A moment from the given one on that is inside the circumstance's hours."""
    hours = circumstance.hours
    if hours is None:
        return time
    try:
        zone = zoneinfo.ZoneInfo(hours.tz)
    except (ValueError, OSError, zoneinfo.ZoneInfoNotFoundError):
        return time
    local = time.astimezone(zone)
    if hours.contains(local.time()):
        return time
    start = local.replace(hour=hours.start.hour, minute=hours.start.minute, second=hours.start.second, microsecond=0)
    if start < local:
        start += dt.timedelta(days=1)
    return start.astimezone(dt.UTC)


def peer_outside(conditions: Iterable[Conditions]) -> str | None:
    """An address that no condition names; None, thus unknown, if they name all that are tried."""
    networks = [network for found in conditions for network in found.peer_ip or ()]
    for text in _OUTSIDE:
        address = ipaddress.ip_address(text)
        if not any(address.version == network.version and address in network for network in networks):
            return text
    return None


def _meeting(condition: Conditions) -> Circumstance:
    """The first of the values that a condition names, in each field."""
    claims: tuple[tuple[str, ClaimValue], ...] | None = None
    if condition.claims is not None:
        values = ((name, allowed[0]) for name, allowed in condition.claims.values)
        claims = tuple(sorted([("iss", condition.claims.issuer), *values]))
    return Circumstance(
        headers=tuple(sorted((name, allowed[0]) for name, allowed in condition.headers or ())),
        claims=claims,
        peer_ip=str(condition.peer_ip[0].network_address) if condition.peer_ip else None,
        forwarded_ip=str(condition.forwarded_ip[0].network_address) if condition.forwarded_ip else None,
        hours=condition.hours,
    )


def _together(one: Circumstance, other: Circumstance) -> Circumstance | None:
    """Both at once, None when they contradict each other."""
    headers = _merged(dict(one.headers), dict(other.headers))
    claims = _merged(dict(one.claims or ()), dict(other.claims or ()))
    peer = _one_of(one.peer_ip, other.peer_ip)
    forwarded = _one_of(one.forwarded_ip, other.forwarded_ip)
    if headers is None or claims is None or peer is None or forwarded is None:
        return None
    if one.hours is not None and other.hours is not None and one.hours != other.hours:
        return None
    has_claims = one.claims is not None or other.claims is not None
    return Circumstance(
        headers=tuple(sorted(headers.items())),
        claims=tuple(sorted(claims.items())) if has_claims else None,
        peer_ip=peer or None,
        forwarded_ip=forwarded or None,
        hours=one.hours or other.hours,
    )


def _merged(one: Mapping[str, T], other: Mapping[str, T]) -> dict[str, T] | None:
    if any(other.get(name, value) != value for name, value in one.items()):
        return None
    return {**one, **other}


def _one_of(one: str | None, other: str | None) -> str | None:
    """The address of either; empty for none, None for two that differ."""
    if one is not None and other is not None and one != other:
        return None
    return one or other or ""
