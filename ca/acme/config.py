"""`STATE/acme.yaml`: who may have accounts, for which names, and how names are validated. Safe without the file.

Without it every account needs an external binding, and any name that is proven is issued. Accounts for whoever asks
need a list of names. Validators never reach loopback, link-local, multicast or reserved addresses unless the file
names them. Pure.
"""

from __future__ import annotations

import dataclasses
import ipaddress

from ca.acme.names import dns_name
from mesh import yamlio
from mesh.problems import Invalid, Problem

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_KEYS = (
    "binding",
    "names",
    "networks",
    "addresses",
    "resolver",
    "http_port",
    "tls_port",
    "server_names",
    "days",
    "crl_url",
    "orders_per_hour",
    "certificates_per_day",
    "redirects_to_private",
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What the operator decided. ``names`` are DNS suffixes, ``networks`` those of IP identifiers; empty is any."""

    binding: bool = True
    names: tuple[str, ...] = ()
    networks: tuple[Network, ...] = ()
    addresses: tuple[Network, ...] = ()
    resolver: tuple[str, int] | None = None
    http_port: int = 80
    tls_port: int = 443
    server_names: tuple[str, ...] = ()
    days: int = 90
    crl_url: str = ""
    orders_per_hour: int = 300
    certificates_per_day: int = 50
    redirects_to_private: bool = False

    def may_reach(self, address: Address, *, redirected: bool = False) -> bool:
        """Whether a validator may connect to an address."""
        mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
        address = mapped or address
        if any(address in found for found in self.addresses):
            return True
        if redirected and address.is_private and not self.redirects_to_private:
            return False
        return not (
            address.is_loopback
            or address.is_link_local
            or address.is_multicast
            or address.is_unspecified
            or address.is_reserved
        )


def load_config(text: str, file: str) -> Config:
    """Read the file.

    Raises Invalid LM1418.
    """
    documents, findings = yamlio.compose_documents(text, file)
    if findings:
        raise Invalid("LM1418", file=file, reason=str(findings[0]))
    found = documents[0].plain() if documents else {}
    if not isinstance(found, dict):
        raise Invalid("LM1418", file=file, reason="it is no map")
    try:
        return _read(found)
    except (ValueError, Problem) as err:
        raise Invalid("LM1418", file=file, reason=str(err)) from err


def _read(found: dict[str, object]) -> Config:
    unknown = sorted(set(found) - set(_KEYS))
    if unknown:
        raise ValueError(f"no key is called `{unknown[0]}`")
    binding = found.get("binding", "required")
    if binding not in {"required", "optional"}:
        raise ValueError("`binding` is required or optional")
    names = tuple(dns_name(item) for item in _texts(found, "names"))
    networks = tuple(ipaddress.ip_network(item) for item in _texts(found, "networks"))
    if binding == "optional" and not names and not networks:
        raise ValueError("accounts for whoever asks need `names` or `networks`")
    return Config(
        binding=binding == "required",
        names=names,
        networks=networks,
        addresses=tuple(ipaddress.ip_network(item) for item in _texts(found, "addresses")),
        resolver=_resolver(found.get("resolver")),
        http_port=_number(found, "http_port", 80, 65535),
        tls_port=_number(found, "tls_port", 443, 65535),
        server_names=_texts(found, "server_names"),
        days=_number(found, "days", 90, 397),
        crl_url=_text(found, "crl_url"),
        orders_per_hour=_number(found, "orders_per_hour", 300, 1_000_000),
        certificates_per_day=_number(found, "certificates_per_day", 50, 1_000_000),
        redirects_to_private=_bool(found, "redirects_to_private"),
    )


def _texts(found: dict[str, object], name: str) -> tuple[str, ...]:
    value = found.get(name, [])
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError(f"`{name}` is a list of texts")
    return tuple(value)


def _text(found: dict[str, object], name: str) -> str:
    value = found.get(name, "")
    if not isinstance(value, str) or not value.isascii():
        raise ValueError(f"`{name}` is text")
    return value


def _number(found: dict[str, object], name: str, default: int, most: int) -> int:
    value = found.get(name, default)
    if type(value) is not int or not 1 <= value <= most:
        raise ValueError(f"`{name}` is a number from 1 to {most}")
    return value


def _bool(found: dict[str, object], name: str) -> bool:
    value = found.get(name, False)
    if type(value) is not bool:
        raise ValueError(f"`{name}` is true or false")
    return value


def _resolver(value: object) -> tuple[str, int] | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise ValueError("`resolver` is ADDRESS or ADDRESS:PORT")
    host, port = value, "53"
    if value.startswith("["):
        host, _, port = value[1:].partition("]")
        port = port.removeprefix(":") or "53"
    elif value.count(":") == 1:
        host, _, port = value.partition(":")
    if not port.isascii() or not port.isdigit() or not 1 <= int(port) <= 65535:
        raise ValueError("`resolver` is ADDRESS or ADDRESS:PORT")
    return str(ipaddress.ip_address(host)), int(port)
