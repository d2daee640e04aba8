"""Names that certificates are ordered for: DNS names, wildcards of one label, and IP addresses (RFC 8738). Pure.

A name has one form: lower case, without a dot at its end; addresses as their library writes them. CAA records speak to
public authorities and are not looked at.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from typing import Any

from mesh.problems import Forbidden, Invalid

MAX_NAMES = 100
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\Z")
Identifier = tuple[str, str]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def dns_name(text: str) -> str:
    """Read a DNS name of letters, digits and hyphens.

    Raises Forbidden LM1406.
    """
    found = text.lower()
    labels = found.split(".")
    if not text.isascii() or len(found) > 253 or not all(_LABEL.match(item) for item in labels):
        raise Forbidden("LM1406", name=text[:100], reason="it is no DNS name of letters, digits and hyphens")
    if labels[-1].isdigit():
        raise Forbidden("LM1406", name=text[:100], reason="it reads as an address: order it as `ip`")
    for item in labels:
        if item[2:4] == "--" and not _is_a_label(item):
            raise Forbidden("LM1406", name=text[:100], reason="a label has hyphens where only `xn--` may have them")
    return found


def _is_a_label(label: str) -> bool:
    if not label.startswith("xn--"):
        return False
    try:
        return label[4:].encode().decode("punycode").encode("punycode").decode() == label[4:]
    except UnicodeError:
        return False


def identifiers(found: Any) -> tuple[Identifier, ...]:  # noqa: ANN401  JSON
    """Read what an order names; each once.

    Raises Invalid LM1400, LM1420; Forbidden LM1406.
    """
    if not isinstance(found, list) or not 1 <= len(found) <= MAX_NAMES:
        raise Invalid("LM1400", reason=f"`identifiers` is a list of 1 to {MAX_NAMES}")
    made: dict[Identifier, None] = {}
    for item in found:
        if not isinstance(item, dict) or not isinstance(item.get("value"), str) or set(item) != {"type", "value"}:
            raise Invalid("LM1400", reason="an identifier has `type` and `value`, both text")
        made[_identifier(str(item["type"]), item["value"])] = None
    return tuple(made)


def _identifier(kind: str, value: str) -> Identifier:
    if kind == "dns":
        if value.startswith("*."):
            rest = dns_name(value[2:])
            if len(rest) > 251 or "." not in rest:
                raise Forbidden("LM1406", name=value[:100], reason="a wildcard stands below a name of two labels")
            return "dns", f"*.{rest}"
        return "dns", dns_name(value)
    if kind == "ip":
        try:
            address = ipaddress.ip_address(value)
        except ValueError as err:
            raise Invalid("LM1400", reason="an `ip` identifier is an address") from err
        if str(address) != value or (isinstance(address, ipaddress.IPv6Address) and address.scope_id):
            raise Invalid("LM1400", reason=f"the address is written `{address}`")
        return "ip", value
    raise Invalid("LM1420", kind=kind[:40])


def check_allowed(found: Sequence[Identifier], names: Sequence[str], networks: Sequence[Network]) -> None:
    """Hold the operator's lists against EVERY name; a name is below a suffix or is it. Two empty lists allow any.

    Raises Forbidden LM1406.
    """
    if not names and not networks:
        return
    for kind, value in found:
        if kind == "ip":
            allowed = any(ipaddress.ip_address(value) in network for network in networks)
        else:
            bare = value.removeprefix("*.")
            allowed = any(bare == suffix or bare.endswith("." + suffix) for suffix in names)
        if not allowed:
            raise Forbidden("LM1406", name=value, reason="the operator's list does not hold it")
