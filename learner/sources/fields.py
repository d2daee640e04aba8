"""Strict readings of the values that sources hold: addresses, ports, moments, numbers as text or as JSON.

Every function raises ValueError with a sentence that names the field. They do no I/O.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import Mapping
from typing import Any

from learner.attribution import normal_ip
from mesh.clock import parse_time
from mesh.spiffe import SpiffeId, SpiffeIdError

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_LATEST_S = 253_402_300_799
MAX_TEXT = 4096


def ip(name: str, value: object) -> str:
    """An IP address in its one spelling, a zone left out."""
    if not isinstance(value, str):
        raise ValueError(f"`{name}` is an IP address")
    try:
        return normal_ip(str(ipaddress.ip_address(value.partition("%")[0])))
    except ValueError as err:
        raise ValueError(f"`{name}` is an IP address: {value[:60]}") from err


def number(name: str, value: object, low: int = 0, high: int = 2**63) -> int:
    """A whole number, as JSON or as decimal text."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 20:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"`{name}` is a whole number from {low} to {high}: {str(value)[:60]}")
    return value


def port(name: str, value: object) -> int:
    """A port."""
    return number(name, value, 0, 65535)


def text(row: Mapping[str, Any], name: str) -> str | None:
    """A text, or None where it is absent, null, empty or `-`."""
    value = row.get(name)
    if value is None or value in {"", "-"}:
        return None
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        raise ValueError(f"`{name}` is text of at most {MAX_TEXT} characters")
    return value


def mapping(row: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """An object, empty where it is absent."""
    value = row.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError(f"`{name}` is an object")
    return value


def items(row: Mapping[str, Any], name: str) -> list[Any]:
    """A list, empty where it is absent."""
    value = row.get(name)
    if value is None:
        return []
    if not isinstance(value, list):
        raise ValueError(f"`{name}` is a list")
    return value


def seconds(name: str, value: object) -> dt.datetime:
    """A moment from seconds since 1970, whole or not, as JSON or as text."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError as err:
            raise ValueError(f"`{name}` is seconds since 1970: {str(value)[:60]}") from err
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _LATEST_S:
        raise ValueError(f"`{name}` is seconds since 1970: {str(value)[:60]}")
    return _EPOCH + dt.timedelta(microseconds=round(value * 1_000_000))


def nanoseconds(name: str, value: object) -> dt.datetime:
    """A moment from nanoseconds since 1970."""
    return _EPOCH + dt.timedelta(microseconds=number(name, value, 0, _LATEST_S * 1_000_000_000) // 1000)


def milliseconds(name: str, value: object) -> dt.datetime:
    """A moment from milliseconds since 1970."""
    return _EPOCH + dt.timedelta(milliseconds=number(name, value, 0, _LATEST_S * 1000))


def moment(name: str, value: object) -> dt.datetime:
    """A moment from RFC 3339 text; an offset without a colon, as Suricata writes it, is one."""
    if not isinstance(value, str):
        raise ValueError(f"`{name}` is a moment (RFC 3339)")
    if len(value) > 5 and value[-5] in "+-" and value[-4:].isdigit():
        value = f"{value[:-2]}:{value[-2:]}"
    try:
        return parse_time(value)
    except ValueError as err:
        raise ValueError(f"`{name}`: {err}") from err


def spiffe_id(value: object) -> str | None:
    """A SPIFFE ID, or None where the value is none: certificates hold other names too."""
    if not isinstance(value, str):
        return None
    try:
        return str(SpiffeId.parse(value))
    except SpiffeIdError:
        return None


def socket(name: str, value: str | None) -> tuple[str, int | None] | None:
    """An address with a port, `1.2.3.4:80` or `[::1]:80`; None where there is none or it is no IP socket."""
    if not value or value == "-":
        return None
    host, colon, last = value.rpartition(":")
    if not colon or not last.isdigit():
        host, last = value, ""
    host = host.removeprefix("[").removesuffix("]")
    try:
        found = ip(name, host)
    except ValueError:
        return None
    return found, port(name, last) if last else None
