"""What a redirected workload may reach besides nothing: a service of the mesh, a DNS name, a network. Pure.

Written as `service:NAME[:PORT]`, `dns:NAME:PORT` (TLS whose server name is NAME; `*.NAME` is every name below it),
`cidr:NETWORK[:PORT]` (TCP) and `udp:NETWORK:PORT`; an IPv6 network stands in brackets. Everything else is denied.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import re
from typing import Literal

from mesh.problems import Invalid

Kind = Literal["service", "dns", "cidr", "udp"]
KINDS: tuple[Kind, ...] = ("service", "dns", "cidr", "udp")
_FORM = re.compile(
    r"(?P<kind>service|dns|cidr|udp):(?P<what>\[[^\]]+\]|[^:\[\]]+)(?::(?P<port>[0-9]{1,5}))?\Z", re.ASCII
)
_SPIFFE = re.compile(r"service:(?P<what>spiffe://[^:]+)(?::(?P<port>[0-9]{1,5}))?\Z", re.ASCII)
_NAME = re.compile(r"(?:\*\.)?(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9])?\.)*[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\Z")
MAX_EXEMPT = 256


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Exempt:
    """One thing that may be reached; ``port`` None is every port."""

    kind: Kind
    what: str
    port: int | None

    @property
    def is_udp(self) -> bool:
        """Whether it is about datagrams, which the kernel alone decides about."""
        return self.kind == "udp"

    def covers_address(self, address: str, port: int) -> bool:
        """Whether a TCP destination is in this network."""
        if self.kind != "cidr" or self.port not in {None, port}:
            return False
        found = ipaddress.ip_address(address)
        network = ipaddress.ip_network(self.what)
        return found.version == network.version and found in network

    def covers_name(self, name: str, port: int) -> bool:
        """Whether a server name that was asked for at a port is this one; upper and lower case are the same."""
        if self.kind != "dns" or self.port != port:
            return False
        asked = name.lower().removesuffix(".")
        if self.what.startswith("*."):
            return asked.endswith(self.what[1:]) and len(asked) > len(self.what) - 1
        return asked == self.what


def parse_exempt(text: str) -> Exempt:
    """Read one.

    Raises Invalid LM3704.
    """
    found = _SPIFFE.match(text) or _FORM.match(text)
    if found is None:
        raise Invalid("LM3704", text=text[:300])
    kind = next(name for name in KINDS if text.startswith(name))
    what, port = found["what"], int(found["port"]) if found["port"] else None
    if port is not None and not 0 < port < 65536:
        raise Invalid("LM3704", text=text[:300])
    if kind in {"dns", "udp"} and port is None:
        raise Invalid("LM3704", text=text[:300])
    if kind in {"cidr", "udp"}:
        try:
            what = str(ipaddress.ip_network(what.strip("[]")))
        except ValueError as err:
            raise Invalid("LM3704", text=text[:300]) from err
    elif kind == "dns":
        what = what.lower()
        if not _NAME.match(what) or len(what) > 253:
            raise Invalid("LM3704", text=text[:300])
    return Exempt(kind=kind, what=what, port=port)


def write_exempt(exempt: Exempt) -> str:
    """The text that `parse_exempt` reads."""
    what = f"[{exempt.what}]" if ":" in exempt.what and exempt.kind != "service" else exempt.what
    return f"{exempt.kind}:{what}" + (f":{exempt.port}" if exempt.port is not None else "")
